"""A corpus coded small and made again."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_material import RATE, tone

from moises_light.config import SOURCES
from moises_light.training import pack
from moises_light.training.corpus import BACKING, Corpus, read_licences, write_licences, write_track
from moises_light.training.mixing import MixtureDataset


def chord(*pitches: float, seconds: float) -> np.ndarray:
    return sum((tone(p, seconds, level=0.2) for p in pitches), np.zeros((2, 1), np.float32))


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """A band of five seconds without drums, and a backing of two."""
    stems = {s: chord(110 * 2**k, seconds=5.0) for k, s in enumerate(SOURCES) if s != "drums"}
    folder = tmp_path / "corpus"
    write_track(
        *(folder, "train", "band-0000", "band", stems),
        present=SOURCES,
        material=["somebody"],
        tags=["lead", "funk"],
        limits={"vocals": 9500.0},
    )
    music = {BACKING: chord(220, 330, seconds=2.0)}
    write_track(folder, "train", "theme", "backing", music, bandwidth=9000.0)
    write_licences(folder, {("somebody", "tests", "A. Tester", "CC0-1.0")})
    return Corpus(folder)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_packed_corpus_comes_back(tmp_path: Path, corpus: Corpus, jobs: int) -> None:
    (part,) = pack.pack(corpus, tmp_path / "packs", 1.0, parts=3, seconds=2.0, jobs=jobs)
    assert part.stat().st_size < 2**20
    again = tmp_path / "again"
    assert pack.unpack(tmp_path / "packs", again, jobs) == 3
    tracks = {track.name: track for track in Corpus(again).tracks}
    # five seconds are one piece of two and one of three, since the last second is too short
    assert {name: t.frames / RATE for name, t in tracks.items()} == {
        "band-0000-0": 2.0,
        "band-0000-88200": 3.0,
        "theme-0": 2.0,
    }
    before = {track.name: track for track in corpus.tracks}
    for name, start in (("band-0000", 0), ("band-0000", 2), ("theme", 0)):
        old, new = before[name], tracks[f"{name}-{start * RATE}"]
        assert (new.kind, new.rows, new.present) == (old.kind, old.rows, old.present)
        assert (new.material, new.tags) == (old.material, old.tags)
        assert (new.bandwidth, new.limits) == (old.bandwidth, old.limits)
        for row in old.rows:
            was = corpus.read(old, row, start * RATE, new.frames)
            now = Corpus(again).read(new, row, 0, new.frames)
            error = np.square(now - was).mean() / np.square(was).mean()
            assert 10 * np.log10(error) < -15  # coded, and in its place to the sample
    assert read_licences(again) == read_licences(corpus.folder.parent)
    # what is there already is not made again
    assert pack.unpack(tmp_path / "packs", again, jobs) == 0
    MixtureDataset(again, segment_length=RATE).draw(0)


def test_parts_are_no_larger_than_asked_and_share_no_piece(tmp_path: Path, corpus: Corpus) -> None:
    size = 60_000 / 2**20
    parts = pack.pack(corpus, tmp_path / "packs", size, parts=9, seconds=1.0)
    assert len(parts) > 1
    assert all(part.stat().st_size <= 60_000 for part in parts)
    assert pack.unpack(tmp_path / "packs", tmp_path / "again") == 7
    fewer = pack.pack(corpus, tmp_path / "fewer", size, parts=1, seconds=1.0)
    assert len(fewer) == 1


def test_pieces_shorter_than_a_second_have_names_of_their_own(
    tmp_path: Path, corpus: Corpus
) -> None:
    pack.pack(corpus, tmp_path / "packs", 1.0, parts=1, seconds=0.4)
    # twelve of the band's five seconds and five of the other's two
    assert pack.unpack(tmp_path / "packs", tmp_path / "again") == 17
    tracks = {track.name: track for track in Corpus(tmp_path / "again").tracks}
    assert len(tracks) == 17
    frames = [t.frames for name, t in tracks.items() if name.startswith("band-0000-")]
    assert sum(frames) == 5 * RATE


def fail_or_note(corpus: Path, name: str, about: dict[str, Any], coded: dict[str, bytes]) -> int:
    """In place of a piece: the first fails, each other leaves a file."""
    if name.endswith("-0"):
        raise ValueError("no such piece")
    time.sleep(0.2)
    (corpus / name).touch()
    return 1


def test_a_piece_that_fails_ends_the_unpacking_soon(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {"licences.json": b"[]"}
    about = json.dumps({"frames": 1, "kind": "band", "rows": []}).encode()
    members |= {f"{name}/track.json": about for name in ["a-0", *(f"b-{k}" for k in range(1, 40))]}
    (tmp_path / "packs").mkdir()
    with tarfile.open(tmp_path / "packs" / "part-0.tar", "w") as archive:
        for name, content in members.items():
            pack._add(archive, name, content)
    monkeypatch.setattr(pack, "_write", fail_or_note)
    with pytest.raises(ValueError, match="no such piece"):
        pack.unpack(tmp_path / "packs", tmp_path / "again", jobs=2)
    assert len(list((tmp_path / "again").glob("b-*"))) < 15


def test_a_machine_that_only_trains_needs_little() -> None:
    script = """
import sys
for name in ("av", "gradio", "fluidsynth", "pyworld"):
    sys.modules[name] = None
import moises_light.training.cli, moises_light.training.loop, moises_light.training.pack
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_damaged_part_is_named(tmp_path: Path, corpus: Corpus) -> None:
    packs = tmp_path / "packs"
    (part,) = pack.pack(corpus, packs, 1.0, parts=1, seconds=2.0)
    whole = part.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        boundary = archive.getmembers()[-1].offset  # cut here, it is a sound archive of less
    for damaged in (whole[: len(whole) // 2], whole[:boundary], b"no archive" * 100):
        part.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"part-0\.tar is damaged, or no part of a corpus"):
            pack.unpack(packs, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_parts_appear_when_complete_and_replace_those_before(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs, size = tmp_path / "packs", 60_000 / 2**20
    before = pack.pack(corpus, packs, size, parts=9, seconds=1.0)
    notes = packs / "part-notes.tar"
    notes.touch()
    contents = [path.read_bytes() for path in before]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pack, "_add", stop)
        with pytest.raises(KeyboardInterrupt):
            pack.pack(corpus, packs, size, parts=1, seconds=1.0)
    assert [path.read_bytes() for path in before] == contents
    assert pack.pack(corpus, packs, size, parts=1, seconds=1.0) == before[:1]
    assert sorted(packs.iterdir()) == [before[0], notes]


def test_what_cannot_be_packed_or_unpacked_is_told(tmp_path: Path, corpus: Corpus) -> None:
    with pytest.raises(ValueError, match="hold not one piece of 30 s"):
        pack.main([str(corpus.folder.parent), str(tmp_path / "packs"), "--mebibytes", "0.02"])
    for seconds in ("0", "nan", "inf"):
        with pytest.raises(ValueError, match=r"pieces of \w+ s; choose more than 0 seconds"):
            pack.main([str(corpus.folder.parent), str(tmp_path / "packs"), "--seconds", seconds])
    for size in ("-1", "nan", "inf"):
        with pytest.raises(ValueError, match=r"parts of -?\w+ MiB; choose more than 0 MiB"):
            pack.main([str(corpus.folder.parent), str(tmp_path / "packs"), f"--mebibytes={size}"])
    with pytest.raises(ValueError, match=r"holds no part-\*\.tar"):
        pack.main(["--unpack", str(tmp_path), str(tmp_path / "again")])
