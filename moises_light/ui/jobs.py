"""A song on the server: decoded once, separated block by block, kept in one folder.

Knows neither Gradio nor a network: blocks of stems come from any iterator. Everything that a page
or a program asks for later (playback, pictures, files to take away) is read from the folder.

    <root>/<token>/song.json                   what the song is
    <root>/<token>/mixture.{f32,pcm,peaks}     the song at 44.1 kHz
    <root>/<token>/a.json                      a take of it by one preset; b.json by another
    <root>/<token>/a-<serial>.{f32,pcm,peaks}  the stems of that take
    <root>/<token>/asked.json                  a take that was asked for and has no stems yet

`f32` holds float32 samples `[L, S * C]` as the network gave them, `pcm` the same in 16 bits for the
player, and `peaks` bytes `[n, S]` for its waveforms. All three only ever grow, so that a player
can read what is there while the rest is still being worked on. Another take has other files, so
that a page which plays the earlier one does not get the new one's samples for it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from moises_light import audio

SAMPLE_RATE = 44100
CHANNELS = 2
HEADROOM = 2.0
"""Playback files hold `sample / HEADROOM`: a stem may exceed full scale, and clips at +6 dB."""

PEAKS_PER_SECOND = 50
PEAK_FRAMES = SAMPLE_RATE // PEAKS_PER_SECOND
SLOTS = ("a", "b")
PENDING = "asked"
"""Where a take is kept that has no stems yet."""

MAX_SECONDS = 600.0
READ_FRAMES = 6 * SAMPLE_RATE
KINDS = ("f32", "pcm", "peaks")
"""Files of the mixture and of a take: samples, what the page plays, waveforms."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{22}")


def new_token() -> str:
    """128 random bits that name a folder or a link."""
    return secrets.token_urlsafe(16)


def is_token(text: object) -> bool:
    """Whether `text` has the form of a token, so that it may become part of a path."""
    return isinstance(text, str) and _TOKEN.fullmatch(text) is not None


@dataclass(frozen=True)
class Song:
    """A decoded song.

    Args:
        folder: where it lies; the last part is its token.
        name: what to call it, from its tags or its file's name.
        frames: its length in samples per channel.
        peak: largest absolute sample, 1 being full scale.
        rms: root of the mean square over all samples.
        tags: title, artist and so on, as the file named them.
        origin: "upload", "recording", "example" or "link".
        warning: what is wrong with the file, where it could be read only in part.
        link: token of the shared result that it came from, if any.
    """

    folder: Path
    name: str
    frames: int
    peak: float
    rms: float
    tags: dict[str, str] = field(default_factory=dict)
    origin: str = "upload"
    warning: str = ""
    link: str = ""

    @property
    def token(self) -> str:
        return self.folder.name

    @property
    def seconds(self) -> float:
        return self.frames / SAMPLE_RATE

    def touch(self) -> None:
        """Say that somebody uses it, so that it is not cleared away."""
        (self.folder / "song.json").touch()

    def save(self) -> None:
        values = {k: v for k, v in asdict(self).items() if k != "folder"}
        _write_json(self.folder / "song.json", values)


class Asked(NamedTuple):
    """What stems are asked for: two takes of a song that were asked for alike are the same.

    Args:
        preset: name of the preset.
        device: what it runs on.
        start: first sample of the song that they cover.
        frames: how many samples they cover.
        residual: whether what no stem claims goes to "other".
    """

    preset: str
    device: str
    start: int
    frames: int
    residual: bool = False


PROGRESS = ("ready", "state", "work", "gram", "peak", "serial", "cut")
"""What a `Take` is by and by; the rest is what was asked for."""


@dataclass(frozen=True)
class Take:
    """The stems of a song, or of a part of it, by one preset.

    Args:
        slot: "a" or "b".
        preset: name of the preset.
        device: what it ran on.
        sources: names of the stems, in the order of the files' `S` axis.
        start: first sample of the song that it covers.
        frames: samples that were asked for.
        ready: samples that are there.
        state: "running", "finished" or "stopped".
        work: seconds of work so far.
        cutoff: frequency in Hz above which the network gives nothing.
        parameters: size of the network.
        gram: `[S][S]` sums of products of the stems' samples: with it, the energy of any
            setting of the faders is known without touching the audio.
        peak: largest absolute sample of each stem.
        serial: tells this run from an earlier one in the same slot.
        residual: whether what no stem claims goes to "other".
        cut: whether nobody stopped it: the connection was lost.
    """

    slot: str
    preset: str
    device: str
    sources: tuple[str, ...]
    start: int
    frames: int
    ready: int = 0
    state: str = "running"
    work: float = 0.0
    cutoff: float = SAMPLE_RATE / 2
    parameters: int = 0
    gram: tuple[tuple[float, ...], ...] = ()
    peak: tuple[float, ...] = ()
    serial: str = field(default_factory=new_token)
    residual: bool = False
    cut: bool = False

    @property
    def name(self) -> str:
        """What the files of its stems are called."""
        return f"{self.slot}-{self.serial}"

    @property
    def done(self) -> float:
        """Share of the work that is done, 0 to 1."""
        return self.ready / self.frames if self.frames else 1.0

    @property
    def left(self) -> float | None:
        """Seconds that the rest should take, or `None` before anything can be said."""
        if not self.ready:
            return None
        return self.work * (self.frames - self.ready) / self.ready

    @property
    def asked(self) -> Asked:
        """What it was asked to be."""
        return Asked(self.preset, self.device, self.start, self.frames, self.residual)

    @property
    def missing(self) -> int:
        """Bytes that its files will take and do not yet."""
        whole = replace(self, ready=self.frames)
        return sum(_sizes(whole)) - sum(_sizes(self))

    def covers(self, start: int, frames: int) -> bool:
        """Whether it is of just this part of the song. A new A leaves such a B where it is."""
        return (self.start, self.frames) == (start, frames)

    def save(self, song: Song) -> None:
        _write_json(song.folder / f"{self.slot}.json", asdict(self))


def _write_json(path: Path, values: dict[str, Any]) -> None:
    # a reader sees the old file or the new one, never half of one
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(values), encoding="utf-8")
    draft.replace(path)


def load_song(root: Path, token: str | None) -> Song | None:
    """The song with that token, or `None` where there is none (any more)."""
    if not is_token(token):
        return None
    folder = root / str(token)
    try:
        values = json.loads((folder / "song.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    try:
        return Song(folder=folder, **values)
    except TypeError:  # by another version of this page
        return None


def load_take(song: Song, slot: str) -> Take | None:
    """The take in that slot, or `None`; in `PENDING`, what was asked for and has not begun."""
    try:
        values = json.loads((song.folder / f"{slot}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    try:
        take = take_from(values)
    except (TypeError, KeyError):
        return None
    # another version of this page called them otherwise
    lost = take.ready and not (song.folder / f"{take.name}.f32").is_file()
    return None if lost else take


def take_from(values: dict[str, Any]) -> Take:
    """A take from what JSON kept of it.

    Raises:
        TypeError, KeyError: if another version of this page wrote it.
    """
    tuples = {
        "sources": tuple(values["sources"]),
        "gram": tuple(tuple(row) for row in values["gram"]),
        "peak": tuple(values["peak"]),
    }
    return Take(**{**values, **tuples})


def stack(stems: Sequence[Tensor]) -> Tensor:
    """Blocks `[C, n]` of each stem as one `[S, C, n]`."""
    return torch.stack(list(stems))


def load_takes(song: Song) -> list[Take]:
    """The takes that there are, A before B."""
    return [take for slot in SLOTS if (take := load_take(song, slot)) is not None]


def forget(song: Song, *slots: str, new: str = "") -> list[Path]:
    """Delete takes and what was made of them; what was made of others stays.

    Returns:
        The files of their stems, still there, for a page may be playing them. Those of the take
        called `new` are not among them.
    """
    left: list[Path] = []
    for slot in slots:
        take = load_take(song, slot)
        (song.folder / f"{slot}.json").unlink(missing_ok=True)
        left += [p for p in song.folder.glob(f"{slot}[.-]*") if p.stem != new]
        if take is not None:
            for folder in (song.folder / "exports").glob(f"{take.serial}-*"):
                shutil.rmtree(folder, ignore_errors=True)
    return left


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def fork(song: Song, *slots: str) -> Song:
    """A song of one's own with the same audio, and the takes in `slots`.

    What a shared link opened belongs to everybody who opened it, so whoever separates it again
    gets a copy. What is written again is copied before, see `_own`, so a hard link is copy enough.
    """
    folder = song.folder.parent / new_token()
    folder.mkdir(mode=0o700)
    for name in ("mixture", *slots):
        for path in song.folder.glob(f"{name}[.-]*"):
            try:
                os.link(path, folder / path.name)
            except OSError:  # a file system without links
                shutil.copyfile(path, folder / path.name)
    copy = replace(song, folder=folder, origin="upload")
    copy.save()
    return copy


def ask(song: Song, take: Take) -> None:
    """Keep what was asked for until there is some of it, should the asker's connection be lost."""
    _write_json(song.folder / f"{PENDING}.json", asdict(replace(take, cut=True)))


def answer(song: Song) -> None:
    """Nothing is asked for any more: it is there, or nobody wants it."""
    (song.folder / f"{PENDING}.json").unlink(missing_ok=True)


def to_go_on(song: Song) -> Take | None:
    """What can go on: what was asked for and has not begun, else what was stopped last."""
    stopped = [take for take in load_takes(song) if take.state == "stopped"]
    return load_take(song, PENDING) or next(reversed(stopped), None)


def unfinished(song: Song, wanted: Take) -> Take | None:
    """What is there of a take that was stopped, to go on from, or `None`."""
    take = load_take(song, wanted.slot)
    if take is None or take.state != "stopped":
        return None
    progress = {name: getattr(take, name) for name in PROGRESS}
    if replace(wanted, **progress) != take:  # it was asked for otherwise
        return None
    try:
        sizes = [(song.folder / f"{take.name}.{kind}").stat().st_size for kind in KINDS]
    except OSError:
        return None
    enough = [size >= need for size, need in zip(sizes, _sizes(take), strict=True)]
    return replace(take, state="running", cut=False) if all(enough) else None


def _sizes(take: Take) -> tuple[int, int, int]:
    """Bytes of what is ready, in the order of `KINDS`."""
    sources = len(take.sources)
    samples = take.ready * sources * CHANNELS
    return 4 * samples, 2 * samples, sources * (take.ready // PEAK_FRAMES)


class Track:
    """Appends blocks `[S, C, n]` to the growing files of the mixture or of a take.

    Args:
        folder, name: where they lie.
        sources: `S`.
        after: a take to go on from; without one the files begin anew.
    """

    def __init__(self, folder: Path, name: str, sources: int, after: Take | None = None):
        self._rest = np.zeros((sources, 0), dtype=np.float32)
        self.frames = 0
        self.peak = np.zeros(sources)
        self.gram = np.zeros((sources, sources))
        paths = [folder / f"{name}.{kind}" for kind in KINDS]
        if after is None:
            self._files: list[BinaryIO] = [path.open("wb") for path in paths]
            return
        self.frames, self.peak = after.ready, np.array(after.peak)
        self.gram = np.array(after.gram)
        for path, size in zip(paths, _sizes(after), strict=True):
            _own(path)
            os.truncate(path, size)
        self._files = [path.open("ab") for path in paths]
        whole = self.frames // PEAK_FRAMES * PEAK_FRAMES
        self._rest = np.abs(_mapped(paths[0], sources)[whole:]).max(2).T

    def append(self, block: Tensor) -> None:
        """Write a block and flush it, so that a reader may have it at once."""
        samples, playback, peaks = self._files
        frames = rearrange(block, "s c n -> n (s c)").contiguous().numpy()
        samples.write(frames.astype("<f4", copy=False).tobytes())
        scaled = np.clip(np.rint(frames * (32768 / HEADROOM)), -32768, 32767)
        playback.write(scaled.astype("<i2").tobytes())
        peaks.write(self._peaks(block.abs().amax(1).numpy()))
        for file in self._files:
            file.flush()
        flat = rearrange(block.double(), "s c n -> s (c n)")
        self.gram += (flat @ flat.T).numpy()
        self.peak = np.maximum(self.peak, block.abs().amax((1, 2)).double().numpy())
        self.frames += block.shape[-1]

    def _peaks(self, loudest: np.ndarray) -> bytes:
        """Whole peaks as bytes; samples that do not fill one wait for the next block."""
        loudest = np.concatenate([self._rest, loudest], axis=1)
        whole = loudest.shape[1] // PEAK_FRAMES
        self._rest = loudest[:, whole * PEAK_FRAMES :]
        peaks = loudest[:, : whole * PEAK_FRAMES].reshape(len(loudest), whole, PEAK_FRAMES).max(2)
        # the square root keeps quiet passages visible in eight bits
        levels = np.rint(255 * np.sqrt(np.clip(peaks / HEADROOM, 0, 1)))
        return levels.T.astype(np.uint8).tobytes()

    def close(self) -> None:
        for file in self._files:
            with suppress(OSError):  # the disk was full, and `append` has told of it
                file.close()


def _own(path: Path) -> None:
    """A file that is nobody else's: what hard links share must not grow, see `fork`."""
    if path.stat().st_nlink > 1:
        draft = path.with_suffix(".draft")
        shutil.copyfile(path, draft)
        draft.replace(path)


def prepare(
    path: str | Path,
    root: Path,
    *,
    name: str = "",
    origin: str = "upload",
    max_seconds: float = MAX_SECONDS,
) -> Song:
    """Decode a file into a folder of its own.

    Args:
        path: the file.
        root: where the song's folder is made.
        name: what to call the song; its tags or its file's name decide where this is empty.
        origin: "upload", "recording", "example" or "link".
        max_seconds: longest song that is taken.

    Raises:
        AudioError: if it cannot be read as audio, is empty, or is too long.
    """
    info = audio.probe(path)
    folder = root / new_token()
    folder.mkdir(parents=True, mode=0o700)
    track = Track(folder, "mixture", 1)
    warnings: list[str] = []
    try:
        for block in audio.stream(
            path, SAMPLE_RATE, CHANNELS, max_seconds=max_seconds, warn=warnings.append
        ):
            track.append(block[None])
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        track.close()
    song = Song(
        folder=folder,
        name=name or title(path, info.tags),
        frames=track.frames,
        peak=float(track.peak[0]),
        rms=float(np.sqrt(track.gram[0, 0] / (track.frames * CHANNELS))),
        tags=dict(info.tags),
        origin=origin,
        warning=" ".join(warnings),
    )
    song.save()
    return song


def title(path: str | Path, tags: Mapping[str, str]) -> str:
    """What to call a song: "artist - title" from its tags, else its file's name."""
    named = [tags[key].strip() for key in ("artist", "title") if tags.get(key, "").strip()]
    if tags.get("title", "").strip():
        return " - ".join(named)[:120]
    # what browsers escape in the name of a file that they send
    return re.sub("%0A|%0D", " ", Path(path).stem.replace("%22", '"'))[:120]


def samples(song: Song, name: str, sources: int = 1) -> np.ndarray:
    """Samples of "mixture" or of a take's `name`: a memory map `[L, S, C]` of what is there now."""
    return _mapped(song.folder / f"{name}.f32", sources)


def _mapped(path: Path, sources: int) -> np.ndarray:
    """What is in a file of samples now, `[L, S, C]`."""
    width = 4 * sources * CHANNELS
    frames = path.stat().st_size // width
    if not frames:
        return np.zeros((0, sources, CHANNELS), dtype=np.float32)
    return np.memmap(path, dtype="<f4", mode="r", shape=(frames, sources, CHANNELS))


def read(
    song: Song, name: str, start: int = 0, frames: int | None = None, sources: int = 1
) -> Iterator[Tensor]:
    """Blocks `[S, C, n]` of "mixture" or of a take's `name`, in bounded memory."""
    kept = samples(song, name, sources)
    stop = len(kept) if frames is None else min(len(kept), start + frames)
    for at in range(start, stop, READ_FRAMES):
        block = np.array(kept[at : min(stop, at + READ_FRAMES)], dtype=np.float32)
        yield torch.from_numpy(block).permute(1, 2, 0)


def separate(
    song: Song,
    take: Take,
    blocks: Iterable[Tensor],
    stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
    also: Sequence[str] = (),
) -> Iterator[Take]:
    """Write blocks of stems as they come; yield the take as it stands after each.

    Args:
        song: what is separated.
        take: what was asked for; an earlier take in its slot is there until the first block comes,
            or where some of this one is ready, see `unfinished`, is added to.
        blocks: stems `[S, C, n]` in order, together as long as what is missing.
        stopped: asked before each block; true ends the take with what is there.
        clock: seconds, for the time that the work took.
        also: other slots whose takes go with the earlier one.
    """
    sources = len(take.sources)
    track = Track(song.folder, take.name, sources, take) if take.ready else None
    earlier: list[Path] = []
    begun = clock() - take.work
    source = iter(blocks)
    state = "stopped"
    cut = False
    try:
        yield take
        while not stopped():
            block = next(source, None)
            if block is None:
                state = "finished"
                break
            if track is None:
                track = Track(song.folder, take.name, sources)
            track.append(block)
            if not take.ready:  # only now: where the disk is full, what was there stays
                earlier = forget(song, take.slot, *also, new=take.name)
            take = replace(
                take,
                ready=track.frames,
                work=clock() - begun,
                gram=tuple(map(tuple, track.gram.tolist())),
                peak=tuple(track.peak.tolist()),
            )
            yield take
            _unlink(earlier)  # the page knows of the new ones by now
            earlier = []
    except GeneratorExit:  # the listener has gone
        cut = not stopped()
        raise
    finally:
        _unlink(earlier)
        # also where the listener has gone: closing the source frees the network for the next
        close = getattr(source, "close", None)
        if close is not None:
            close()
        # who stops when the last block is there has it all
        take = replace(take, state="finished" if take.ready >= take.frames else state, cut=cut)
        if track is not None:
            track.close()
            _trim(song, take)
            if take.ready:
                take.save(song)
    yield take


def _trim(song: Song, take: Take) -> None:
    """Leave of a take's files what is ready: on a full disk, what is not makes room."""
    for kind, size in zip(KINDS, _sizes(take), strict=True):
        path = song.folder / f"{take.name}.{kind}"
        if not take.ready:
            path.unlink(missing_ok=True)
        elif path.stat().st_size > size:
            os.truncate(path, size)


class Full(ValueError):
    """Too many are waiting already."""


class Turnstile:
    """Lets one run work at a time, in the order of arrival.

    Gradio's own queue frees a run's place as soon as it is cancelled, though the work goes on to
    the next yield; this one frees it when the work has ended. A ticket that has not been looked at
    for `patience` seconds belongs to someone who left, and loses its place unless it is working.
    """

    def __init__(self, limit: int = 16, patience: float = 30.0):
        self._limit = limit
        self._patience = patience
        self._lock = threading.Lock()
        self._line: OrderedDict[str, float] = OrderedDict()

    def enter(self) -> str:
        """A ticket at the end of the line.

        Raises:
            Full: if the line is as long as it may be.
        """
        with self._lock:
            self._drop_absent()
            if len(self._line) > self._limit:
                raise Full(
                    f"{self._limit} songs are waiting already; please come back in a few minutes"
                )
            ticket = new_token()
            self._line[ticket] = time.monotonic()
            return ticket

    def place(self, ticket: str) -> int:
        """How many are before this ticket; 0 means that it is its turn."""
        with self._lock:
            if ticket not in self._line:
                raise Full("this run has lost its place in the line; start it again")
            self._line[ticket] = time.monotonic()
            self._drop_absent()
            return list(self._line).index(ticket)

    def leave(self, ticket: str) -> None:
        with self._lock:
            self._line.pop(ticket, None)

    def _drop_absent(self) -> None:
        now = time.monotonic()
        for ticket in list(self._line)[1:]:
            if now - self._line[ticket] > self._patience:
                del self._line[ticket]


IN_USE = 60.0
"""Seconds in which nobody's files go, however full the disk is."""

OPEN = 660.0
"""Seconds in which an open page has touched its song."""


def sweep(root: Path, max_age: float, keep_free: int = 0, now: float | None = None) -> int:
    """Delete what nobody has touched for `max_age` seconds, and the oldest where the disk is full.

    There, files to be taken away go first, for they can be written again; then what no page shows
    any more (an open page touches its song every ten minutes); then the oldest.

    Args:
        root: folder whose entries are deleted whole.
        max_age: seconds since anything in an entry was written.
        keep_free: bytes of the disk that shall stay free.
        now: the time, for tests.

    Returns:
        How many entries went.
    """
    if not root.is_dir():
        return 0
    now = time.time() if now is None else now
    aged = sorted((last_touched(entry), entry) for entry in root.iterdir())
    gone = 0

    def short() -> bool:
        return shutil.disk_usage(root).free < keep_free

    with suppress(FileNotFoundError):  # another visitor's upload sweeps, too
        _sweep_exports(root, now, short)
    aged.sort(key=lambda pair: now - pair[0] <= OPEN)  # what no page shows first
    for touched, entry in aged:
        full = entry.is_dir() and short()  # the mark of an upload takes no room, see `Studio.sweep`
        if now - touched > max_age or (full and now - touched > IN_USE):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
            gone += 1
    return gone


def _sweep_exports(root: Path, now: float, short: Callable[[], bool]) -> None:
    """Delete what was written to be taken away, the oldest first, while the disk is full."""
    for folder in sorted(root.glob("*/exports/*"), key=last_touched):
        if short() and now - last_touched(folder) > IN_USE:
            before = folder.parent.stat()
            shutil.rmtree(folder, ignore_errors=True)
            os.utime(folder.parent, ns=(before.st_atime_ns, before.st_mtime_ns))  # nobody's touch


def last_touched(entry: Path) -> float:
    """When anything in a folder was written last, in seconds since 1970; 0 if it is gone."""
    times = []
    for path in [entry, *entry.rglob("*")] if entry.is_dir() else [entry]:
        try:
            times.append(path.stat().st_mtime)
        except OSError:  # went away while we looked
            continue
    return max(times, default=0.0)
