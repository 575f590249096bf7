"""The page without a browser: a song's folder, the run, pictures, files to take away, links."""

import errno
import json
import os
import re
import shutil
import threading
import time
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gradio")
pytest.importorskip("plotly")

import gradio as gr

from moises_light import audio, weights
from moises_light.config import SOURCES, configs
from moises_light.model import MoisesLight
from moises_light.ui import engine as engines
from moises_light.ui import export, handlers, jobs, player, plots, share, theme, words
from moises_light.ui.demo import _quote, build_demo
from moises_light.ui.engine import Engine
from moises_light.ui.handlers import PREVIEW, WHOLE, Studio
from moises_light.ui.jobs import SAMPLE_RATE

SECONDS = 3.0


def tones(seconds: float = SECONDS) -> torch.Tensor:
    """Four stems `[S, C, L]` that differ in pitch, level and side."""
    t = torch.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = torch.tensor([440.0, 5000.0, 80.0, 1500.0])
    level = torch.tensor([0.3, 0.1, 0.4, 0.2])
    mono = level[:, None] * torch.sin(2 * torch.pi * pitch[:, None] * t)
    return torch.stack([mono, 0.5 * mono], dim=1)


def new_take(song: jobs.Song, slot: str = "a", preset: str = "paper_small") -> jobs.Take:
    return jobs.Take(
        slot=slot,
        preset=preset,
        device="cpu",
        sources=SOURCES,
        start=0,
        frames=song.frames,
        cutoff=configs[preset].cutoff,
    )


def split(stems: torch.Tensor, frames: int = 40_000) -> list[torch.Tensor]:
    return list(stems.split(frames, dim=-1))


@pytest.fixture
def song(tmp_path: Path) -> jobs.Song:
    path = tmp_path / "take one #3.wav"
    audio.save(path, tones().sum(0), SAMPLE_RATE, "wav32f")
    return jobs.prepare(path, tmp_path / "songs")


def separated(song: jobs.Song, slot: str = "a", preset: str = "paper_small") -> jobs.Take:
    *_, take = jobs.separate(song, new_take(song, slot, preset), split(tones(song.seconds)))
    return take


# --------------------------------------------------------------------------- a song's folder


def test_a_song_is_decoded_once_and_known_by_its_numbers(song: jobs.Song) -> None:
    mixture = tones().sum(0)
    assert song.name == "take one #3"
    assert song.seconds == pytest.approx(SECONDS)
    assert song.peak == pytest.approx(float(mixture.abs().max()), abs=1e-6)
    assert song.rms == pytest.approx(float(mixture.square().mean().sqrt()), rel=1e-4)
    kept = torch.cat([block[0] for block in jobs.read(song, "mixture")], dim=-1)
    torch.testing.assert_close(kept, mixture, rtol=0, atol=0)


def test_what_is_no_audio_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp3"
    path.write_text("not music at all" * 100)
    with pytest.raises(audio.AudioError):
        jobs.prepare(path, tmp_path / "songs")
    assert not list((tmp_path / "songs").glob("*/*"))


def test_a_song_that_is_too_long_is_refused_by_its_audio_not_its_header(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    audio.save(path, torch.zeros(2, 3 * SAMPLE_RATE), SAMPLE_RATE)
    with pytest.raises(audio.AudioError):
        jobs.prepare(path, tmp_path / "songs", max_seconds=2)
    assert not list((tmp_path / "songs").glob("*"))


@pytest.mark.parametrize("token", [None, "", "..", "../../etc/passwd", "a" * 21, "a" * 23, 7])
def test_only_a_token_opens_a_folder(tmp_path: Path, token: object) -> None:
    assert jobs.load_song(tmp_path, token) is None  # type: ignore[arg-type]


# --------------------------------------------------------------------------- the run


def test_stems_can_be_read_while_the_rest_is_still_being_worked_on(song: jobs.Song) -> None:
    blocks = split(tones())
    run = jobs.separate(song, new_take(song), iter(blocks))
    assert next(run).ready == 0
    now = next(run)
    assert now.ready == blocks[0].shape[-1]
    assert now.state == "running"
    assert jobs.load_take(song, "a") is None, "a take is on record once it has ended"
    there = np.array(jobs.samples(song, now.name, 4))
    np.testing.assert_array_equal(there, blocks[0].permute(2, 0, 1).numpy())
    *_, last = run
    assert (last.state, last.ready, last.done) == ("finished", song.frames, 1.0)
    assert jobs.load_take(song, "a") == last


def test_files_hold_what_the_stems_were(song: jobs.Song) -> None:
    take = separated(song)
    kept = torch.cat(list(jobs.read(song, take.name, 0, None, 4)), dim=-1)
    torch.testing.assert_close(kept, tones(), rtol=0, atol=0)
    playback = np.fromfile(song.folder / f"{take.name}.pcm", "<i2").reshape(-1, 8)
    expected = tones().permute(2, 0, 1).reshape(-1, 8).numpy()
    # half a step of 16 bits at a headroom of 6 dB
    played = playback * jobs.HEADROOM / 32768
    np.testing.assert_allclose(played, expected, atol=jobs.HEADROOM / 32768 / 2 + 1e-7)
    peaks = np.fromfile(song.folder / f"{take.name}.peaks", np.uint8).reshape(-1, 4)
    assert len(peaks) == int(SECONDS * jobs.PEAKS_PER_SECOND)
    loudest = (peaks.max(0) / 255.0) ** 2 * jobs.HEADROOM
    np.testing.assert_allclose(loudest, [0.3, 0.1, 0.4, 0.2], rtol=0.02)
    np.testing.assert_allclose(take.peak, [0.3, 0.1, 0.4, 0.2], rtol=1e-3)


def test_stems_louder_than_full_scale_are_kept_whole(song: jobs.Song) -> None:
    loud = 4 * tones()
    *_, take = jobs.separate(song, new_take(song), split(loud))
    assert max(take.peak) > 1.5
    kept = torch.cat(list(jobs.read(song, take.name, 0, None, 4)), dim=-1)
    torch.testing.assert_close(kept, loud, rtol=0, atol=0)


def test_the_gram_matrix_tells_the_energy_of_any_mix(song: jobs.Song) -> None:
    take = separated(song)
    gains = torch.tensor([0.5, 0.0, 1.2, 1.0], dtype=torch.float64)
    energy = gains @ torch.tensor(take.gram, dtype=torch.float64) @ gains
    mix = torch.einsum("s, s c n -> c n", gains, tones().double())
    assert float(energy) == pytest.approx(float(mix.square().sum()), rel=1e-6)


def test_stop_keeps_what_is_there(song: jobs.Song) -> None:
    blocks, stopped = split(tones()), []
    run = jobs.separate(song, new_take(song), iter(blocks), lambda: bool(stopped))
    next(run), next(run)
    stopped.append(True)
    (last,) = run
    assert (last.state, last.ready) == ("stopped", blocks[0].shape[-1])
    assert jobs.load_take(song, "a") == last
    assert "kept" in words.ended(last, SAMPLE_RATE)


def test_stop_before_the_first_block_leaves_no_take(song: jobs.Song) -> None:
    *_, last = jobs.separate(song, new_take(song), split(tones()), lambda: True)
    assert (last.state, last.ready) == ("stopped", 0)
    assert jobs.load_takes(song) == []


def test_a_listener_who_leaves_frees_the_network(song: jobs.Song) -> None:
    closed = []

    def blocks():
        try:
            yield from split(tones())
        finally:
            closed.append(True)

    run = jobs.separate(song, new_take(song), blocks())
    next(run), next(run)
    run.close()
    assert closed == [True]
    take = jobs.load_take(song, "a")
    assert take is not None
    assert take.state == "stopped"


def test_a_network_that_fails_keeps_what_was_finished(song: jobs.Song) -> None:
    def blocks():
        yield split(tones())[0]
        raise ValueError("the model gave numbers that are not finite")

    with pytest.raises(ValueError, match="not finite"):
        list(jobs.separate(song, new_take(song), blocks()))
    take = jobs.load_take(song, "a")
    assert take is not None
    assert take.ready == 40_000


def stopped(song: jobs.Song, blocks: list[torch.Tensor]) -> None:
    """Separate the song as far as the first of these blocks."""
    stop: list[bool] = []
    run = jobs.separate(song, new_take(song), blocks, lambda: bool(stop))
    next(run), next(run)
    stop.append(True)
    list(run)


def test_a_stopped_take_goes_on_as_if_it_had_not_been(song: jobs.Song) -> None:
    blocks = split(tones(), 33_333)  # no whole number of peaks
    whole = separated(song)
    expected = {kind: (song.folder / f"{whole.name}.{kind}").read_bytes() for kind in jobs.KINDS}
    stopped(song, blocks)
    copy = jobs.fork(song, "a")
    part = jobs.unfinished(song, new_take(song))
    assert part is not None
    assert (part.state, part.ready) == ("running", 33_333)
    copied = copy.folder / f"{part.name}.f32"
    kept = copied.read_bytes()
    # what was written after it was last heard of is written again
    with (song.folder / f"{part.name}.pcm").open("ab") as file:
        file.write(b"more")
    first, *_, last = jobs.separate(song, part, iter(blocks[1:]))
    assert first == part
    assert (last.state, last.ready, last.serial) == ("finished", song.frames, part.serial)
    assert last.work > part.work
    found = {kind: (song.folder / f"{last.name}.{kind}").read_bytes() for kind in jobs.KINDS}
    assert found == expected
    assert last.peak == whole.peak
    np.testing.assert_allclose(last.gram, whole.gram, rtol=1e-9, atol=1e-6)
    assert copied.read_bytes() == kept, "what others have opened does not grow"
    assert last.ready != part.ready, "what was made of the part is not taken for the whole"


def test_a_new_take_has_other_files_than_the_one_before(song: jobs.Song) -> None:
    """A second page that plays the earlier one must not get the new one's samples for it."""
    before = separated(song)
    run = jobs.separate(song, new_take(song), split(-tones()))
    assert next(run).name != before.name
    assert next(run).ready
    assert jobs.load_take(song, "a") is None
    assert (song.folder / f"{before.name}.pcm").is_file(), "a page may just be fetching it"
    next(run)
    assert not (song.folder / f"{before.name}.pcm").exists()
    *_, after = run
    assert not list(song.folder.glob(f"{before.name}.*"))
    assert all((song.folder / f"{after.name}.{kind}").is_file() for kind in jobs.KINDS)
    served = player.payload(song, [after])
    assert served is not None
    assert served["takes"][0]["url"].endswith(f"{after.name}.pcm")


def test_only_what_was_stopped_goes_on_and_only_as_it_was_asked_for(song: jobs.Song) -> None:
    assert jobs.unfinished(song, new_take(song)) is None
    separated(song)
    assert jobs.unfinished(song, new_take(song)) is None, "it is whole"
    stopped(song, split(tones()))
    wanted = new_take(song)
    there = jobs.unfinished(song, wanted)
    assert there is not None
    for change in ({"preset": "paper_large"}, {"start": 1}, {"frames": 9}, {"residual": True}):
        assert jobs.unfinished(song, replace(wanted, **change)) is None  # type: ignore[arg-type]
    assert jobs.unfinished(song, replace(wanted, slot="b")) is None
    os.truncate(song.folder / f"{there.name}.f32", 1000)
    assert jobs.unfinished(song, wanted) is None, "some of it is lost"


# --------------------------------------------------------------------------- the line


def test_the_line_keeps_the_order_of_arrival() -> None:
    line = jobs.Turnstile()
    first, second, third = line.enter(), line.enter(), line.enter()
    assert [line.place(t) for t in (first, second, third)] == [0, 1, 2]
    line.leave(second)
    assert line.place(third) == 1
    line.leave(first)
    assert line.place(third) == 0


def test_a_full_line_says_so() -> None:
    line = jobs.Turnstile(limit=2)
    for _ in range(3):
        line.enter()
    with pytest.raises(jobs.Full, match="2 songs are waiting"):
        line.enter()


def test_who_left_the_line_loses_the_place_and_who_works_keeps_it() -> None:
    line = jobs.Turnstile(patience=0.05)
    working, absent, waiting = line.enter(), line.enter(), line.enter()
    time.sleep(0.1)
    assert line.place(waiting) == 1
    with pytest.raises(jobs.Full, match="lost its place"):
        line.place(absent)
    assert line.place(working) == 0


# --------------------------------------------------------------------------- housekeeping


def test_the_sweeper_takes_what_nobody_touches(tmp_path: Path, song: jobs.Song) -> None:
    root = song.folder.parent
    later = time.time() + 1000
    assert jobs.sweep(root, max_age=2000, now=later) == 0
    os.utime(song.folder / "song.json", (later, later))
    assert jobs.sweep(root, max_age=500, now=later) == 0, "a touched song stays whole"
    assert jobs.sweep(root, max_age=500, now=later + 501) == 1
    assert not song.folder.exists()


def test_where_the_disk_is_full_what_can_be_written_again_goes_first(
    song: jobs.Song, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the songs of those who listen, since one visitor takes much away."""
    root = song.folder.parent
    exports = song.folder / "exports" / "a-1-wav16"
    exports.mkdir(parents=True)
    (exports / "x.wav").write_bytes(b"x")
    mark = root / ("a" * 64)  # of an upload, which it helps to find and delete
    mark.touch()
    os.utime(mark, (time.time() - 3600,) * 2)
    unseen, opened = root / ("1" * 32), root / ("2" * 32)
    now = time.time()
    for folder, age in ((unseen, 3000), (opened, 300)):
        folder.mkdir()
        os.utime(folder, (now - age, now - age))
    for path in [*song.folder.rglob("*"), song.folder]:
        os.utime(path, (now - 90, now - 90))
    free = iter(())

    class Disk:
        def __init__(self) -> None:
            self.free = next(free, 100)

    monkeypatch.setattr(jobs.shutil, "disk_usage", lambda folder: Disk())
    free = iter([0])  # too little, until the first thing is gone
    assert jobs.sweep(root, 7200, keep_free=50) == 0
    assert not exports.exists()
    assert jobs.last_touched(song.folder) < now - 60, "that was nobody's touch"
    assert unseen.exists()
    free = iter([0])
    assert jobs.sweep(root, 7200, keep_free=50) == 1
    assert (unseen.exists(), opened.exists()) == (False, True)
    free = iter([0])
    assert jobs.sweep(root, 7200, keep_free=50) == 1
    assert (opened.exists(), song.folder.exists()) == (False, True), "then the oldest"
    assert mark.exists()


def test_a_copy_is_its_own(song: jobs.Song) -> None:
    separated(song)
    copy = jobs.fork(replace(song, origin="link"), "a")
    assert copy.token != song.token
    jobs.forget(copy, "a")
    assert jobs.load_take(song, "a") is not None
    assert jobs.load_song(song.folder.parent, copy.token) == copy


# --------------------------------------------------------------------------- files to take away


@pytest.mark.parametrize("format", sorted(audio.FORMATS))
def test_a_stem_comes_back_from_its_file(song: jobs.Song, format: str) -> None:
    take = separated(song)
    made = export.write(song, take, "drums", format)
    assert made.path.name == f"take one _3-drums-paper_small.{audio.FORMATS[format]}"
    assert made.gain == 1.0
    read = audio.load(made.path)
    error = (read[:, : song.frames] - tones()[1]).abs().max()
    # lossy formats may be off by what they leave out of a pure tone
    assert error < {"mp3": 0.03, "wav32f": 1e-7, "wav24": 1e-6, "flac24": 1e-6}.get(format, 4e-5)


def test_stems_that_would_clip_share_one_gain_and_float_keeps_the_level(song: jobs.Song) -> None:
    *_, take = jobs.separate(song, new_take(song), split(5 * tones()))
    gains = {export.write(song, take, name, "wav16").gain for name in SOURCES}
    assert gains == {1 / max(take.peak)}
    assert "Turned down by" in words.turned_down(gains.pop())
    made = export.write(song, take, "bass", "wav32f")
    assert made.gain == 1.0
    assert float(audio.load(made.path).abs().max()) == pytest.approx(2.0, rel=1e-3)


def test_the_zip_holds_all_stems_and_they_add_up(song: jobs.Song, tmp_path: Path) -> None:
    take = separated(song)
    made = export.write(song, take, "all", "wav24")
    assert made.path.name == "take one _3-stems-paper_small.zip"
    with zipfile.ZipFile(made.path) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    assert [f.name.split("-")[1] for f in files] == sorted(SOURCES)
    total = torch.stack([audio.load(f) for f in files]).sum(0)
    torch.testing.assert_close(total, tones().sum(0), rtol=0, atol=1e-6)


def test_two_may_want_the_same_zip_at_once(
    song: jobs.Song, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = separated(song)
    others: list[export.Export] = []

    class Slow(zipfile.ZipFile):
        def close(self) -> None:
            if self.mode == "w" and not others:  # the other one comes and goes meanwhile
                others.append(export.Export(song.folder, 1.0))
                others.append(export.write(song, take, "all", "flac"))
            super().close()

    monkeypatch.setattr(export.zipfile, "ZipFile", Slow)
    made = export.write(song, take, "all", "flac")
    assert others[-1].path == made.path
    with zipfile.ZipFile(made.path) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == len(SOURCES)
    assert not list(made.path.parent.glob("*.draft"))


def test_karaoke_and_drumless_are_the_song_without_a_stem(song: jobs.Song) -> None:
    take = separated(song)
    for what, gone in (("karaoke", 0), ("drumless", 1)):
        read = audio.load(export.write(song, take, what, "wav32f").path)
        torch.testing.assert_close(read, tones().sum(0) - tones()[gone], rtol=0, atol=1e-6)


def test_your_mix_follows_the_faders(song: jobs.Song) -> None:
    take = separated(song)
    faders = {"vocals": 0.0, "drums": 2.0, "bass": 0.5, "other": 1}
    read = audio.load(export.write(song, take, "mix", "wav32f", faders).path)
    expected = torch.einsum("s, s c n -> c n", torch.tensor([0.0, 2.0, 0.5, 1.0]), tones())
    torch.testing.assert_close(read, expected, rtol=0, atol=1e-6)


def test_a_mix_is_written_once_and_old_ones_make_way(
    song: jobs.Song, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = separated(song)
    write = partial(export.write, song, take, "mix", "flac")
    first = write({"vocals": 0.5}).path
    assert write({"vocals": 0.5, "bass": 1.0}).path == first, "as the faders were before"
    assert export.write(song, take, "mix", "wav16", {"vocals": 0.5}).path != first
    stem = export.write(song, take, "vocals", "flac").path
    for tenths in range(10):
        assert write({"vocals": tenths / 10}).path.is_file()
        assert first.is_file(), "somebody may be fetching it"
    monkeypatch.setattr(jobs, "IN_USE", -1.0)
    write({"vocals": 0.0})
    assert len(list((song.folder / "exports").rglob("*-mix-*"))) == export.KEEP_MIXES
    assert stem.is_file()


def test_a_loop_can_be_taken_away_alone(song: jobs.Song, monkeypatch: pytest.MonkeyPatch) -> None:
    take = separated(song)
    part = export.loop_of(take, [0.5, 0.75])
    assert part == export.Part(22050, 11025)
    inside = slice(part.first, part.first + part.frames)
    made = export.write(song, take, "bass", "wav32f", part=part)
    assert "-bass-from-0.50s-" in made.path.name
    bass = tones()[SOURCES.index("bass")]
    torch.testing.assert_close(audio.load(made.path), bass[:, inside], rtol=0, atol=1e-6)
    whole = export.write(song, take, "bass", "wav32f")
    torch.testing.assert_close(audio.load(whole.path), bass, rtol=0, atol=1e-6)
    karaoke = audio.load(export.write(song, take, "karaoke", "wav32f", part=part).path)
    rest = audio.load(export.write(song, take, "karaoke", "wav32f").path)
    torch.testing.assert_close(karaoke, rest[:, inside], rtol=0, atol=1e-6)
    faders = {"vocals": 0.5}
    mix = audio.load(export.write(song, take, "mix", "wav32f", faders, part).path)
    both = audio.load(export.write(song, take, "mix", "wav32f", faders).path)
    torch.testing.assert_close(mix, both[:, inside], rtol=0, atol=1e-6)
    with zipfile.ZipFile(export.write(song, take, "all", "wav16", part=part).path) as archive:
        assert len(archive.namelist()) == 4
        assert all("-from-0.50s-" in name for name in archive.namelist())
    # each loop has its place, and old ones make way
    monkeypatch.setattr(jobs, "IN_USE", -1.0)
    for tenth in range(1, 8):
        later = export.loop_of(take, [0.0, tenth / 10])
        export.write(song, take, "vocals", "flac", part=later)
    assert len(list((song.folder / "exports").rglob("*-from-*.flac"))) == export.KEEP_MIXES
    assert whole.path.is_file()


def test_a_mix_is_taken_away_at_its_speed_and_in_its_key(song: jobs.Song) -> None:
    take = separated(song)
    played = export.pace_of([0.75, -2])
    as_it_is = export.write(song, take, "karaoke", "wav32f")
    slow = export.write(song, take, "karaoke", "wav32f", pace=played)
    assert "-karaoke-75pc-down2-" in slow.path.name
    assert slow.path != as_it_is.path
    assert audio.load(slow.path).shape[1] == round(take.ready / 0.75)
    part = export.loop_of(take, [0.25, 0.75])
    loop = export.write(song, take, "mix", "flac", {"bass": 0.5}, part, export.pace_of([1, 3]))
    assert "-mix-from-0.25s-up3-" in loop.path.name
    assert audio.load(loop.path).shape[1] == part.frames
    # stems are for what is mixed elsewhere
    stem = export.write(song, take, "bass", "wav32f", pace=played).path
    assert stem == export.write(song, take, "bass", "wav32f").path


@pytest.mark.parametrize("pace", ["fast", [1], [0.1, 0], [1, 7], [float("nan"), 0], [True, 0]])
def test_a_speed_from_a_browser_is_checked(pace: object) -> None:
    assert export.pace_of(None) == export.AS_IT_IS
    with pytest.raises(ValueError, match="speed and key"):
        export.pace_of(pace)


def test_a_loop_that_nothing_is_separated_in_is_told(song: jobs.Song) -> None:
    take = separated(song)
    assert export.loop_of(take, None) is None
    end = take.ready / jobs.SAMPLE_RATE
    assert export.loop_of(take, [-1, end + 5]) == export.Part(0, take.ready)
    for loop in ([end + 1, end + 2], [1], "x", [0.5, 0.5], [0, float("nan")], [0, float("inf")]):
        with pytest.raises(ValueError, match="nothing is separated in the loop"):
            export.loop_of(take, loop)


@pytest.mark.parametrize(
    ("faders", "message"),
    [
        ({"vocals": "loud"}, "fader of vocals"),
        ({"bass": float("nan")}, "fader of bass"),
        ({"bass": 3.0}, "from 0 to 2"),
        (dict.fromkeys(SOURCES, 0.0), "all faders are down"),
    ],
)
def test_faders_from_a_browser_are_checked(song: jobs.Song, faders: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export.write(song, separated(song), "mix", "wav16", faders)


def test_unknown_things_to_take_away_are_named(song: jobs.Song) -> None:
    take = separated(song)
    with pytest.raises(ValueError, match=r"nothing called '\.\./x'"):
        export.write(song, take, "../x", "wav16")
    with pytest.raises(ValueError, match="no format 'exe'"):
        export.write(song, take, "vocals", "exe")


def test_tags_travel(tmp_path: Path) -> None:
    path = tmp_path / "x.flac"
    tags = {"title": "Blue", "artist": "Somebody", "album": "Red"}
    audio.save(path, tones().sum(0), SAMPLE_RATE, "flac", tags=tags)
    song = jobs.prepare(path, tmp_path / "songs")
    assert song.name == "Somebody - Blue"
    made = export.write(song, separated(song), "vocals", "mp3")
    assert audio.probe(made.path).tags == {**tags, "title": "Blue (vocals)"}


@pytest.mark.parametrize(
    "name",
    [
        "--help",
        "aux.live",
        "Com1 .x",
        "../../etc/x",
        "a/b\\c:d*e?f",
        "  .hidden. ",
        "Ünïcödé 曲",
        "",
        "曲" * 120,
        "🎵" * 120,
        "é" * 99,
    ],
)
def test_file_names_are_safe_anywhere(song: jobs.Song, name: str) -> None:
    made = export.file_name(replace(song, name=name), "vocals", new_take(song), "wav")
    assert Path(made).name == made
    assert not set(made) & set('/\\:*?"<>|')
    assert not made.startswith((".", "-"))
    assert made.split(".")[0].strip().lower() not in ("aux", "com1"), "devices of Windows"
    assert made.endswith("-vocals-paper_small.wav")
    assert len(made.encode()) <= 200, "with a draft's ending it must stay within 255 bytes"


@pytest.mark.parametrize("name", ["कहते हैं", "Beyoncé", "Beyonce\N{COMBINING ACUTE ACCENT}"])
def test_file_names_keep_letters_with_their_marks(song: jobs.Song, name: str) -> None:
    made = export.file_name(replace(song, name=name), "vocals", new_take(song), "wav")
    assert made == f"{unicodedata.normalize('NFC', name)}-vocals-paper_small.wav"


def test_a_long_name_in_any_script_can_be_taken_away(song: jobs.Song) -> None:
    long = replace(song, name="曲" * 120)
    made = export.write(long, separated(long), "all", "flac")
    with zipfile.ZipFile(made.path) as archive:
        assert len(archive.namelist()) == 4


# --------------------------------------------------------------------------- links


def test_a_link_survives_a_restart_and_restores_the_result(song: jobs.Song, tmp_path: Path) -> None:
    takes = [separated(song), separated(song, "b", "fullband_small")]
    link = share.Shares(tmp_path / "links", days=2).create(song, takes)
    after_restart = share.Shares(tmp_path / "links", days=2)
    opened = after_restart.open(link.token, tmp_path / "elsewhere")
    assert (opened.name, opened.frames, opened.origin) == (song.name, song.frames, "link")
    restored = jobs.load_takes(opened)
    assert [t.preset for t in restored] == ["paper_small", "fullband_small"]
    kept = torch.cat(list(jobs.read(opened, restored[1].name, 0, None, 4)), dim=-1)
    torch.testing.assert_close(kept, tones(), rtol=0, atol=2 / 32768)
    assert after_restart.open(link.token, tmp_path / "elsewhere") == opened, "decoded once"


def test_a_loud_result_comes_back_at_its_level(song: jobs.Song, tmp_path: Path) -> None:
    *_, take = jobs.separate(song, new_take(song), split(5 * tones()))
    shares = share.Shares(tmp_path / "links")
    opened = shares.open(shares.create(song, [take]).token, tmp_path / "elsewhere")
    [restored] = jobs.load_takes(opened)
    kept = torch.cat(list(jobs.read(opened, restored.name, 0, None, 4)), dim=-1)
    torch.testing.assert_close(kept, 5 * tones(), rtol=0, atol=4 / 32768)


def test_a_link_ends_when_it_says(song: jobs.Song, tmp_path: Path) -> None:
    now = [1e9]
    shares = share.Shares(tmp_path / "links", days=2, clock=lambda: now[0])
    link = shares.create(song, [separated(song)])
    assert words.until(link.expires) == "11 September 2001, 01:46 UTC"
    now[0] += 2 * 86400 - 1
    assert shares.look(link.token) is not None
    assert shares.sweep() == 0
    now[0] += 2
    with pytest.raises(ValueError, match="expired"):
        shares.open(link.token, tmp_path / "elsewhere")
    assert shares.sweep() == 1
    assert not list((tmp_path / "links").iterdir())


def test_only_its_maker_deletes_a_link(song: jobs.Song, tmp_path: Path) -> None:
    shares = share.Shares(tmp_path / "links")
    link = shares.create(song, [separated(song)])
    assert link.key not in json.dumps(shares.look(link.token)), "the key itself is not stored"
    assert not shares.delete(link.token, link.token)
    assert not shares.delete(link.token, "")
    assert shares.delete(link.token, link.key)
    assert shares.look(link.token) is None
    assert not shares.delete(link.token, link.key)


@pytest.mark.parametrize("token", ["", "../links", "x" * 22, "..", None, 5])
def test_a_link_that_never_was_opens_nothing(tmp_path: Path, token: object) -> None:
    (tmp_path / "links").mkdir()
    with pytest.raises(ValueError, match="never there"):
        share.Shares(tmp_path / "links").open(token, tmp_path)  # type: ignore[arg-type]


def test_two_who_open_a_link_at_once_share_a_copy(song: jobs.Song, tmp_path: Path) -> None:
    shares, songs = share.Shares(tmp_path / "links"), tmp_path / "elsewhere"
    link = shares.create(song, [separated(song)])
    opened: list[jobs.Song] = []
    friends = [
        threading.Thread(target=lambda: opened.append(shares.open(link.token, songs)))
        for _ in range(3)
    ]
    for friend in friends:
        friend.start()
    for friend in friends:
        friend.join()
    assert len({one.token for one in opened}) == len(list(songs.iterdir())) == 1


def test_a_deleted_link_takes_every_copy_with_it(song: jobs.Song, tmp_path: Path) -> None:
    songs, links = song.folder.parent, tmp_path / "links"
    link = share.Shares(links).create(song, [separated(song)])
    for _ in range(2):  # as before a restart, and after it
        opened = share.Shares(links).open(link.token, songs)
    jobs.fork(opened, "a")
    assert len(list(songs.iterdir())) == 4
    studio = Studio(Engine(tmp_path), songs, share.Shares(links))
    assert studio.unshare(link.token, link.key)
    assert list(songs.iterdir()) == [song.folder], "the maker's own song stays"


def test_what_a_link_brought_is_shared_no_longer_than_the_link(
    song: jobs.Song, tmp_path: Path
) -> None:
    songs, now = song.folder.parent, [1000.0]
    shares = share.Shares(tmp_path / "links", days=7, clock=lambda: now[0])
    studio = Studio(Engine(tmp_path), songs, shares)
    first, other = (shares.create(song, [separated(song)]) for _ in range(2))
    now[0] += 86400
    tokens = [first.token]
    for _ in range(2):  # a friend of a friend, who separated it anew
        opened = jobs.fork(shares.open(tokens[-1], songs), "a")
        link = shares.create(opened, jobs.load_takes(opened))
        assert link.expires == first.expires
        tokens.append(link.token)
    assert studio.unshare(first.token, first.key)
    assert [shares.look(token) for token in tokens] == [None] * 3
    assert list(songs.iterdir()) == [song.folder]
    assert shares.look(other.token) is not None, "the maker's other link stays"
    opened = replace(opened, folder=song.folder)
    with pytest.raises(ValueError, match="came by is gone"):
        shares.create(opened, jobs.load_takes(song))


def test_a_link_that_is_deleted_while_it_is_opened_or_shared_again_leaves_nothing(
    song: jobs.Song, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs = song.folder.parent
    shares = share.Shares(tmp_path / "links")
    studio = Studio(Engine(tmp_path), songs, shares)

    def meanwhile(name: str, link: share.Link) -> None:
        once = getattr(share.Shares, name)

        def late(self: share.Shares, *arguments: object) -> None:
            once(self, *arguments)
            assert studio.unshare(link.token, link.key)

        monkeypatch.setattr(share.Shares, name, late)

    first = shares.create(song, [separated(song)])
    opened = jobs.fork(shares.open(first.token, songs), "a")
    with monkeypatch.context():
        meanwhile("_store", first)
        with pytest.raises(ValueError, match="came by is gone"):
            shares.create(opened, jobs.load_takes(opened))
        monkeypatch.undo()
    second = shares.create(song, jobs.load_takes(song))
    meanwhile("_restore", second)
    with pytest.raises(ValueError, match="was deleted"):
        shares.open(second.token, songs)
    assert list(songs.iterdir()) == [song.folder]
    assert not list((tmp_path / "links").iterdir())


@pytest.mark.parametrize(
    ("part", "values"),
    [("song", {"mood": 1}), ("take", {"mood": 1}), ("take", {"preset": "paper_medium"})],
)
def test_a_link_of_another_version_says_so(
    song: jobs.Song, tmp_path: Path, part: str, values: dict[str, object]
) -> None:
    shares, songs = share.Shares(tmp_path / "links"), tmp_path / "elsewhere"
    link = shares.create(song, [separated(song)])
    path = tmp_path / "links" / link.token / "result.json"
    result = json.loads(path.read_text())
    (result["song"] if part == "song" else result["takes"][0]).update(values)
    path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match="made by another version of this page"):
        shares.open(link.token, songs)
    assert not songs.exists()


def test_a_song_of_another_version_is_as_good_as_gone(song: jobs.Song) -> None:
    take = separated(song)
    for name in ("song", take.slot):
        path = song.folder / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "mood": 1}))
    assert jobs.load_take(song, take.slot) is None
    assert jobs.load_song(song.folder.parent, song.token) is None


def test_a_take_whose_stems_are_lost_is_none(song: jobs.Song) -> None:
    take = separated(song)
    (song.folder / f"{take.name}.f32").rename(song.folder / "a.f32")  # as they were called once
    assert jobs.load_takes(song) == []


def test_a_name_is_as_the_visitor_knows_it(studio: Studio, tmp_path: Path) -> None:
    path = tmp_path / "Don%22t %22Stop%22%0D%0A 50%.wav"  # as browsers send quotes and line ends
    audio.save(path, tones().sum(0), SAMPLE_RATE)
    assert studio.open_song(str(path)).name == 'Don"t "Stop"   50%'
    recording = studio.open_song(str(path), "recording").name
    assert re.fullmatch(r"Recording \d{4}-\d\d-\d\d \d\d\.\d\d UTC", recording)


def test_a_link_that_cannot_be_opened_leaves_nothing(song: jobs.Song, tmp_path: Path) -> None:
    shares, songs = share.Shares(tmp_path / "links"), tmp_path / "elsewhere"
    link = shares.create(song, [separated(song)])
    asked = []

    def no_room(needed: int) -> None:
        asked.append(needed)
        raise ValueError("there is no room")

    with pytest.raises(ValueError, match="no room"):
        shares.open(link.token, songs, no_room)
    assert not songs.exists()
    (tmp_path / "links" / link.token / "a-bass.flac").write_bytes(b"")
    with pytest.raises(ValueError, match="a-bass"):
        shares.open(link.token, songs)
    assert not list(songs.iterdir())
    # what was asked for is what an opened link takes
    link = shares.create(song, [separated(song)])
    opened = shares.open(link.token, songs)
    size = sum(path.stat().st_size for path in opened.folder.glob("*.[fp]*"))
    assert asked[0] == pytest.approx(size, rel=0.01)


def test_links_stay_within_their_room(song: jobs.Song, tmp_path: Path) -> None:
    shares = share.Shares(tmp_path / "links", limit=100_000)
    with pytest.raises(ValueError, match="no room"):
        shares.create(song, [separated(song)])
    assert not list((tmp_path / "links").iterdir())
    # all of the song is stored, of whatever part the stems are
    shares.limit = 4 * song.frames
    take = replace(separated(song), ready=1000)
    take.save(song)
    with pytest.raises(ValueError, match="no room"):
        shares.create(song, [take])
    shares.limit += 4 * 4 * take.ready
    stored = tmp_path / "links" / shares.create(song, [take]).token
    assert sum(path.stat().st_size for path in stored.glob("*.flac")) < shares.limit


def test_other_users_of_the_machine_cannot_list_songs_and_links(
    studio: Studio, song: jobs.Song, tmp_path: Path
) -> None:
    studio.root = tmp_path / "gradio" / "studio"
    studio.make_room()
    studio.shares.create(song, [separated(song)])
    for folder in (studio.root, studio.shares.root):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_result_replaced_while_it_is_stored_makes_no_link(
    song: jobs.Song, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = separated(song)
    links = share.Shares(tmp_path / "links")
    clip_gain, once = audio.clip_gain, iter([True])

    def meanwhile(peak: float, format: str) -> float:
        if next(once, False):
            separated(song)
        return clip_gain(peak, format)

    monkeypatch.setattr(audio, "clip_gain", meanwhile)
    with pytest.raises(ValueError, match="was replaced while the link was made"):
        links.create(song, [take])
    assert not list((tmp_path / "links").glob("*"))
    assert links.look(links.create(song, jobs.load_takes(song)).token) is not None


def test_a_running_take_is_not_shared(song: jobs.Song, tmp_path: Path) -> None:
    take = replace(separated(song), state="running")
    with pytest.raises(ValueError, match="nothing to share"):
        share.Shares(tmp_path / "links").create(song, [take])


# --------------------------------------------------------------------------- pictures


def test_masks_tell_the_share_of_each_stem(song: jobs.Song) -> None:
    config = configs["paper_small"]
    mixture = plots.power(jobs.samples(song, "mixture"), config)
    stems = jobs.samples(song, separated(song).name, 4)
    shares = plots.shares(plots.power(stems, config), mixture)
    centres = plots.frequencies()
    for index, pitch in enumerate((440.0, 5000.0, 80.0, 1500.0)):
        row = int(np.abs(np.log(centres / pitch)).argmin())
        middle = shares[:, row, shares.shape[2] // 2]
        assert float(middle[index]) > 0.95, "a tone belongs to its stem"
        assert int(middle.argmax()) == index


def test_a_spectrogram_is_loud_where_the_tone_is() -> None:
    samples = tones().permute(2, 0, 1).numpy()
    found = plots.power(samples, configs["paper_small"])
    assert found.shape[:2] == (4, plots.ROWS)
    centres = plots.frequencies()
    for stem, pitch in zip(found, (440.0, 5000.0, 80.0, 1500.0), strict=True):
        loudest = centres[int(stem.mean(1).argmax())]
        assert loudest == pytest.approx(pitch, rel=0.06)


def test_pictures_are_small_whatever_the_length(tmp_path: Path) -> None:
    path = tmp_path / "noise.wav"
    noise = 0.1 * torch.randn(2, 60 * SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    audio.save(path, noise, SAMPLE_RATE)
    song = jobs.prepare(path, tmp_path / "songs")
    blocks = [block[0][None].expand(4, -1, -1) / 4 for block in jobs.read(song, "mixture")]
    *_, take = jobs.separate(song, new_take(song), blocks)
    assert len(plots.draw(song, [], "song").to_json()) < 90_000
    assert len(plots.draw(song, [take], "masks").to_json()) < 300_000


def test_paper_presets_show_where_they_end(song: jobs.Song) -> None:
    paper = plots.draw(song, [separated(song)], "masks")
    (line, *_) = paper.layout.shapes
    assert line.y0 == pytest.approx(14700)
    assert any("14.7 kHz" in (a.text or "") for a in paper.layout.annotations)
    full = plots.draw(song, [separated(song, "a", "fullband_small")], "masks")
    assert not full.layout.shapes


def test_views_follow_what_there_is(song: jobs.Song) -> None:
    assert plots.available([]) == ["song"]
    a, b = separated(song), separated(song, "b")
    assert plots.available([a]) == ["song", "stems", "masks"]
    assert plots.available([a, b]) == list(plots.VIEWS)
    for view in plots.VIEWS:
        assert plots.draw(song, [a, b], view).data
    # equal takes do not differ: every byte is the middle of the scale
    same = plots.draw(song, [a, b], "difference").data[0].z
    assert set(np.unique(same)) <= {127, 128}


def test_a_view_of_nothing_is_the_song(song: jobs.Song) -> None:
    assert len(plots.draw(song, [], "masks").data) == 1
    assert len(plots.draw(song, [], "what?").data) == 1


# --------------------------------------------------------------------------- the page's parts


def test_colours_can_be_told_apart_and_read() -> None:
    for colours in (theme.LIGHT, theme.DARK):
        grounds = [colours[name] for name in ("page", "surface", "wash")]
        for ground in grounds:
            assert theme.contrast(colours["ink"], ground) >= 7
            assert theme.contrast(colours["muted"], ground) >= 4.5
            assert theme.contrast(colours["accent"], ground) >= 4.5
            for stem in SOURCES:
                assert theme.contrast(colours[stem], ground) >= 3
        assert theme.contrast(colours["accent"], colours["on-accent"]) >= 4.5


def test_the_template_holds_no_place_for_data() -> None:
    html = player.stem_player().html_template
    assert "${" not in html
    assert "{{" not in html


def test_the_player_asks_no_other_host() -> None:
    for path in player.STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".md":
            assert "http://" not in text, path
            assert "https://" not in text, path


def test_what_the_player_gets_is_small(song: jobs.Song) -> None:
    takes = [separated(song), separated(song, "b")]
    value = player.payload(song, takes, phase="running")
    assert len(json.dumps(value)) < 6000


# --------------------------------------------------------------------------- engine and studio


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    model = MoisesLight(**configs["paper_small"])
    weights.save(model, folder / "paper_small.safetensors", {"preset": "paper_small"})
    return folder


@pytest.fixture
def studio(checkpoints: Path, tmp_path: Path) -> Studio:
    shares = share.Shares(tmp_path / "links")
    return Studio(Engine(checkpoints), tmp_path / "songs", shares)


def events_of(studio: Studio, song: jobs.Song, *part: int) -> Iterator[tuple[str, str, jobs.Take]]:
    with studio.run(song) as run:
        yield from studio.separate(run, "a", jobs.Asked("paper_small", "cpu", *part))


def test_presets_without_weights_are_listed_and_refused(studio: Studio) -> None:
    presets = studio.engine.presets()
    assert list(presets) == list(configs)
    assert [p.name for p in presets.values() if p.available] == ["paper_small"]
    assert presets["paper_large"].parameters == 4_660_592
    assert "no weights yet" in words.choice(presets["paper_large"])
    assert "cannot run" in words.cost(studio.engine, presets, "paper_large", "cpu", None)
    with pytest.raises(ValueError, match="no trained weights here; choose Paper small"):
        studio.engine.check("paper_large", "cpu")
    with pytest.raises(ValueError, match="no device 'tpu'"):
        studio.engine.check("paper_small", "tpu")
    with pytest.raises(ValueError, match="no preset 'x'"):
        studio.engine.check("x", "cpu")


def test_devices_are_those_that_are_there(studio: Studio) -> None:
    names = [device.name for device in studio.engine.devices]
    assert names[-1] == "cpu"
    assert ("cuda" in names) == torch.cuda.is_available()


def test_at_the_end_the_block_is_finished_and_no_other_begun(
    song: jobs.Song, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    done: list[int] = []

    def two_blocks(*args: object) -> Iterator[np.ndarray]:
        for number in range(2):
            begun.set()
            goes_on.wait(30)
            done.append(number)
            yield np.zeros((4, 2, 10), np.float32)

    monkeypatch.setattr(engines, "_blocks", two_blocks)
    engine = Engine()
    blocks = engine.blocks(song, new_take(song))
    threading.Thread(target=lambda: list(blocks), daemon=True).start()
    begun.wait(30)
    engine.rest(0.1)
    assert done == []
    threading.Timer(0.2, goes_on.set).start()
    engine.rest(30)
    assert done in ([0], [0, 1])
    finished = len(done)
    time.sleep(0.3)
    assert len(done) == finished


def test_a_speed_is_only_said_once_it_was_measured(studio: Studio, song: jobs.Song) -> None:
    presets = studio.engine.presets()
    assert "not measured" in words.cost(studio.engine, presets, "paper_small", "cpu", 60)
    frames = 60 * SAMPLE_RATE
    studio.engine.learn(replace(new_take(song), frames=frames, ready=frames, work=30.0))
    assert "about 1 min 30 s" in words.cost(studio.engine, presets, "paper_small", "cpu", 180)


def test_a_real_network_runs_through_the_studio(studio: Studio, song: jobs.Song) -> None:
    events = list(events_of(studio, song, 0, song.frames, True))
    phases = [phase for phase, _, _ in events]
    assert phases[0] == "running"
    assert phases[-1] == "finished"
    take = events[-1][2]
    assert take.parameters == 2_520_592
    total = torch.cat(list(jobs.read(song, take.name, 0, None, 4)), dim=-1).sum(0)
    # with the residual in `other` the stems add up to the song
    torch.testing.assert_close(total, tones().sum(0), rtol=0, atol=1e-5)


class Ramp:
    """Stems that tell where in its segment a sample was: cheap, and no two cuts give the same."""

    sources, sample_rate = SOURCES, SAMPLE_RATE

    def __call__(self, mixture: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(0, 1, mixture.shape[-1]).square()
        return torch.stack([(k + 1) * ramp * mixture for k in range(4)], dim=1)


@pytest.fixture
def ramps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        engines, "load_separator", lambda *args: engines.Separator(Ramp(), segment=0.5)
    )


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_what_is_missing_comes_out_as_it_would_have(
    ramps: None, song: jobs.Song, blocks: int
) -> None:
    take = replace(new_take(song), start=1000, frames=song.frames - 1000)
    whole = list(Engine().blocks(song, take))
    ready = sum(block.shape[-1] for block in whole[:blocks])
    rest = torch.cat(list(Engine().blocks(song, replace(take, ready=ready))), dim=-1)
    torch.testing.assert_close(rest, torch.cat(whole[blocks:], dim=-1), rtol=0, atol=0)


def test_a_run_with_the_same_settings_goes_on_where_it_was_stopped(
    ramps: None, studio: Studio, song: jobs.Song
) -> None:
    *_, (_, _, whole) = events_of(studio, song, 0, song.frames)
    expected = (song.folder / f"{whole.name}.f32").read_bytes()
    jobs.forget(song, "a")
    events = events_of(studio, song, 0, song.frames)
    for _, _, take in events:
        if take.ready:
            studio.stop(song.token)
    part = jobs.load_take(song, "a")
    assert part is not None
    assert 0 < part.ready < song.frames
    separated(song, "b", "fullband_small")
    events = events_of(studio, song, 0, song.frames)
    phase, text, take = next(events)
    assert (phase, take.ready, take.serial) == ("running", part.ready, part.serial)
    assert "separated" in text
    seen = studio.show(song, "a", phase, text, take)
    assert seen is not None
    assert [t["slot"] for t in seen["takes"]] == ["a", "b"], "B was compared with this A"
    *_, (phase, _, take) = events
    assert (phase, take.ready) == ("finished", song.frames)
    assert (song.folder / f"{take.name}.f32").read_bytes() == expected
    # and once more, from the beginning: there is nothing to go on with
    assert next(events_of(studio, song, 0, song.frames))[2].ready == 0
    assert studio.is_made(song, "a", jobs.Asked("paper_small", "cpu", 0, song.frames))


def test_a_song_has_one_run_at_a_time(studio: Studio, song: jobs.Song) -> None:
    quote = _quote(studio)

    def go(rest: bool = False) -> bool:
        request = gr.Request(session_hash="somebody")
        return quote(song.token, "paper_small", "cpu", WHOLE, 0, rest, request)[1]["interactive"]

    assert go()
    first = events_of(studio, song, 0, song.frames)
    next(first)
    assert not go(), "Separate stays grey whatever setting is changed meanwhile"
    with pytest.raises(gr.Error, match="being separated already"):
        next(events_of(studio, song, 0, song.frames))
    *_, (phase, _, take) = first
    assert (phase, take.ready) == ("finished", song.frames)
    assert len(jobs.samples(song, take.name, 4)) == song.frames
    assert not go(), "it is made"
    assert go(rest=True), "this would be another result"


def test_a_question_from_before_the_song_says_nothing_of_the_button(studio: Studio) -> None:
    """Its answer may come after the song, and would grey out a button that is ready."""
    request = gr.Request(session_hash="somebody")
    for token in (None, ""):
        text, go = _quote(studio)(token, "paper_small", "cpu", WHOLE, 0, False, request)
        assert text
        assert "interactive" not in go
    gone = _quote(studio)("0" * 32, "paper_small", "cpu", WHOLE, 0, False, request)[1]
    assert gone["interactive"] is False
    without_weights = _quote(studio)(None, "paper_large", "cpu", WHOLE, 0, False, request)[1]
    assert without_weights["interactive"] is False


def test_a_run_that_was_left_ends(studio: Studio, song: jobs.Song) -> None:
    with studio.run(song, "visitor") as run:
        events = studio.separate(run, "a", jobs.Asked("paper_small", "cpu", 0, song.frames))
        next(events)
        studio.leave("somebody else")
        studio.leave(None)
        assert not run.left
        studio.leave("visitor")
        assert run.left
        assert [phase for phase, _, _ in events][-1] == "stopped"
        assert studio.is_busy("another song", "visitor"), "their page works until it has ended"
        assert not studio.is_busy("another song", "somebody else")
        assert not studio.is_busy(None, None)
    assert not studio.is_busy("another song", "visitor")


def test_what_was_there_stays_until_there_is_some_of_the_new(
    ramps: None, studio: Studio, song: jobs.Song
) -> None:
    old = [separated(song), separated(song, "b", "fullband_small")]
    other = events_of(studio, jobs.fork(song), 0, song.frames)
    next(other)
    preview = (0, song.frames - 1)

    def shown(phase: str, text: str, take: jobs.Take) -> list[tuple[str, str]]:
        seen = studio.show(song, "a", phase, text, take)
        assert seen is not None
        if phase == "running":
            assert seen["done"] == take.done
        return [(t["slot"], t["serial"]) for t in seen["takes"]]

    both = [(take.slot, take.serial) for take in old]
    waiting = events_of(studio, song, *preview)
    event = next(waiting)
    assert event[0] == "queued"
    assert shown(*event) == both
    studio.stop(song.token)
    assert [phase for phase, _, _ in waiting] == ["stopped"]
    assert jobs.load_takes(song) == old
    other.close()

    run = events_of(studio, song, *preview)
    event = next(run)
    assert (event[0], event[2].ready) == ("running", 0)
    assert shown(*event) == both, "its first block is being computed"
    studio.stop(song.token)
    assert "were here stay" in list(run)[-1][1]
    assert jobs.load_takes(song) == old

    run = events_of(studio, song, *preview)
    next(run)
    event = next(run)
    assert shown(*event) == [("a", event[2].serial)], "B is of another part of the song"
    run.close()
    assert [take.slot for take in jobs.load_takes(song)] == ["a"]


def test_b_stays_beside_a_new_a_of_the_same_part(
    ramps: None, studio: Studio, song: jobs.Song
) -> None:
    separated(song)
    b = separated(song, "b", "fullband_small")
    run = events_of(studio, song, 0, song.frames)
    next(run)
    event = next(run)
    seen = studio.show(song, "a", *event)
    assert seen is not None
    assert [t["serial"] for t in seen["takes"]] == [event[2].serial, b.serial]
    list(run)
    assert jobs.load_takes(song) == [jobs.load_take(song, "a"), b]


def test_a_disk_that_is_full_at_the_first_block_leaves_no_empty_take(
    song: jobs.Song, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(jobs.Track, "append", full)
    with pytest.raises(OSError, match="no space"):
        list(jobs.separate(song, new_take(song), split(tones())))
    assert jobs.load_takes(song) == []
    assert jobs.to_go_on(song) is None
    assert not list(song.folder.glob("a-*"))


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_disk_that_is_full_costs_nothing_that_was_there(
    song: jobs.Song, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    before = [separated(song), separated(song, "b")]
    append, there = jobs.Track.append, []

    def full(track: jobs.Track, block: torch.Tensor) -> None:
        if len(there) == blocks:
            track._files[0].write(bytes(1000))
            raise OSError(28, "no space left")
        append(track, block)
        there.append(block)

    monkeypatch.setattr(jobs.Track, "append", full)
    take = replace(new_take(song), frames=song.frames - 1)
    with pytest.raises(OSError, match="no space"):
        list(jobs.separate(song, take, split(tones()), also=("b",)))
    if not blocks:
        assert jobs.load_takes(song) == before
        for kept in before:
            assert jobs.samples(song, kept.name, 4).shape[0] == song.frames
        return
    (kept,) = jobs.load_takes(song)
    assert (kept.serial, kept.state, kept.ready) == (take.serial, "stopped", 40_000)
    assert jobs.samples(song, kept.name, 4).shape[0] == kept.ready, "half a block takes no room"


def test_what_was_cut_off_is_told_from_what_was_stopped(song: jobs.Song) -> None:
    """The first goes on by itself when its page is back."""
    run = jobs.separate(song, new_take(song), split(tones()))
    while not next(run).ready:
        pass
    run.close()
    cut = jobs.load_take(song, "a")
    assert cut is not None
    assert (cut.state, cut.cut) == ("stopped", True)
    assert player.payload(song, [cut], phase="stopped")["cut"]
    run = jobs.separate(song, jobs.unfinished(song, cut), split(tones()), lambda: True)
    *_, stopped = run
    assert not stopped.cut
    # stopped, and the page went before the block had ended
    stop: list[bool] = []
    run = jobs.separate(song, new_take(song), split(tones()), lambda: bool(stop))
    while not next(run).ready:
        pass
    stop.append(True)
    run.close()
    take = jobs.load_take(song, "a")
    assert take is not None
    assert (take.state, take.cut) == ("stopped", False)
    seen = player.payload(song, [take], phase="stopped")
    assert (seen["unfinished"], seen["cut"]) == (True, False)
    jobs.ask(song, new_take(song))
    assert player.payload(song, [take], phase="stopped")["cut"], "it waited in line"


def test_a_run_for_which_there_is_no_room_is_refused(
    ramps: None, studio: Studio, song: jobs.Song, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = separated(song)
    usage = shutil.disk_usage(song.folder)
    free = new_take(song).missing + handlers.SPARE_BYTES
    assert new_take(song).missing == pytest.approx(6 * 8 * song.frames, rel=0.01)

    def short(_: Path) -> Any:
        return usage._replace(free=free)

    monkeypatch.setattr(jobs.shutil, "disk_usage", short)
    free -= 1
    with pytest.raises(ValueError, match="no room for these stems"):
        list(events_of(studio, song, 0, song.frames))
    assert jobs.load_takes(song) == [before]
    free += 1
    *_, (phase, _, _) = events_of(studio, song, 0, song.frames)
    assert phase == "finished"


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "is full"),
        (errno.EDQUOT, "is full"),
        (errno.EROFS, "may not write"),
        (errno.EACCES, "may not write"),
        (errno.EIO, "Something broke"),
    ],
)
def test_what_the_disk_refuses_is_said(number: int, said: str) -> None:
    assert said in handlers.explain(OSError(number, "x")).message


def test_who_stops_when_the_last_block_is_there_has_it_all(song: jobs.Song) -> None:
    stop: list[bool] = []
    run = jobs.separate(song, new_take(song), split(tones()), lambda: bool(stop))
    for take in run:
        stop += [True] * (take.ready == take.frames)
    assert (take.state, take.ready) == ("finished", song.frames)


def test_what_rounding_turned_down_is_not_told() -> None:
    assert words.turned_down(0.99999) == ""
    assert "0.1 dB" in words.turned_down(0.989)


def test_what_would_be_the_same_again_is_told(studio: Studio, song: jobs.Song) -> None:
    take = separated(song)
    request = gr.Request(session_hash="somebody")
    quote = partial(_quote(studio), song.token, "paper_small", "cpu")
    text, go = quote(WHOLE, 0, False, request)
    assert (text, go["interactive"]) == (words.made(False), False)
    assert "another part" not in text, "all of it is less than a preview"
    assert words.making_way([take], 0, song.frames) in quote(WHOLE, 0, True, request)[0]
    # a take that was stopped goes on
    replace(take, ready=9, state="stopped").save(song)
    text, go = quote(WHOLE, 0, False, request)
    assert text.startswith(words.GOES_ON)
    assert go["interactive"]


def test_a_preview_tells_where_it_begins_and_ends(studio: Studio) -> None:
    presets = studio.engine.presets()
    studio.engine._speeds["paper_small", "cpu"] = 0.5
    cost = partial(words.cost, studio.engine, presets, "paper_small", "cpu", 30.0)
    assert cost(68.0).endswith("The part from 1:08 to 1:38 takes about 15 s here.")
    assert cost().endswith("This takes about 15 s here.")


def test_a_silent_song_is_called_so(song: jobs.Song) -> None:
    assert "Separate" in words.arrived(song)
    assert "hardly any sound" in words.arrived(replace(song, rms=5e-5))


def test_a_song_that_waits_in_line_is_not_swept(studio: Studio, song: jobs.Song) -> None:
    for path in [song.folder, *song.folder.iterdir()]:
        os.utime(path, (0, 0))
    with studio.run(song):
        studio.sweep()
        assert song.folder.is_dir()
    os.utime(song.folder / "song.json", (0, 0))
    studio.sweep()
    assert not song.folder.exists()


def test_uploads_that_gradio_forgot_go_as_well(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = tmp_path / "gradio"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(uploads))
    for name in ("a" * 64, "b" * 64, "c" * 64):
        (uploads / name).mkdir(parents=True)
        audio.save(uploads / name / "song.wav", tones().sum(0), SAMPLE_RATE)
    (uploads / ("b" * 64) / "song.wav").write_text("no song")
    studio.open_song(str(uploads / ("a" * 64) / "song.wav"))
    with pytest.raises(gr.Error):
        studio.open_song(str(uploads / ("b" * 64) / "song.wav"))
    for name, age in (("tmpnew_1", 60), ("tmpold_1", 90_000)):
        (uploads / name).touch()
        os.utime(uploads / name, (time.time() - age,) * 2)
    studio.sweep()
    assert len(list(uploads.iterdir())) == 4
    assert not (uploads / "tmpold_1").exists(), "what Gradio opens and leaves empty"
    (uploads / "tmpnew_1").unlink()
    for mark in studio.root.glob("[ab]" * 64):
        os.utime(mark, (1, 1))
    studio.sweep()
    assert [path.name for path in uploads.iterdir()] == ["c" * 64], "who knows whose that is"
    assert len(list(studio.root.iterdir())) == 1, "the song itself was used just now"


def test_a_deleted_link_ends_the_runs_of_its_copies(studio: Studio, song: jobs.Song) -> None:
    link = studio.shares.create(song, [separated(song)])
    copy = studio.own(studio.open_link(link.token))
    run = events_of(studio, copy, 0, copy.frames)
    assert [next(run)[2].ready for _ in range(2)] == [0, copy.frames]
    assert studio.unshare(link.token, link.key)
    with pytest.raises(FileNotFoundError):
        list(run)
    assert not studio.is_busy(copy.token)
    assert studio.turnstile.place(studio.turnstile.enter()) == 0
    with pytest.raises(gr.Error, match="no longer on the server"):
        studio.song(copy.token)


def test_stems_that_are_replaced_while_they_are_written_are_told(
    studio: Studio, song: jobs.Song, monkeypatch: pytest.MonkeyPatch
) -> None:
    separated(song)
    mine = jobs.fork(song, "a")
    monkeypatch.setattr(studio, "root", mine.folder.parent)
    peak = export._peak

    def replaced(blocks: export.Blocks) -> float:
        jobs.forget(mine, "a")
        separated(mine)
        return peak(lambda: iter([torch.zeros(2, 1)]))

    monkeypatch.setattr(export, "_peak", replaced)
    with pytest.raises(gr.Error, match="just been replaced"):
        studio.export(mine.token, "a", "karaoke", "flac")


def test_what_was_made_of_a_stays_when_b_is_forgotten(song: jobs.Song) -> None:
    takes = {slot: separated(song, slot) for slot in jobs.SLOTS}
    made = {
        (slot, what): export.write(song, take, what, "flac").path
        for slot, take in takes.items()
        for what in ("all", "mix")
    }
    jobs.forget(song, "b")
    assert {key for key, path in made.items() if path.is_file()} == {("a", "all"), ("a", "mix")}


def test_two_runs_never_work_at_once(studio: Studio, song: jobs.Song) -> None:
    other = jobs.fork(song)
    first = events_of(studio, song, 0, song.frames)
    second = events_of(studio, other, 0, song.frames)
    assert next(first)[0] == "running"
    phase, text, _ = next(second)
    assert phase == "queued"
    assert "Next in line" in text
    first.close()
    assert next(second)[0] == "running"
    second.close()
    assert studio.turnstile.place(studio.turnstile.enter()) == 0


def test_what_was_asked_for_is_kept_until_there_is_some_of_it(
    ramps: None, studio: Studio, song: jobs.Song, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = events_of(studio, jobs.fork(song), 0, song.frames)
    next(first)
    waiting = events_of(studio, song, 0, song.frames)
    _, _, asked = next(waiting)
    waiting.close()  # as a lost connection does
    assert jobs.to_go_on(song) == replace(asked, cut=True)
    assert player.payload(song, phase="stopped")["unfinished"]
    assert not player.payload(song, phase="queued")["unfinished"], "it is under way"
    waiting = events_of(studio, song, 0, song.frames)
    next(waiting)
    studio.stop(song.token)
    assert [phase for phase, _, _ in waiting] == ["stopped"]
    assert jobs.to_go_on(song) is None, "that was a wish, too"
    first.close()
    run = events_of(studio, song, 0, song.frames)
    next(run)
    assert jobs.to_go_on(song) is not None
    assert next(run)[2].ready
    run.close()
    kept = jobs.to_go_on(song)
    assert kept is not None
    assert 0 < kept.ready < song.frames, "from here on it is the take itself"

    def broken(*_: object) -> None:
        raise RuntimeError("no memory")

    jobs.forget(song, "a")
    monkeypatch.setattr(studio.engine, "blocks", broken)
    with pytest.raises(RuntimeError):
        list(events_of(studio, song, 0, song.frames))
    assert jobs.to_go_on(song) is None


def test_stop_reaches_a_run_that_waits(studio: Studio, song: jobs.Song) -> None:
    other = jobs.fork(song)
    first = events_of(studio, song, 0, song.frames)
    second = events_of(studio, other, 0, song.frames)
    next(first), next(second)
    studio.stop(other.token)
    assert [phase for phase, _, _ in second] == ["stopped"]
    first.close()


def test_errors_reach_the_page_as_one_sentence(studio: Studio, tmp_path: Path) -> None:
    path = tmp_path / "bad.wav"
    path.write_bytes(b"RIFF" + bytes(40))
    with pytest.raises(gr.Error) as caught:
        studio.open_song(str(path))
    assert "Traceback" not in str(caught.value.message)
    assert str(tmp_path) not in str(caught.value.message), "no path of the server"
    with pytest.raises(gr.Error, match="no longer on the server"):
        studio.song(jobs.new_token())
    with pytest.raises(gr.Error, match="Choose a song"):
        studio.song(None)


def test_a_preview_lies_within_the_song(studio: Studio, song: jobs.Song) -> None:
    long = replace(song, frames=100 * SAMPLE_RATE)
    assert studio.extent(long, WHOLE, 50) == (0, long.frames)
    assert studio.extent(long, PREVIEW, 50) == (50 * SAMPLE_RATE, 30 * SAMPLE_RATE)
    assert studio.extent(long, PREVIEW, 99) == (70 * SAMPLE_RATE, 30 * SAMPLE_RATE)
    assert studio.extent(song, PREVIEW, 2) == (0, song.frames)


def test_nothing_unpicklable_goes_to_a_gpu_worker(
    studio: Studio, song: jobs.Song, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def blocks(*arguments):
        seen.append(arguments)
        yield from (block.numpy() for block in split(tones()))

    monkeypatch.setattr(engines, "_blocks", blocks)
    list(events_of(studio, song, 0, song.frames))
    assert {type(argument) for argument in seen[0]} <= {str, int, bool, type(None)}
    start, frames, ready, *others = seen[0]
    assert (start, frames, ready) == (0, song.frames, 0)
    minute = 60 * SAMPLE_RATE
    # what is separated is paid for, not the whole song
    asked = [
        engines._seconds_of_gpu(9 * minute, minute, ready, *others) for ready in (0, minute // 2)
    ]
    assert asked == [30, 25]


def test_the_page_builds_with_and_without_weights(checkpoints: Path, tmp_path: Path) -> None:
    for folder in (checkpoints, tmp_path):
        demo = build_demo(folder)
        names = {f.api_name for f in demo.fns.values() if f.api_visibility == "public"}
        assert names == {"separate", "presets"}


def test_scores_are_told_set_by_set_for_the_presets_that_have_them() -> None:
    told = {"backed": {"vocals": 5.54, "accompaniment": 9.5}, "validation": {"vocals": -4.25}}
    preset = engines.Preset("tiny", "Tiny", 14_700.0, 1000, True, told, {})
    other = replace(preset, label="Other", sdr={"mine": {"bass": 1.0}, "validation": {}})
    none = replace(preset, label="None", available=False)
    third = replace(preset, label="Third", sdr={"backed": {"vocals": 5.0}})
    presets = {"tiny": preset, "third": third, "other": other, "none": none}
    assert words.scores(presets).splitlines() == [
        "A real song:",
        "",
        "| preset | vocals |",
        "|---|---|",
        "| Tiny | −4.2 |",
        "",
        "Singers before real music that is not theirs:",
        "",
        "| preset | vocals | accompaniment |",
        "|---|---|---|",
        "| Tiny | 5.5 | 9.5 |",
        "| Third | 5.0 | – |",
        "",
        "mine:",
        "",
        "| preset | bass |",
        "|---|---|",
        "| Other | 1.0 |",
    ]
    assert words.scores({"none": none}) == "No weights here were scored yet."
    assert words.table(presets).splitlines()[-2:] == [
        "| Other | 1,000 | 0–14.7 kHz | yes |",
        "| None | 1,000 | 0–14.7 kHz | none yet |",
    ]


def test_what_speaks_for_a_preset_is_said_where_all_can_be_compared() -> None:
    def preset(name: str, size: int, voices: float | None) -> engines.Preset:
        scores = {} if voices is None else {"backed": {"vocals": voices}}
        return engines.Preset(name, name.title(), 14_700.0, size, True, scores, {})

    small, middle, large = (preset(*p) for p in (("s", 1, 4.3), ("m", 2, 4.2), ("l", 3, 5.3)))
    rated = {p.name: p for p in (small, middle, large)}
    assert words.merit(rated, large).startswith("The cleanest voices of the presets here: 5.3 dB")
    voices = "Voices at {} dB, the cleanest here 5.3 (see About)."
    assert words.merit(rated, middle) == voices.format(4.2)
    assert words.merit(rated, small) == "The lightest preset here. " + voices.format(4.3)
    close = {**rated, "m": preset("m", 2, 5.27)}
    assert words.merit(close, close["m"]).startswith("The cleanest"), "by what can be read"
    # one of them was never scored there: nobody knows which is best
    unrated = {**rated, "m": preset("m", 2, None)}
    assert words.merit(unrated, large) == ""
    assert words.merit(unrated, small) == "The lightest preset here."
    # and what has no weights takes no part
    assert "cleanest" in words.merit(
        {**unrated, "m": replace(unrated["m"], available=False)}, large
    )
    assert words.merit({"s": small}, small) == ""
