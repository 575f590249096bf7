"""A corpus small enough to carry to a machine that cannot fetch it.

    python -m moises_light.training.pack CORPUS PACKS --mebibytes 28 --parts 4 --jobs 2
    python -m moises_light.training.pack --unpack PACKS CORPUS --jobs 16

cuts the training tracks into pieces, codes every row in Opus at about 35 kbit/s and gathers them in
files `part-0.tar`, `part-1.tar`, ... of at most that size. Every part holds some of each kind of
track, so that any of them will do. Unpacked they are a corpus as `build` makes it. A row that was
coded is not what it was, but mixtures are still the exact sums of what training hears.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from moises_light.terminal import at_least, exit_code
from moises_light.training.corpus import (
    KINDS,
    SAMPLE_RATE,
    Corpus,
    Track,
    fit,
    name_seed,
    read_licences,
    write_licences,
    write_track,
)

SHARES = {"song": 0.15, "band": 0.4, "bank": 0.15, "backing": 0.3}
"""Share of the bytes that each kind of track gets, as far as there is enough of it."""

OPUS_RATE = 48000
"""Opus knows no 44.1 kHz."""

LEVEL = 0.95
"""How much to compress, from 0 to 1: 24 kbit/s for voices, 40 for drums. Above it highs suffer."""


def encode(audio: np.ndarray) -> bytes:
    """`[C, L]` at 44.1 kHz as Ogg Opus."""
    out = io.BytesIO()
    resampled = soxr.resample(audio.T, SAMPLE_RATE, OPUS_RATE)
    soundfile.write(
        out, resampled, OPUS_RATE, format="OGG", subtype="OPUS", compression_level=LEVEL
    )
    return out.getvalue()


def decode(content: bytes, frames: int) -> np.ndarray:
    """What `encode` made, `[C, frames]`."""
    audio, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    return fit(soxr.resample(audio, rate, SAMPLE_RATE).T, frames)


AHEAD = 8
"""Pieces of each kind that are coded before they are wanted."""

Piece = tuple[Track, int, int]
"""A track, where the piece begins in it, and its length, both in samples."""


def pieces(tracks: Iterable[Track], seconds: float, seed: int) -> dict[str, list[Piece]]:
    """The pieces of each kind of track, in an order drawn by the seed.

    A track gives pieces of `seconds`; what is left at its end joins the last one if it is shorter
    than half of that.
    """
    length = int(seconds * SAMPLE_RATE)
    found: dict[str, list[Piece]] = {kind: [] for kind in KINDS}
    for track in sorted(tracks, key=lambda t: t.name):
        starts = range(0, max(1, track.frames - length // 2), length) if track.rows else ()
        ends = [*starts[1:], track.frames]
        found[track.kind] += [(track, a, b - a) for a, b in zip(starts, ends, strict=False)]
    rng = name_seed(seed, "pack")
    return {kind: [some[k] for k in rng.permutation(len(some))] for kind, some in found.items()}


def pack(
    corpus: Corpus,
    out: Path,
    mebibytes: float,
    parts: int,
    seconds: float = 30.0,
    seed: int = 0,
    jobs: int = 1,
) -> list[Path]:
    """Write the parts, coded in several processes; fewer where the corpus ends before.

    Parts appear when they are complete. Those of an earlier pack in the folder go.

    Raises:
        ValueError: if pieces or parts have no size, or not one piece fits into a part.
    """
    if not 1 <= seconds * SAMPLE_RATE < math.inf:
        raise ValueError(f"pieces of {seconds:g} s; choose more than 0 seconds")
    if not 0 < mebibytes < math.inf:
        raise ValueError(f"parts of {mebibytes:g} MiB; choose more than 0 MiB")
    out.mkdir(parents=True, exist_ok=True)
    licences = json.dumps(read_licences(corpus.folder.parent)).encode()
    written: list[Path] = []
    with ProcessPoolExecutor(jobs) as pool:
        coming = _Coming(pool, corpus, pieces(corpus.tracks, seconds, seed))
        try:
            while len(written) < parts and coming.first() is not None:
                path = out / f"part-{len(written)}.tar"
                part = path.with_name(f".{path.name}.{os.getpid()}.part")
                try:
                    if not _fill(part, coming, licences, room=int(mebibytes * 2**20)):
                        raise ValueError(
                            f"{mebibytes:g} MiB hold not one piece of {seconds:g} s; "
                            f"allow more or cut shorter"
                        )
                    os.replace(part, path)
                finally:
                    part.unlink(missing_ok=True)
                written.append(path)
        finally:
            pool.shutdown(cancel_futures=True)
    for path in set(out.glob("part-*.tar")) - set(written):
        if path.stem.removeprefix("part-").isdecimal():
            path.unlink()
    return written


class _Coming:
    """Coded pieces of all kinds in one row, in which each kind has its share of the bytes."""

    def __init__(self, pool: Executor, corpus: Corpus, waiting: dict[str, list[Piece]]):
        self.pool = pool
        self.corpus = corpus
        self.waiting = waiting
        self.coded: dict[str, deque[Future[dict[str, bytes]]]] = {kind: deque() for kind in KINDS}
        self.used = dict.fromkeys(KINDS, 0)

    def first(self) -> dict[str, bytes] | None:
        """Files of the piece that is next, if there is one."""
        kind = self._kind()
        return None if kind is None else self.coded[kind][0].result()

    def take(self) -> None:
        """The next piece is used; another one is next."""
        kind = self._kind()
        assert kind is not None
        self.used[kind] += _size(self.coded[kind].popleft().result())

    def _kind(self) -> str | None:
        for kind, pieces in self.waiting.items():  # so many ahead that no process waits
            while pieces and len(self.coded[kind]) < AHEAD:
                self.coded[kind].append(self.pool.submit(_members, self.corpus, *pieces.pop()))
        left = [kind for kind in KINDS if self.coded[kind]]
        return min(left, key=lambda k: self.used[k] / SHARES[k]) if left else None


def _fill(path: Path, coming: _Coming, licences: bytes, room: int) -> int:
    """Write a part of at most `room` bytes; returns its number of pieces."""
    count = 0
    with tarfile.open(path, "w") as archive:
        _add(archive, "licences.json", licences)
        while (members := coming.first()) is not None:
            if archive.offset + _size(members) + tarfile.RECORDSIZE > room:
                break
            for name, content in members.items():
                _add(archive, name, content)
            coming.take()
            count += 1
    return count


def _size(members: dict[str, bytes]) -> int:
    """At most so many bytes of an archive."""
    return sum(len(content) + 2 * tarfile.BLOCKSIZE for content in members.values())


def _members(corpus: Corpus, track: Track, start: int, frames: int) -> dict[str, bytes]:
    """The files of one piece: what describes it, and its rows."""
    name = f"{track.name}-{start}"  # by the sample: a second may hold several pieces
    about = {
        "kind": track.kind,
        "frames": frames,
        "present": track.present,
        "bandwidth": track.bandwidth,
        "limits": track.limits,
        "material": track.material,
        "tags": track.tags,
        "rows": track.rows,
    }
    coded = {
        f"{name}/{row}.opus": encode(corpus.read(track, row, start, frames)) for row in track.rows
    }
    return {f"{name}/track.json": json.dumps(about).encode(), **coded}


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def unpack(packs: Path, corpus: Path, jobs: int = 1) -> int:
    """Make a corpus of all parts in a folder, in several processes; returns its tracks.

    What the corpus has already is left out, so parts may come one after another.

    Raises:
        ValueError: if the folder holds no part, or one that is damaged.
    """
    parts = sorted(packs.glob("part-*.tar"))
    if not parts:
        raise ValueError(f"{packs} holds no part-*.tar; make some with this command")
    done: set[str] = set()
    if (corpus / "train" / "index.jsonl").is_file():
        done = {track.name for track in Corpus(corpus).tracks}
    new = (found for part in parts for found in _read(part, corpus) if found[0] not in done)
    if jobs == 1:
        return sum(_write(corpus, *found) for found in new)
    with ProcessPoolExecutor(jobs) as pool:
        try:
            return sum(f.result() for f in [pool.submit(_write, corpus, *found) for found in new])
        finally:  # where one fails, those that have not begun need not
            pool.shutdown(cancel_futures=True)


def _read(part: Path, corpus: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, bytes]]]:
    """Name, description and coded rows of each piece of a part."""
    contents: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(part) as archive:
            for member in archive:
                file = archive.extractfile(member)
                name, _, leaf = member.name.rpartition("/")
                contents.setdefault(name, {})[leaf] = file.read() if file else b""
        licences = {tuple(row) for row in json.loads(contents.pop("")["licences.json"])}
        found = []
        for name, files in contents.items():
            about = json.loads(files["track.json"])
            found.append((name, about, {row: files[f"{row}.opus"] for row in about.pop("rows")}))
    except (tarfile.TarError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{part} is damaged, or no part of a corpus; copy it again") from error
    write_licences(corpus, licences)
    yield from found


def _write(corpus: Path, name: str, about: dict[str, Any], coded: dict[str, bytes]) -> int:
    frames = about.pop("frames")
    stems = {row: decode(content, frames) for row, content in coded.items()}
    kind = about.pop("kind")
    write_track(corpus, "train", name, kind, stems, **about)
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m moises_light.training.pack",
        description="Pack the training tracks of a corpus into small files, or unpack these.",
    )
    parser.add_argument("source", type=Path, help="corpus, or with --unpack a folder of parts")
    parser.add_argument("target", type=Path, help="folder of parts, or with --unpack a corpus")
    parser.add_argument("--unpack", action="store_true")
    parser.add_argument("--mebibytes", type=float, default=28.0, help="largest size of a part")
    parser.add_argument("--parts", type=at_least(1), default=1)
    parser.add_argument("--seconds", type=float, default=30.0, help="of a piece of a track")
    parser.add_argument(
        "--seed", type=at_least(0), default=0, help="another one packs other pieces"
    )
    parser.add_argument("--jobs", type=at_least(1), default=1, help="processes that code or decode")
    options = parser.parse_args(arguments)
    if options.unpack:
        print(f"{unpack(options.source, options.target, options.jobs)} tracks")
        return 0
    corpus = Corpus(options.source)
    for path in pack(
        *(corpus, options.target, options.mebibytes, options.parts),
        seconds=options.seconds,
        seed=options.seed,
        jobs=options.jobs,
    ):
        print(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
