"""What visitors take away: a stem, all of them, or a mix, in the format of their choice."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
import time
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moises_light import audio
from moises_light.separation import MIXES
from moises_light.ui import jobs
from moises_light.ui.jobs import CHANNELS, SAMPLE_RATE, Song, Take

MAX_GAIN = 2.0

KEEP_MIXES = 4
"""Mixes and loops of one take that are there at once; an older one makes way."""

NAME_BYTES = 120
"""Bytes of a song's name that its files carry."""


@dataclass(frozen=True)
class Export:
    """A file to take away.

    Args:
        path: the file.
        gain: what all of it was turned down by, so that nothing clips; 1.0 if nothing was.
    """

    path: Path
    gain: float


def check_format(format: str) -> None:
    """Raise `ValueError` for a format that is not offered."""
    if format not in audio.FORMATS:
        raise ValueError(f"there is no format {format!r}; choose one of {', '.join(audio.FORMATS)}")


@dataclass(frozen=True)
class Part:
    """A stretch of a take: first sample, and how many."""

    first: int
    frames: int


def loop_of(take: Take, loop: Any) -> Part | None:
    """The part of a take that a browser loops: `[from, to]` in seconds of the take, or `None`.

    Raises:
        ValueError: if nothing of the take lies there.
    """
    if loop is None:
        return None
    fits = isinstance(loop, list) and len(loop) == 2
    fits = fits and all(isinstance(t, int | float) and math.isfinite(t) for t in loop)
    first, last = (round(t * SAMPLE_RATE) for t in loop) if fits else (0, 0)
    first, last = max(0, first), min(last, take.ready)
    if last <= first:
        raise ValueError(f"nothing is separated in the loop {loop!r}; move it, or switch it off")
    return Part(first, last - first)


@dataclass(frozen=True)
class Pace:
    """How a mix is played: `speed` times as fast, `key` semitones higher. "75pc-down2" in names."""

    speed: float = 1.0
    key: float = 0.0

    def __str__(self) -> str:
        parts = [f"{100 * self.speed:g}pc"] if self.speed != 1 else []
        parts += [f"{'up' if self.key > 0 else 'down'}{abs(self.key):g}"] if self.key else []
        return "-".join(parts)


AS_IT_IS = Pace()


def pace_of(pace: Any) -> Pace:
    """What a browser plays at: `[speed, key]`, or `None` for a mix as it is.

    Raises:
        ValueError: if it is something else, or beyond what the page offers.
    """
    if pace is None:
        return AS_IT_IS
    fits = isinstance(pace, list) and len(pace) == 2
    fits = fits and all(isinstance(v, int | float) and not isinstance(v, bool) for v in pace)
    if not (fits and 0.5 <= pace[0] <= 1.25 and -6 <= pace[1] <= 6):
        raise ValueError(
            f"the speed and key {pace!r} are not [0.5 to 1.25, -6 to 6 semitones]; choose others"
        )
    return Pace(round(float(pace[0]), 2), round(float(pace[1]), 1))


def file_name(
    song: Song,
    what: str,
    take: Take,
    extension: str,
    part: Part | None = None,
    pace: Pace = AS_IT_IS,
) -> str:
    """`<song>-<what>-<preset>.<extension>`, safe on every system; a part tells where it begins.

    Letters of any script stay, with their marks; what file systems or shells take for their own
    does not. File systems count bytes, at most 255 of them, and a letter may have four.
    """
    name = "".join(c if _is_plain(c) else "\0" for c in unicodedata.normalize("NFC", song.name))
    name = re.sub("\0+", "_", name).strip(" .")
    name = name.encode()[:NAME_BYTES].decode(errors="ignore").rstrip(" .")
    if _TAKEN.match(name):
        name = f"_{name}"
    place = f"-from-{(take.start + part.first) / SAMPLE_RATE:.2f}s" if part else ""
    played = f"-{pace}" if pace != AS_IT_IS else ""
    return f"{name or 'song'}-{what}{place}{played}-{take.preset}.{extension}"


_TAKEN = re.compile(r"-|(con|prn|aux|nul|com\d|lpt\d) *\.", re.IGNORECASE)
"""What begins like an option, and what Windows takes for a device whatever follows the dot."""


def _is_plain(character: str) -> bool:
    return (
        character.isalnum()
        or character in " _.()&+'-"
        or unicodedata.category(character).startswith("M")
    )


def tags(song: Song, what: str) -> dict[str, str]:
    """The song's tags, its title telling the stem."""
    kept = {key: song.tags[key] for key in audio.TAGS if song.tags.get(key)}
    return {**kept, "title": f"{kept.get('title', song.name)} ({what})"}


def write(
    song: Song,
    take: Take,
    what: str,
    format: str,
    faders: Mapping[str, float] | None = None,
    part: Part | None = None,
    pace: Pace = AS_IT_IS,
) -> Export:
    """Write one file, or find it where it has been written before.

    Args:
        song: the song.
        take: the take.
        what: a stem's name, "all" (a zip), "karaoke", "drumless" or "mix".
        format: one of `audio.FORMATS`.
        faders: for "mix", the gain of each stem.
        part: of the take, all of it if `None`; see `loop_of`.
        pace: of a mix. Stems are always as they are, so that they stay together.

    Raises:
        ValueError: if there is no such stem, mix or format, or the take is empty.
    """
    check_format(format)
    if not take.ready:
        raise ValueError("nothing is separated yet; press Separate first")
    # each format in a folder of its own: wav16 and wav24 have the same extension
    # and each mix, since two who opened the same link may want different ones
    own = format
    gains = checked_faders(take, faders) if what == "mix" else torch.zeros(0)
    if what != "mix" and what not in MIXES:
        pace = AS_IT_IS
    one_of_many = what == "mix" or part is not None or pace != AS_IT_IS
    if one_of_many:
        key = f"{gains.tolist()} {part} {pace}"
        own = f"{format}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    part, asked = part or Part(0, take.ready), part
    folder = song.folder / "exports" / f"{take.serial}-{take.ready}-{own}"
    folder.mkdir(parents=True, exist_ok=True)
    extension = audio.FORMATS[format]
    if one_of_many:
        os.utime(folder)  # the newest, also where it was there before
        _make_way(folder)
    if what == "all":
        return _write_zip(song, take, format, folder, asked)
    if what in take.sources:
        # one gain for all stems, so that they still add up to the (quieter) song
        gain = audio.clip_gain(max(take.peak), format)
        blocks = _stem(song, take, take.sources.index(what), part)
    elif what in MIXES and MIXES[what] in take.sources:
        blocks = _at(pace, _without(song, take, take.sources.index(MIXES[what]), part))
        gain = audio.clip_gain(_peak(blocks), format)
    elif what == "mix":
        blocks = _at(pace, _mixed(song, take, gains, part))
        gain = audio.clip_gain(_peak(blocks), format)
    else:
        known = [*take.sources, "all", *MIXES, "mix"]
        raise ValueError(f"there is nothing called {what!r} here; choose {', '.join(known)}")
    path = folder / file_name(song, what, take, extension, asked, pace)
    if not path.is_file():
        frames = round(part.frames / pace.speed)
        shape = {"sample_rate": SAMPLE_RATE, "channels": CHANNELS, "frames": frames}
        with audio.Writer(path, format=format, tags=tags(song, what), **shape) as writer:
            for block in blocks():
                writer.write(block * gain)
    return Export(path, gain)


def _make_way(folder: Path) -> None:
    """Delete the oldest mixes and loops of the take that one's folder is for."""
    serial_and_ready = folder.name.rsplit("-", 2)[0]
    mixes = [path for path in folder.parent.glob(f"{serial_and_ready}-*-*") if path != folder]
    mixes.sort(key=jobs.last_touched)
    for path in mixes[: max(0, len(mixes) + 1 - KEEP_MIXES)]:
        # who opened the same link may be fetching it
        if time.time() - jobs.last_touched(path) > jobs.IN_USE:
            shutil.rmtree(path, ignore_errors=True)


def checked_faders(take: Take, faders: Mapping[str, float] | None) -> Tensor:
    """Gains `[S]` from what a browser sent.

    Raises:
        ValueError: if it is no gain per stem, or all of them are zero.
    """
    values = []
    for name in take.sources:
        value = (faders or {}).get(name, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"the fader of {name} says {value!r}; give a number from 0 to 2")
        if not 0 <= value <= MAX_GAIN:
            raise ValueError(f"the fader of {name} says {value}; give a number from 0 to 2")
        values.append(float(value))
    if not any(values):
        raise ValueError("all faders are down, so your mix would be silent; turn one up")
    return torch.tensor(values)


Blocks = Callable[[], Iterator[Tensor]]


def _read(song: Song, take: Take, part: Part) -> Iterator[Tensor]:
    return jobs.read(song, take.name, part.first, part.frames, len(take.sources))


def _stem(song: Song, take: Take, index: int, part: Part) -> Blocks:
    def blocks() -> Iterator[Tensor]:
        for block in _read(song, take, part):
            yield block[index]

    return blocks


def _mixed(song: Song, take: Take, gains: Tensor, part: Part) -> Blocks:
    def blocks() -> Iterator[Tensor]:
        for block in _read(song, take, part):
            yield torch.einsum("s, s c n -> c n", gains, block)

    return blocks


def _at(pace: Pace, blocks: Blocks) -> Blocks:
    return lambda: audio.at_pace(blocks(), SAMPLE_RATE, pace.speed, pace.key)


def _without(song: Song, take: Take, index: int, part: Part) -> Blocks:
    """The song minus a stem: nothing is lost that no stem claimed."""

    def blocks() -> Iterator[Tensor]:
        stems = _read(song, take, part)
        whole = jobs.read(song, "mixture", take.start + part.first, part.frames)
        for mixture, block in zip(whole, stems, strict=True):
            yield mixture[0] - block[index]

    return blocks


def _peak(blocks: Blocks) -> float:
    return max((float(block.abs().max()) for block in blocks()), default=0.0)


def _write_zip(song: Song, take: Take, format: str, folder: Path, part: Part | None) -> Export:
    exports = [write(song, take, name, format, part=part) for name in take.sources]
    path = folder / file_name(song, "stems", take, "zip", part)
    if not path.is_file():
        # of its own: two who opened the same link may want it at once
        draft = folder / f"{jobs.new_token()}.draft"
        try:
            # stored: audio hardly shrinks, and what is already compressed not at all
            with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
                for export in exports:
                    archive.write(export.path, export.path.name)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    return Export(path, exports[0].gain)
