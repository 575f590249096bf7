"""A corpus on disk: a folder of tracks that training reads by memory map.

    corpus/
      licences.tsv             where every material comes from: material, source, author, licence
      train/index.jsonl        a line for each track: the fields of `Track`
      train/<name>.npy         int16 [S, C, L] at 44.1 kHz; a row for each of `Track.rows`
      heldout/...              the same, of material that `train` never uses
      backed/...               takes of singers before real music, neither of which `train` uses

A track appears in the index only once its audio lies complete under its final name, so a build may
stop at any moment and a training run may read while a build goes on.

`python -m moises_light.training.corpus FOLDER` prints hours per source and every licence.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import re
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moises_light.config import SOURCES
from moises_light.terminal import exit_code, tell

SAMPLE_RATE = 44100
BACKED_SPLITS = ("backed", "in_key")
"""Splits of held-out singers before held-out backings; a corpus may lack them."""
SPLITS = ("train", "heldout", *BACKED_SPLITS)
_WHAT_MAKES = {
    "train": "--songs SONGS",
    "heldout": "--banks BANKS --heldout 16",
    **dict.fromkeys(BACKED_SPLITS, "--banks BANKS --backings BACKINGS --heldout 16"),
}
KINDS = ("song", "band", "bank", "backing")
BACKING = "backing"
"""Row of a track that holds a whole band without a singer: drums, bass and other in one."""
ROWS = (*SOURCES, BACKING)
BLOCK = SAMPLE_RATE // 2
"""Samples behind one number of `Track.activity`: half a second."""
SILENCE = -99
"""Level in dB that stands for digital silence in `Track.activity`."""
FAINT, BENEATH = -60.0, 45.0
"""A stem counts as silent below this level in dB, and this far below the loudest of its track.

What is left there is noise, or what leaks from the others; a draw that raised it to the level of a
singer would teach a guitar as a voice.
"""
OPEN_TRACKS = 200
"""Memory maps that stay open, each with a file of its own; systems often allow 1024 open files."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Track:
    """One line of the index.

    Args:
        name: file name without `.npy`, unique in its split.
        kind: `song` (a real one), `band` (rendered by us), `bank` (one source on its own) or
            `backing` (real music without a singer, whose sources are not known apart).
        frames: length in samples, `L`.
        rows: sources whose audio is stored, or `backing`, in the order of the array's `S` axis.
        present: sources that the track speaks for; one without a row is silent throughout.
        activity: level of every row in dB (full scale = 0), one whole number for each half second.
        level: level of every row in dB over those half seconds in which it plays.
        bandwidth: frequency in Hz above which a row of the track holds nothing, or None.
        limits: the same of single rows, where it is known which.
        material: names of what the track is made of; rows of `licences.tsv`.
        tags: what a draw may ask for: `lead` for a melody instrument in `other`.
    """

    name: str
    kind: str
    frames: int
    rows: tuple[str, ...]
    present: tuple[str, ...]
    activity: Mapping[str, Sequence[int]] = field(repr=False)
    level: Mapping[str, float]
    bandwidth: float | None = None
    material: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)

    def end_of(self, row: str) -> float | None:
        """Frequency in Hz above which nothing can be learnt where this row plays, or None."""
        return min(filter(None, (self.bandwidth, self.limits.get(row))), default=None)

    @property
    def seconds(self) -> float:
        return self.frames / SAMPLE_RATE

    @classmethod
    def from_json(cls, line: str | bytes) -> Track:
        values = json.loads(line)
        for key in ("rows", "present", "material", "tags"):
            values[key] = tuple(values[key])
        return cls(**values)


def name_seed(seed: int, name: str) -> np.random.Generator:
    """The random generator of one track: it depends on the seed and the track's name alone."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def fit(piece: np.ndarray, length: int) -> np.ndarray:
    """Cut, or end in silence, to `length` samples: `[C, L] -> [C, length]`."""
    return np.pad(piece[:, :length], ((0, 0), (0, max(0, length - piece.shape[1]))))


def block_levels(audio: np.ndarray) -> np.ndarray:
    """Level of each half second in dB, `[C, L] -> [blocks]`; the last block may be shorter.

    >>> block_levels(np.zeros((2, 44100), np.float32))
    array([-99., -99.])
    """
    power = np.square(audio, dtype=np.float32).mean(axis=0)
    starts = np.arange(0, len(power), BLOCK)
    sums = np.add.reduceat(power, starts, dtype=np.float64)
    means = sums / np.diff(np.append(starts, len(power)))
    return np.maximum(10 * np.log10(means + 1e-12), SILENCE)


def active_level(levels: np.ndarray) -> float:
    """Level in dB over the blocks within 30 dB of the loudest."""
    playing = levels[levels > max(levels.max() - 30, SILENCE)]
    if not len(playing):
        return float(SILENCE)
    return float(10 * np.log10(np.mean(10 ** (playing / 10))))


def write_track(
    corpus: Path | str,
    split: str,
    name: str,
    kind: str,
    stems: Mapping[str, np.ndarray],
    *,
    present: Iterable[str] | None = None,
    bandwidth: float | None = None,
    material: Iterable[str] = (),
    tags: Iterable[str] = (),
    limits: Mapping[str, float] | None = None,
) -> Track:
    """Add a track: audio first, under a temporary name, then its line in the index.

    All stems are scaled by one gain where the loudest would clip. A stem that is silent
    throughout takes no room: it stays in `present` and gets no row. So does one that is `FAINT`.

    Args:
        stems: audio of each source, or of the backing, `[C, L]` float, all of one shape.
        present: sources that the track speaks for; by default those of `stems`.

    Raises:
        ValueError: for an unknown split, kind or source, or stems of different shapes.
        OSError: if it cannot be written, as on a full disk.
    """
    if split not in SPLITS or kind not in KINDS:
        raise ValueError(
            f"split {split!r}, kind {kind!r}: choose a split of {SPLITS} and a kind of {KINDS}"
        )
    unknown = set(stems) - set(ROWS)
    if unknown or not stems:
        raise ValueError(f"stems {sorted(stems)}: give one or more of {', '.join(ROWS)}")
    shapes = {audio.shape for audio in stems.values()}
    if len(shapes) > 1:
        raise ValueError(f"the stems of {name!r} have different shapes {sorted(shapes)}")
    frames = next(iter(shapes))[-1]
    peak = max(float(np.abs(audio).max(initial=0)) for audio in stems.values())
    gain = 32000 / max(peak, 1.0)
    rows = [row for row in ROWS if row in stems and np.abs(stems[row]).max() > 1e-4]
    packed = {row: np.round(stems[row] * gain).astype(np.int16) for row in rows}
    levels = {row: block_levels(audio.astype(np.float32) / 32768) for row, audio in packed.items()}
    active = {row: active_level(level) for row, level in levels.items()}
    least = max(FAINT, max(active.values(), default=FAINT) - BENEATH)
    for row in [row for row in rows if active[row] < least]:
        _log.info("%s: %s at %.0f dB is too faint, taken for silent", name, row, active[row])
        rows.remove(row)
    spoken_for = set(present if present is not None else stems)
    track = Track(
        name=name,
        kind=kind,
        frames=frames,
        rows=tuple(rows),
        present=tuple(s for s in SOURCES if s in spoken_for),
        activity={s: [round(x) for x in levels[s]] for s in rows},
        level={s: round(active[s], 1) for s in rows},
        bandwidth=bandwidth,
        material=tuple(sorted(set(material))),
        tags=tuple(tags),
        limits=dict(limits or {}),
    )
    folder = Path(corpus) / split
    part, whole = folder / f".{name}.{os.getpid()}.part", folder / f"{name}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(part, "wb") as file:
                empty = np.zeros((0, *next(iter(shapes))), np.int16)
                np.save(file, np.stack([packed[row] for row in rows]) if rows else empty)
            os.replace(part, whole)
        finally:
            part.unlink(missing_ok=True)
        append_line(folder / "index.jsonl", json.dumps(asdict(track), separators=(",", ":")))
    except OSError as error:  # of a full disk numpy tells two numbers, and no file
        raise OSError(
            f"{whole} cannot be written ({error}); see that the disk has room, and build again"
        ) from error
    return track


def clear_parts(corpus: Path | str) -> None:
    """Remove what builds that were killed left half written: no other writes to it for an hour."""
    for folder in (Path(corpus), *(Path(corpus) / split for split in SPLITS)):
        for part in folder.glob(".*.part"):
            with suppress(FileNotFoundError):  # another build may clear them, too
                if time.time() - part.stat().st_mtime > 3600:
                    part.unlink()


def append_line(path: Path, line: str) -> None:
    """Add a line to an index or a log; half a line that a full disk left stays apart from it."""
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        # one write, so that lines of several processes do not mix
        file.write(f"{line}\n".encode())


class Corpus:
    """The tracks of one split, as they stood when it was opened or last rescanned.

    Args:
        folder: the corpus.
        split: one of `SPLITS`.

    Raises:
        ValueError: if there is no such split, or the folder has none.
    """

    def __init__(self, folder: Path | str, split: str = "train") -> None:
        if split not in SPLITS:
            raise ValueError(f"a corpus has no split {split!r}; choose one of {', '.join(SPLITS)}")
        self.folder = Path(folder) / split
        self.index = self.folder / "index.jsonl"
        if not self.index.is_file():
            raise ValueError(
                f"no corpus at {self.folder}: {self.index.name} is missing; make one with "
                f"python -m moises_light.training.build {folder} {_WHAT_MAKES[split]}"
            )
        self.tracks: list[Track] = []
        self._read = 0
        self._maps: dict[str, np.ndarray] = {}  # the track used last comes last
        self.rescan()

    def rescan(self) -> int:
        """Read what a build has appended since; returns the number of new tracks.

        A line that is no track, such as the half of one that a full disk leaves, is told and left
        out. Of several lines of one name the last counts: its audio lies there.
        """
        with open(self.index, "rb") as file:
            file.seek(self._read)
            new = file.read()
        # a line that is still being written waits for the next scan
        new = new[: new.rfind(b"\n") + 1]
        self._read += len(new)
        by_name, count = {track.name: track for track in self.tracks}, 0
        for line in filter(None, new.split(b"\n")):
            try:
                track = Track.from_json(line)
            except (ValueError, KeyError, TypeError):
                _log.warning("%s: left out a broken line, %r", self.index, line[:40])
                continue
            by_name[track.name] = track
            self._maps.pop(track.name, None)
            count += 1
        self.tracks = list(by_name.values())
        return count

    def audio(self, track: Track) -> np.ndarray:
        """The stored rows, int16 `[S, C, L]`, memory-mapped: only what is sliced is read.

        Raises:
            ValueError: if the file is missing, or is not what its line says.
        """
        audio = self._maps.pop(track.name, None)
        if audio is None:
            audio = self._map(track)
        self._maps[track.name] = audio
        if len(self._maps) > OPEN_TRACKS:
            del self._maps[next(iter(self._maps))]
        return audio

    def _map(self, track: Track) -> np.ndarray:
        path = self.folder / f"{track.name}.npy"
        try:
            audio = np.load(path, mmap_mode="r")
        except (FileNotFoundError, EOFError, ValueError):
            audio = None
        if audio is None or (len(audio), audio.shape[-1]) != (len(track.rows), track.frames):
            raise ValueError(
                f"{path} is missing, cut short or of another track; "
                f"delete its line in {self.index.name} and build again"
            )
        return audio

    def read(self, track: Track, source: str, start: int, length: int) -> np.ndarray:
        """A piece of one source, `[C, length]` float32; zeros outside the track or where silent."""
        out = np.zeros((2, length), np.float32)
        first, last = max(start, 0), min(start + length, track.frames)
        if source in track.rows and last > first:
            piece = self.audio(track)[track.rows.index(source), :, first:last]
            np.multiply(piece, np.float32(1 / 32768), out=out[:, first - start : last - start])
        return out

    def __getstate__(self) -> dict[str, Any]:
        # worker processes map the files anew instead of receiving copies of them
        return {**self.__dict__, "_maps": {}}


LicenceRow = tuple[str, str, str, str]
"""Material, source, author and licence: a row of `licences.tsv`."""


def write_licences(corpus: Path | str, rows: Iterable[LicenceRow]) -> None:
    """Add rows to `licences.tsv`, each once, sorted."""
    path = Path(corpus) / "licences.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = set(read_licences(corpus)) | set(rows)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("material", "source", "author", "licence"))
        writer.writerows(sorted(known))
    os.replace(part, path)


def read_licences(corpus: Path | str) -> list[LicenceRow]:
    """The rows of `licences.tsv`; none where there is no such file."""
    path = Path(corpus) / "licences.tsv"
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t"))[1:]
    return [(row[0], row[1], row[2], row[3]) for row in rows]


def licences_of(corpus: Path | str, materials: Iterable[str]) -> dict[str, list[LicenceRow]]:
    """The rows of `licences.tsv` that speak for each material, by its name; none where none does.

    Those of the material itself, else of the nearest that it is a part of: `kit` for `kit/snare`.
    """
    rows: dict[str, list[LicenceRow]] = {}
    for row in read_licences(corpus):
        rows.setdefault(row[0], []).append(row)

    def find(name: str) -> list[LicenceRow]:
        while name and name not in rows:
            name = name.rpartition("/")[0]
        return rows.get(name, [])

    return {name: find(name) for name in materials}


def hours(tracks: Iterable[Track], source: str, playing: bool = True) -> float:
    """Hours of one source: those in which it plays, or all that is stored of it."""
    blocks = 0
    for track in tracks:
        levels = np.asarray(track.activity.get(source, ()))
        if len(levels):
            plays = levels > max(levels.max() - 30, SILENCE)
            blocks += int(plays.sum()) if playing else len(levels)
    return blocks * BLOCK / SAMPLE_RATE / 3600


def describe(folder: Path | str) -> str:
    """Hours per split, kind and source, and the licences, as text.

    Raises:
        ValueError: if the folder has no split.
    """
    splits = [s for s in SPLITS if (Path(folder) / s / "index.jsonl").is_file()]
    if not splits:
        raise ValueError(f"no corpus at {folder}: it has none of the folders {', '.join(SPLITS)}")
    lines = [f"{'hours that play':<18}{'tracks':>7}" + "".join(f"{s:>9}" for s in ROWS)]
    used: set[str] = set()
    for split in splits:
        tracks = Corpus(folder, split).tracks
        used.update(name for track in tracks for name in track.material)
        for kind in KINDS:
            some = [track for track in tracks if track.kind == kind]
            if not some:
                continue
            row = "".join(f"{hours(some, source):>9.2f}" for source in ROWS)
            lines.append(f"{split + ' ' + kind:<18}{len(some):>7}{row}")
    lines += ["", "licence | source | authors | material"]
    told = licences_of(folder, used)
    rows: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for material, source, author, licence in {row for found in told.values() for row in found}:
        authors, names = rows.setdefault((licence, source.split(";")[0]), (set(), set()))
        authors.add(author)
        names.add(re.sub(r"^(soundfont/\w+)/.*", r"\1", material))
    for (licence, source), (authors, names) in sorted(rows.items()):
        lines.append(
            f"{licence} | {source} | {'; '.join(sorted(authors))} | {' '.join(sorted(names))}"
        )
    if unknown := sorted(name for name, found in told.items() if not found):
        lines.append(f"without a licence row: {', '.join(unknown)}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m moises_light.training.corpus",
        description="Hours for each source, and the licences of everything in a corpus.",
    )
    parser.add_argument("folder", type=Path, help="of the corpus")
    for line in describe(parser.parse_args(arguments).folder).splitlines():
        tell(line)
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
