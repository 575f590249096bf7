"""Audio files in and out: any of the usual formats to float32 at one rate, and stems to files.

Whatever comes from outside is read with care: the container must be one of a list, nothing that a
file names is opened, limits hold for what was decoded and not for what a header says, and memory
stays that of a block. All that can go wrong with a file is an `AudioError`, one sentence.

Axes: `S` sources, `C` audio channels, `L` samples of the song, `n` of a block.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import secrets
import shutil
import struct
import time
import wave
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from numbers import Real
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO

import av
import av.filter
import numpy as np
import soundfile as sf
import soxr
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SAMPLE_RATES = (4000, 384_000)
"""Lowest and highest sample rate in Hz of a file that is read."""
MP3_RATES = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
"""Sample rates in Hz that MP3 has."""

MAX_CHANNELS = 8

SPARE = 16
"""By how many samples `ended_at` may cut."""

MAX_LEVEL = 64.0
"""Samples beyond so many times full scale are no audio but numbers on another scale."""

BLOCK = 65_536
"""Frames that are decoded, and samples that are encoded, together."""

MAX_WAV = 2**32 - 2**16
"""Bytes of samples that fit into a wav, whose sizes have 32 bits, beside its header and tags."""

TAGS = ("title", "artist", "album")
"""What of a file's tags is read and written."""

READABLE = "wav, flac, mp3, ogg, opus, aiff, m4a, mp4, webm, mka, wma, ac3 and wavpack"

Warn = Callable[[str], object]
Path_ = str | os.PathLike[str]


class AudioError(ValueError):
    """A file cannot be read or written; the message is one sentence for the one who gave it."""


@dataclass(frozen=True)
class Info:
    """What a file says of itself; nothing of it is checked against the audio.

    Args:
        seconds: length; an estimate, for headers lie and some formats do not tell.
        sample_rate: in Hz.
        channels: audio channels in the file.
        codec: short name, such as `flac` or `aac`.
        tags: those of `TAGS` that there are.
    """

    seconds: float
    sample_rate: int
    channels: int
    codec: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Encoding:
    extension: str
    container: str
    subtype: str
    bits: int | None  # of a whole number; None where samples are floats to libsndfile
    clips: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


_ENCODINGS = {
    "wav16": _Encoding("wav", "WAV", "PCM_16", 16),
    "wav24": _Encoding("wav", "WAV", "PCM_24", 24),
    "wav32f": _Encoding("wav", "WAV", "FLOAT", None, clips=False),
    "flac": _Encoding("flac", "FLAC", "PCM_16", 16),
    "flac24": _Encoding("flac", "FLAC", "PCM_24", 24),
    # the encoder's best variable rate, some 250 kbit/s: who wants small files picks another tool
    "mp3": _Encoding(
        "mp3",
        "MP3",
        "MPEG_LAYER_III",
        None,
        options={"bitrate_mode": "VARIABLE", "compression_level": 0.0},
    ),
}

FORMATS: Mapping[str, str] = MappingProxyType({k: e.extension for k, e in _ENCODINGS.items()})
"""The formats that are written, each with the extension of its files (without a dot)."""


# ----------------------------------------------------------------------------------------------
# reading


# How files begin that libsndfile may look at; its rarer parsers see no stranger's file.
_MAGIC = (b"RIFF", b"RF64", b"riff", b"FORM", b"fLaC", b"OggS", b"ID3", b"caff", b".snd")

# FFmpeg would follow a playlist to any file or address that it names. So it gets containers only,
# and of protocols only the one that opens the file itself.
_AV_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "wav,w64,mp3,flac,ogg,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,aac,aiff,caf,"
    "asf,wv,ac3,eac3,au",
    "probesize": "5000000",
    "max_streams": "16",
}
_AV_ERRORS = (av.FFmpegError, ValueError, TypeError, RuntimeError, LookupError, MemoryError)

# Containers whose stated length is worth a comparison; elsewhere FFmpeg guesses from the bit rate.
# An mp3 states it only where it has a header for that, see `_has_length`.
_STATES_LENGTH = ("mov", "matroska", "asf", "mp3")

# What stands in front of, behind and (where files were joined) between the frames of MPEG audio.
_MPEG_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")

# Gains to left and right of a speaker, after ITU-R BS.775; the effects channel is left out, as
# there.
_HALF = 0.5**0.5
_SPEAKERS = {
    "FL": (1.0, 0.0),
    "FR": (0.0, 1.0),
    "FC": (_HALF, _HALF),
    "LFE": (0.0, 0.0),
    "BL": (_HALF, 0.0),
    "BR": (0.0, _HALF),
    "SL": (_HALF, 0.0),
    "SR": (0.0, _HALF),
    "BC": (0.5, 0.5),
    "FLC": (1.0, 0.0),
    "FRC": (0.0, 1.0),
}


# What files mean that do not name their speakers, by number of channels (FFmpeg's names).
_SPEAKERS_OF = {
    3: ("FL", "FR", "FC"),
    4: ("FL", "FR", "BL", "BR"),
    5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}


class _Unreadable(Exception):
    """This decoder cannot read the file; the next one may."""


def probe(path: Path_) -> Info:
    """Look at a file without decoding it.

    Raises:
        AudioError: if there is no such file, or no audio in it that can be read.
    """
    path = _existing(path)
    looks = (_probe_soundfile, _probe_av)
    for look in reversed(looks) if _ends_early(path) else looks:
        with suppress(_Unreadable):
            return look(path)
    raise _no_audio(path)


def load(
    path: Path_,
    sample_rate: int = 44_100,
    channels: int = 2,
    max_seconds: float | None = None,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    warn: Warn | None = None,
) -> Tensor:
    """Read a whole file, or a part of it.

    Args:
        path: file of any of the usual formats.
        sample_rate: of the result, in Hz.
        channels: of the result, 1 or 2; everything else is mixed to that.
        max_seconds: longest length that is accepted; the only bound on memory here.
        start: seconds to leave out at the beginning.
        seconds: length of the part that is wanted; `None` means to the end.
        warn: called with a sentence when a damaged file is read in part; logged if `None`.

    Shape: `[C, L]`, float32.

    Raises:
        AudioError: as `stream`.
    """
    blocks = stream(
        path, sample_rate, channels, max_seconds, start=start, seconds=seconds, warn=warn
    )
    return torch.cat(list(blocks), dim=-1)


def stream(
    path: Path_,
    sample_rate: int = 44_100,
    channels: int = 2,
    max_seconds: float | None = None,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    warn: Warn | None = None,
    on_decoded: Callable[[dict[int, int]], object] | None = None,
) -> Iterator[Tensor]:
    """Read a file block by block, in the memory of a block.

    A file that is damaged on its way gives what could be decoded, and `warn` is told how much that
    is: half a song is worth more than none, and nobody should take it for the whole.

    Args:
        path: file of any of the usual formats.
        sample_rate: of the result, in Hz.
        channels: of the result, 1 or 2; everything else is mixed to that.
        max_seconds: a file that turns out longer is refused, whatever its header says.
        start: seconds to leave out at the beginning (they are decoded, so the place is exact).
        seconds: length of the part that is wanted; `None` means to the end.
        warn: called with a sentence when a damaged file is read in part; logged if `None`.
        on_decoded: called with the frames of every block that is read, by the rate that the file
            has there, for example `{48000: 4096}`.

    Shape: blocks `[C, n]`, float32, none of them empty, at least one.

    Raises:
        AudioError: if there is no such file; if nothing in it can be decoded; if it is longer than
            `max_seconds`, or ends before `start`; if `seconds` hold no sample; if its
            sample rate or number of channels is outside what is sensible; if it holds NaN, infinity
            or numbers far beyond full scale.
        ValueError: if an argument is outside its range.
    """
    if channels not in (1, 2):
        raise ValueError(f"channels={channels}; choose 1 (mono) or 2 (stereo)")
    sample_rate = _whole_rate(sample_rate)
    if max_seconds is not None and not max_seconds > 0:  # NaN would limit nothing
        raise ValueError(f"max_seconds={max_seconds}; choose more than 0, or None for no limit")
    if not 0 <= start < math.inf:
        raise ValueError(f"start={start} s; choose 0 or more")
    if seconds is not None and not 0 < seconds < math.inf:
        raise ValueError(f"seconds={seconds}; choose more than 0, or None for all to the end")
    path = _existing(path)
    warn = warn or logger.warning
    return _stream(path, sample_rate, channels, max_seconds, start, seconds, warn, on_decoded)


def _stream(
    path: Path,
    sample_rate: int,
    channels: int,
    max_seconds: float | None,
    start: float,
    seconds: float | None,
    warn: Warn,
    on_decoded: Callable[[dict[int, int]], object] | None,
) -> Iterator[Tensor]:
    decoded = _decode(path, warn)
    stop = None if seconds is None else start + seconds
    reached: Counter[int] = Counter()  # frames by their rate
    try:
        limited = _told(_limited(path, decoded, max_seconds), reached.update)
        wanted = _between(limited, start, stop)
        if on_decoded is not None:
            wanted = _told(wanted, on_decoded)
        empty = True
        for block in _resampled(wanted, sample_rate, channels):
            if block.shape[-1]:
                empty = False
                yield block
        if empty and seconds is not None and sum(n / r for r, n in reached.items()) > start:
            raise AudioError(f"{seconds:g} s of {path.name} hold no sample; choose more seconds")
        if empty:
            raise AudioError(
                f"{path.name} ends before {start:g} s; choose an earlier start"
                if start
                else f"{path.name} holds no audio"
            )
    finally:
        decoded.close()  # the file, too, when the caller stops half way


def _limited(
    path: Path, decoded: Iterable[tuple[int, np.ndarray]], max_seconds: float | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Refuse what is no audio or too much of it."""
    done = 0.0  # seconds
    for rate, block in decoded:
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            second = done + int(np.argmin(finite)) / rate
            raise AudioError(
                f"{path.name} holds NaN or infinity at {second:.1f} s; export it again"
            )
        level = float(np.abs(block).max(initial=0.0))
        if level > MAX_LEVEL:
            raise AudioError(
                f"{path.name} reaches {level:g} times full scale; "
                f"export it with full scale at 1.0 or as whole numbers"
            )
        done += len(block) / rate
        if max_seconds is not None and done > max_seconds:
            raise AudioError(
                f"{path.name} is longer than the {max_seconds:g} seconds that are allowed; "
                f"give a shorter one"
            )
        yield rate, block


def _told(
    decoded: Iterable[tuple[int, np.ndarray]], on_decoded: Callable[[dict[int, int]], object]
) -> Iterator[tuple[int, np.ndarray]]:
    for rate, block in decoded:
        on_decoded({rate: len(block)})
        yield rate, block


def _between(
    decoded: Iterable[tuple[int, np.ndarray]], start: float, stop: float | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Keep what lies between two places, in seconds."""
    before = 0.0  # seconds up to where the file last changed its rate
    done = at = 0  # frames since then, and their rate
    for rate, block in decoded:
        if rate != at:
            before += done / at if at else 0.0
            done, at = 0, rate
        first = max(round((start - before) * rate) - done, 0)
        last = len(block) if stop is None else max(round((stop - before) * rate) - done, 0)
        done += len(block)
        yield rate, block[first:last]
        if last < len(block):
            return


def _resampled(
    decoded: Iterable[tuple[int, np.ndarray]], sample_rate: int, channels: int
) -> Iterator[Tensor]:
    """Bring stereo frames `[n, 2]` to one rate and to tensors `[C, n]`."""
    rate, resampler = sample_rate, None
    for came, block in decoded:
        if channels == 1:
            block = block.mean(axis=1, keepdims=True)
        if came != rate:  # at the beginning, or a file that changes its rate on its way
            if resampler is not None:
                yield _tensor(resampler.resample_chunk(block[:0], last=True))
            rate = came
            resampler = None
            if rate != sample_rate:
                resampler = soxr.ResampleStream(rate, sample_rate, channels, dtype="float32")
        yield _tensor(block if resampler is None else resampler.resample_chunk(block))
    if resampler is not None:
        yield _tensor(resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True))


def _peeked(blocks: Iterable[Tensor]) -> tuple[Tensor | None, Iterable[Tensor]]:
    """The first block, for its shape, and all of them; `None` if there are none."""
    blocks = iter(blocks)
    first = next(blocks, None)
    return first, blocks if first is None else chain([first], blocks)


def resampled(blocks: Iterable[Tensor], rate: int, sample_rate: int) -> Iterator[Tensor]:
    """The same audio at another rate, block by block.

    Args:
        blocks: `[..., C, n]`, all but `n` alike.
        rate: theirs, in Hz.
        sample_rate: of the result, in Hz.

    Shape: blocks `[..., C, m]`; together as long in seconds, to within a sample.

    Raises:
        ValueError: if a rate is outside what can be read.
    """
    rate, sample_rate = _whole_rate(rate), _whole_rate(sample_rate)
    if rate == sample_rate:
        yield from blocks
        return
    first, blocks = _peeked(blocks)
    if first is None:
        return
    shape = first.shape[:-1]
    frames = ((rate, block.flatten(end_dim=-2).T.contiguous().float().numpy()) for block in blocks)
    for frame in _resampled(frames, sample_rate, shape.numel()):
        yield frame.unflatten(0, shape)


def at_pace(
    blocks: Iterable[Tensor], sample_rate: int, speed: float = 1.0, key: float = 0.0
) -> Iterator[Tensor]:
    """The same audio slower or faster, and higher or lower, independently of each other.

    By resampling for the key and FFmpeg's `atempo` (WSOLA) for what that leaves of the speed.

    Args:
        blocks: mono or stereo, `[C, n]`.
        sample_rate: theirs, in Hz.
        speed: how many seconds of them last one, 0.25 to 4.
        key: semitones higher, -12 to 12.

    Shape: blocks `[C, m]`; together `1 / speed` times as long, to the sample.

    Raises:
        ValueError: if the speed or the key is outside that.
    """
    if not 0.25 <= speed <= 4:
        raise ValueError(f"a speed of {speed}; choose 0.25 to 4")
    if not -12 <= key <= 12:
        raise ValueError(f"a key {key} semitones higher; choose -12 to 12")
    pitch = 2 ** (key / 12)
    came = sent = 0
    empty: Tensor | None = None

    def counted() -> Iterator[Tensor]:
        nonlocal came, empty
        for block in blocks:
            came, empty = came + block.shape[-1], block[..., :0]
            yield block
        # `atempo` loses part of its last window, and ends up to one from where it should
        if empty is not None:
            yield torch.nn.functional.pad(empty, (0, sample_rate // 4))

    higher = resampled(counted(), round(sample_rate * pitch), sample_rate)
    for block in _at_tempo(higher, sample_rate, speed / pitch):
        block = block[..., : max(0, round(came / speed) - sent)]
        sent += block.shape[-1]
        if block.shape[-1]:
            yield block


def _at_tempo(blocks: Iterable[Tensor], sample_rate: int, tempo: float) -> Iterator[Tensor]:
    if abs(tempo - 1) < 1e-6:
        yield from blocks
        return
    first, blocks = _peeked(blocks)
    if first is None:
        return
    layout, tick = ("mono", "stereo")[len(first) - 1], Fraction(1, sample_rate)
    graph = av.filter.Graph()
    source = graph.add_abuffer(None, sample_rate, "fltp", layout, time_base=tick)
    steps = math.ceil(abs(math.log2(tempo)))  # one filter halves or doubles at most
    stages = [graph.add("atempo", f"{tempo ** (1 / steps):.9f}") for _ in range(steps)]
    sink = graph.add("abuffersink")
    graph.link_nodes(source, *stages, graph.add("aformat", "sample_fmts=fltp"), sink).configure()
    done = 0
    for block in chain(blocks, [None]):
        if block is None:
            source.push(None)
        elif block.shape[-1]:
            samples = block.contiguous().float().numpy()
            frame = av.AudioFrame.from_ndarray(samples, "fltp", layout)
            frame.sample_rate, frame.time_base, frame.pts = sample_rate, tick, done
            done += frame.samples
            source.push(frame)
        with suppress(av.BlockingIOError, av.EOFError):
            while True:
                done_block: Any = sink.pull()
                yield torch.from_numpy(done_block.to_ndarray())


def ended_at(blocks: Iterable[Tensor], length: Callable[[int], int]) -> Iterator[Tensor]:
    """The same audio, cut or ended in silence by up to `SPARE` samples.

    There and back, a resampler may be a sample or two off.

    Args:
        blocks: `[..., C, n]`, all but `n` alike.
        length: is asked, once all blocks are there, how many samples there should be; it is told
            how many there are. What is further off stays as it is.
    """
    done = 0
    held: Tensor | None = None
    for block in blocks:
        if held is not None:
            block = torch.cat([held, block], dim=-1)
        keep = min(SPARE, block.shape[-1])
        ready, held = block.split([block.shape[-1] - keep, keep], dim=-1)
        done += ready.shape[-1]
        if ready.shape[-1]:
            yield ready
    if held is not None and held.shape[-1]:
        there = done + held.shape[-1]
        missing = length(there) - there
        if abs(missing) < held.shape[-1]:
            held = torch.nn.functional.pad(held, (0, missing))
        yield held


def check_format_rate(format: str, sample_rate: int) -> None:
    """Whether a format of `FORMATS` can have that rate.

    Raises:
        ValueError: if it cannot; MP3 knows nine, FLAC has high ones in tens of Hz.
    """
    sample_rate = _whole_rate(sample_rate)
    if _encoding(format).container == "MP3" and sample_rate not in MP3_RATES:
        raise ValueError(
            f"{format} has no {sample_rate} Hz; choose another format, or one of "
            f"{', '.join(map(str, MP3_RATES))} Hz"
        )
    if _encoding(format).container == "FLAC" and sample_rate > 0xFFFF and sample_rate % 10:
        raise ValueError(f"{format} has no {sample_rate} Hz; choose another format or rate")


def _whole_rate(sample_rate: float) -> int:
    """A rate as the libraries take it: one that came as 44100.0 would fail in them, and late."""
    low, high = SAMPLE_RATES
    if (
        not isinstance(sample_rate, Real)
        or not low <= sample_rate <= high  # nor NaN
        or int(sample_rate) != sample_rate
    ):
        raise ValueError(
            f"a rate of {sample_rate!r} Hz; choose a whole number from {low} to {high}"
        )
    return int(sample_rate)


def _check_channels(path: Path, format: str, channels: int) -> None:
    most = 2 if _encoding(format).container == "MP3" else MAX_CHANNELS
    if not 1 <= channels <= most:
        raise ValueError(
            f"cannot write {path.name}: {channels} channels, and {most} are the most; "
            f"audio is [C, L], so transpose it if it came as [L, C]"
        )


def _tensor(block: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(block.T, dtype=np.float32, order="C"))


def _decode(path: Path, warn: Warn) -> Any:
    """Stereo frames `[n, 2]`, float32, with their rate, by the first decoder that can."""
    decoders = (_decode_soundfile, _decode_av)
    for decode in reversed(decoders) if _ends_early(path) else decoders:
        with suppress(_Unreadable):
            yield from decode(path, warn)
            return
    raise _no_audio(path)


def _ends_early(path: Path) -> bool:
    """Whether libsndfile may take a part of a file for the whole, so that FFmpeg goes first.

    It estimates the length of MPEG audio that does not state it, and stops there; of files that
    were joined it reads the first.
    """
    with path.open("rb") as file:
        start = _behind_id3(file)
        head = file.read(4)
        if head == b"OggS":
            return _is_chained(file)
        return _is_mpeg(head) or (start > 0 and not head.startswith(_MAGIC))


def _is_mpeg(head: bytes) -> bool:
    """Whether a file begins like a frame of MPEG audio."""
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0


def _behind_id3(file: BinaryIO) -> int:
    """Go to what stands behind the ID3 tags that a file begins with, and return the place."""
    start = 0
    for _ in range(100):  # a file of nothing else would keep us busy
        file.seek(start)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3":
            break
        size = 0
        for byte in head[6:]:  # seven bits each
            size = size << 7 | byte & 0x7F
        start += 10 + size + (10 if head[5] & 0x10 else 0)  # some have a footer
    file.seek(start)
    return start


def _is_chained(file: BinaryIO) -> bool:
    """Whether an Ogg file holds streams one after another, as radio and `cat` leave them.

    The first pages of all streams that sound together come first and have the flag 2.
    """
    file.seek(0)
    others = False
    while len(page := file.read(27)) == 27 and page[:4] == b"OggS":
        begins = bool(page[5] & 2)
        if begins and others:
            return True
        others = not begins
        file.seek(sum(file.read(page[26])), os.SEEK_CUR)
    return False


def _open_soundfile(path: Path) -> sf.SoundFile:
    with path.open("rb") as file:
        head = file.read(4)
    if not _is_mpeg(head) and not head.startswith(_MAGIC):
        raise _Unreadable
    try:
        file = sf.SoundFile(_for_libsndfile(path))
    except (sf.LibsndfileError, TypeError) as error:  # TypeError: *.raw, which has no header
        raise _Unreadable from error
    try:
        _check_header(path, file.samplerate, file.channels)
    except AudioError:
        file.close()
        raise
    if file.channels > 2:  # FFmpeg knows which channel is which speaker
        file.close()
        raise _Unreadable
    return file


def _probe_soundfile(path: Path) -> Info:
    with _open_soundfile(path) as file:
        if not 0 < file.frames < 2**48:  # a stream that was never told its length
            raise _Unreadable
        tags = _clean_tags(file.copy_metadata())
        seconds = file.frames / file.samplerate
        return Info(seconds, file.samplerate, file.channels, file.format.lower(), tags)


def _decode_soundfile(path: Path, warn: Warn) -> Iterator[tuple[int, np.ndarray]]:
    with _open_soundfile(path) as file:
        rate, done = file.samplerate, 0
        while True:
            try:
                # not `blocks()`, which gives as many frames as the header promises
                block = file.read(BLOCK, dtype="float32", always_2d=True)
            except sf.LibsndfileError as error:
                if not done:
                    raise _Unreadable from error
                yield from _behind_damage(path, warn, rate, done, file.frames)
                return
            if not len(block):
                break
            done += len(block)
            yield rate, _stereo(block)
        if not done:
            raise _Unreadable
        _tell(path, warn, done / rate, file.frames / rate, _cut_off(path))


def _behind_damage(
    path: Path, warn: Warn, rate: int, done: int, announced: int
) -> Iterator[tuple[int, np.ndarray]]:
    """What FFmpeg, which finds its way again, decodes of a file behind the first `done` frames."""
    told: list[str] = []
    skip, seconds = done, done / rate
    with suppress(_Unreadable):
        for came, block in _decode_av(path, told.append):
            rest = block[skip:]
            skip -= len(block) - len(rest)
            if len(rest):
                seconds += len(rest) / came
                yield came, rest
    _tell(path, warn, seconds, announced / rate, True)


def _open_av(path: Path, stack: ExitStack) -> tuple[Any, Any]:
    try:
        # an absolute path, for FFmpeg takes what stands before a colon for a protocol
        container = stack.enter_context(
            av.open(os.path.abspath(path), options=dict(_AV_OPTIONS), metadata_errors="replace")
        )
        # a track of an unknown codec has no context
        tracks = [track for track in container.streams.audio if track.codec_context is not None]
        return container, tracks[0]
    except (*_AV_ERRORS, OSError) as error:
        raise _Unreadable from error


def _probe_av(path: Path) -> Info:
    with ExitStack() as stack:
        container, track = _open_av(path, stack)
        try:
            context = track.codec_context
            _check_header(path, context.sample_rate, context.channels)
            tags = _clean_tags({**track.metadata, **container.metadata})
            seconds = _stated_seconds(path, container, track) or _seconds_of_packets(
                container, track
            )
            codec = context.codec.canonical_name
            return Info(seconds, context.sample_rate, context.channels, codec, tags)
        except AudioError:
            raise
        except (*_AV_ERRORS, OSError) as error:
            raise _Unreadable from error


def _stated_seconds(path: Path, container: Any, track: Any) -> float | None:
    """Length of the audio by the headers; `None` where there is none that can be trusted."""
    name = container.format.name
    if name == "mp3" and not _has_length(path):
        return None
    if name == "aac" or (name == "ogg" and _ends_early(path)):
        return None
    if name.startswith("mov") and track.duration:
        return float(track.duration * track.time_base)
    if not container.duration:
        return None
    # elsewhere FFmpeg gives the track the container's length, which counts from the first picture
    start = float((track.start_time or 0) * track.time_base) if name[:8] == "matroska" else 0.0
    return max(container.duration / av.time_base - start, 0.0) or None


def _has_length(path: Path) -> bool:
    """Whether MPEG audio states its length, and for the whole file rather than its first part."""
    with path.open("rb") as file:
        start = _behind_id3(file)
        head, size = file.read(200), path.stat().st_size - start
    place = max(head.find(b"Xing", 4, 64), head.find(b"Info", 4, 64))
    if place < 0:
        return False
    flags, _, n_bytes = struct.unpack_from(">III", head.ljust(200, b"\0"), place + 4)
    return bool(flags & 1) and (flags & 3 == 1 or size <= 1.05 * n_bytes)


def _seconds_of_packets(container: Any, track: Any) -> float:
    """Length in seconds by the packets: recordings from browsers, for one, state none."""
    first: float | None = None
    end = total = 0.0
    for packet in container.demux(track):
        length = float((packet.duration or 0) * track.time_base)
        total += length
        if packet.pts is not None:
            begin = float(packet.pts * track.time_base)
            first = begin if first is None else first
            end = max(end, begin + length)
    return max(total, end - (first or 0.0))


def _decode_av(path: Path, warn: Warn) -> Iterator[tuple[int, np.ndarray]]:
    with ExitStack() as stack:
        container, track = _open_av(path, stack)
        done, damaged = 0.0, False
        tag = padding = False  # what failed last is none of the audio
        packets = container.demux(track)
        while True:
            packet = None
            try:
                packet = next(packets, None)
                frames = packet.decode() if packet is not None else []
            except av.InvalidDataError:  # a damaged packet; the next one may be sound
                data = b"" if packet is None else bytes(packet)
                tag = tag or data.startswith(_MPEG_TAGS)
                padding = bool(data) and not any(data)
                damaged = damaged or not (tag or padding)
                continue
            except (*_AV_ERRORS, OSError):
                damaged = True
                break
            if packet is None:
                break
            if frames:
                damaged = damaged or padding  # zeros are padding at the end only
                tag = padding = False
            for frame in frames:
                rate, speakers = frame.sample_rate, [c.name for c in frame.layout.channels]
                _check_header(path, rate, len(speakers))
                block = _stereo(_samples(frame, len(speakers)), speakers)
                done += len(block) / rate
                yield rate, block
        if not done:
            raise _Unreadable
        announced = None
        if container.format.name.startswith(_STATES_LENGTH) and not _has_pictures(container, track):
            announced = _stated_seconds(path, container, track)
        _tell(path, warn, done, announced or 0.0, damaged or _cut_off(path))


def _has_pictures(container: Any, track: Any) -> bool:
    """Whether the container's length may be that of a video; mov states each track's own."""
    if container.format.name.startswith("mov") and track.duration:
        return False
    cover = av.stream.Disposition.attached_pic
    return any(not video.disposition & cover for video in container.streams.video)


def _samples(frame: Any, channels: int) -> np.ndarray:
    """The samples of a decoded frame, `[n, C]`, float32."""
    try:
        array = frame.to_ndarray()
    except ValueError as error:
        raise AudioError(f"samples of the kind {frame.format.name} cannot be read") from error
    frames = array.T if frame.format.is_planar else array.reshape(-1, channels)
    if frames.dtype.kind == "f":
        return frames.astype(np.float32)
    middle = 128.0 if frames.dtype == np.uint8 else 0.0
    return ((frames - middle) / 2.0 ** (8 * frames.dtype.itemsize - 1)).astype(np.float32)


def _stereo(frames: np.ndarray, speakers: Sequence[str] = ()) -> np.ndarray:
    """Mix frames `[n, C]` of one or two channels, or of named speakers, to `[n, 2]`."""
    channels = frames.shape[1]
    if channels == 1:
        return np.repeat(frames, 2, axis=1)
    if channels == 2:
        return frames
    if not set(speakers) <= set(_SPEAKERS):
        speakers = _SPEAKERS_OF[channels]
    gains = [_SPEAKERS[speaker] for speaker in speakers]
    return frames @ np.array(gains, dtype=np.float32)


def _existing(path: Path_) -> Path:
    path = Path(path)
    try:
        if path.is_dir():
            raise AudioError(f"{path} is a folder; give a file")
        if not path.is_file():
            if path.exists() or str(path) == "-":
                raise AudioError(
                    f"there is no file {path}, only a pipe or a device; save the song as a file"
                )
            raise AudioError(f"there is no file {path}")
        if not path.stat().st_size:
            raise AudioError(f"{path.name} is empty")
        with path.open("rb"):
            return path
    except (OSError, ValueError) as error:
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{path.name!r} cannot be opened: {_reason(error)}") from error


def _for_libsndfile(path: Path) -> str | bytes:
    """The path as libsndfile takes it: soundfile refuses text that UTF-8 cannot hold.

    Songs from old discs and archives have such names.
    """
    return str(path) if os.name == "nt" else os.fsencode(path)


def _check_header(path: Path, sample_rate: int, channels: int) -> None:
    low, high = SAMPLE_RATES
    if not low <= sample_rate <= high:
        raise AudioError(
            f"{path.name} has a sample rate of {sample_rate} Hz; {low} to {high} Hz can be read"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{path.name} has {channels} channels; 1 to {MAX_CHANNELS} can be read")


def _tell(path: Path, warn: Warn, done: float, announced: float, damaged: bool) -> None:
    # an encoder's padding may make the difference of a fraction of a second
    padding = min(0.03 * announced + 0.2, 0.5)
    if announced < 2**40 and done < announced - padding:
        warn(f"{path.name} is damaged: only {done:.1f} of its {announced:.1f} seconds can be read")
    elif damaged:
        warn(f"{path.name} is damaged: {done:.1f} seconds of it could be read")


def _cut_off(path: Path) -> bool:
    """Whether libsndfile takes for whole what lacks its end, or whose header reaches half way."""
    with path.open("rb") as file:
        head, size = file.read(8), path.stat().st_size
        if head[:4] in (b"RIFF", b"FORM"):
            announced = int.from_bytes(head[4:], "little" if head[:4] == b"RIFF" else "big") + 8
            # 32 bits that ran over tell how much lies beyond 4 GB; zero tells nothing
            if announced > 8 and size >= announced + 2**32 - 2**16:
                return True
            # sizes near 4 GB stand for "not known", and so do those near 2 GB of sox and arecord
            unknown = announced >= 2**32 - 2**16 or 0x7F000000 <= announced <= 0x80000000 + 2**10
            # a few bytes of padding may be missing
            return size + 8 < announced and not unknown
        if head[:4] == b"OggS":  # the last page of a whole stream carries the flag 4
            file.seek(max(size - 2**17, 0))
            _, page, rest = file.read().rpartition(b"OggS")
            return bool(page) and not (len(rest) > 1 and rest[1] & 4)
    return False


def _no_audio(path: Path) -> AudioError:
    with suppress(_Unreadable), _open_soundfile(path) as file:
        if not file.frames and not _cut_off(path):
            return AudioError(f"{path.name} is empty: 0 samples")
    return AudioError(
        f"{path.name} holds no audio that can be read; what can be: {READABLE}, if all of the file "
        f"is there"
    )


def _clean_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of `TAGS`, each one line of at most 200 characters."""
    lower = {key.lower(): value for key, value in tags.items()}
    lines = {key: " ".join(lower.get(key, "").split()) for key in TAGS}
    printable = {k: "".join(c for c in v if c.isprintable())[:200] for k, v in lines.items()}
    return {key: value for key, value in printable.items() if value}


def _reason(error: Exception) -> str:
    # libsndfile's own words are `error_string`; the rest tells of a file that has no name yet
    own = getattr(error, "strerror", None) or getattr(error, "error_string", None)
    return (own or str(error)).rstrip(".").lower()


# ----------------------------------------------------------------------------------------------
# writing


def save(
    path: Path_,
    audio: Tensor,
    sample_rate: int = 44_100,
    format: str | None = None,
    *,
    tags: Mapping[str, str | None] | None = None,
) -> float:
    """Write a file; what would clip is turned down as a whole.

    Args:
        path: the file; it appears when it is complete, in place of one that was there.
        audio: `[C, L]`, floating-point numbers.
        sample_rate: in Hz.
        format: one of `FORMATS`; `None` takes the first that has the path's extension.
        tags: title, artist, album.

    Returns:
        The gain that was applied: 1.0, or less where the format holds no sample above full scale
        and the audio had some.

    Raises:
        AudioError: if the file cannot be written.
        ValueError: if the format or a tag is unknown, the format has no such rate or not so many
            channels, or the audio has another shape or holds NaN or infinity.
    """
    audio = _checked(audio, None)
    format = format or _format_of(Path(path))
    gain = clip_gain(float(audio.abs().max()) if audio.numel() else 0.0, format)
    shape = {"channels": audio.shape[0], "frames": audio.shape[1]}
    with Writer(path, sample_rate, format=format, tags=tags, **shape) as writer:
        for block in audio.split(BLOCK, dim=-1):
            writer.write(block * gain)
    return gain


def clip_gain(peak: float, format: str) -> float:
    """The gain that keeps audio of this peak from clipping in a format, at most 1.

    >>> clip_gain(2.0, "wav16"), clip_gain(2.0, "wav32f"), clip_gain(0.5, "flac")
    (0.5, 1.0, 1.0)
    """
    return 1.0 / peak if _encoding(format).clips and peak > 1.0 else 1.0


class Writer:
    """Write a file block by block. It appears under its name when it is complete.

    Args:
        path: the file; its folder must exist. Where it is a link, what that points to is written.
        sample_rate: in Hz.
        channels: audio channels, `C`.
        format: one of `FORMATS`; `None` takes the first that has the path's extension.
        tags: title, artist, album.
        frames: samples that are going to be written, if known; a wav file that will be larger
            than the 4 GB of its format is then written as RF64.

    Attributes:
        peak: the largest magnitude that was written; above 1.0 it was cut off, except in `wav32f`.

    Raises:
        AudioError: if the file cannot be written.
        ValueError: if the format or a tag is unknown, the format has no such rate or not so many
            channels, or a block has another shape or holds NaN or infinity.
    """

    def __init__(
        self,
        path: Path_,
        sample_rate: int = 44_100,
        channels: int = 2,
        format: str | None = None,
        *,
        tags: Mapping[str, str | None] | None = None,
        frames: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.channels = channels
        self.peak = 0.0
        self.frames = 0
        sample_rate = _whole_rate(sample_rate)
        format = format or _format_of(self.path)
        self._encoding = encoding = _encoding(format)
        check_format_rate(format, sample_rate)
        _check_channels(self.path, format, channels)
        _refuse_devices(self.path)
        tags = _checked_tags(tags)
        # libsndfile hands UTF-8 to LAME, which calls it Latin-1: an mp3's tags are written here
        self._id3 = _id3(tags) if encoding.container == "MP3" else b""
        width = {"PCM_16": 2, "PCM_24": 3}.get(encoding.subtype, 4) * channels
        fits = MAX_WAV // width
        large = encoding.container == "WAV" and frames is not None and frames > fits
        self._limit = fits if encoding.container == "WAV" and not large else None
        self._target = Path(os.path.realpath(path)) if os.path.islink(path) else self.path
        self._part = _hidden(self._target)
        try:
            self._file = sf.SoundFile(
                _for_libsndfile(self._part),
                "w",
                sample_rate,
                channels,
                format="RF64" if large else encoding.container,
                subtype=encoding.subtype,
                **encoding.options,
            )
            if encoding.container != "MP3":
                for key, value in tags.items():
                    setattr(self._file, key, value)
        except (sf.SoundFileError, ValueError, OSError) as error:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)
            raise _cannot_write(self.path, error) from error

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def write(self, block: Tensor) -> None:
        """Append a block `[C, n]`."""
        samples = _checked(block, self.channels).T.numpy()
        self.peak = max(self.peak, float(np.abs(samples).max(initial=0.0)))
        self.frames += len(samples)
        if self._limit is not None and self.frames > self._limit:
            raise AudioError(f"{self.path.name} would pass the 4 GB that wav can hold; use flac")
        if self._encoding.bits is not None:
            samples = _quantise(samples, self._encoding.bits)
        try:
            for start in range(0, len(samples), BLOCK):
                self._file.write(samples[start : start + BLOCK])
        except (sf.SoundFileError, AssertionError, OSError) as error:
            raise _cannot_write(self.path, error) from error

    def close(self) -> None:
        """Complete the file and let it appear under its name."""
        if self._file.closed:
            return
        if not self.frames and self._encoding.container != "WAV":
            self.discard()
            raise AudioError(f"cannot write {self.path.name}: no samples, and only wav takes none")
        try:
            self._file.close()
            if self._id3:
                self._put_in_front(self._id3)
            # a full disk is not always reported
            with sf.SoundFile(_for_libsndfile(self._part)) as written:
                if written.frames != self.frames:
                    raise OSError("the disk may be full")
            os.replace(self._part, self._target)
        except (sf.SoundFileError, OSError) as error:
            raise _cannot_write(self.path, error) from error
        finally:
            self._part.unlink(missing_ok=True)

    def _put_in_front(self, data: bytes) -> None:
        """Let the hidden file begin with these bytes."""
        plain, self._part = self._part, _hidden(self._target)
        try:
            with plain.open("rb") as source, self._part.open("xb") as target:
                target.write(data)
                shutil.copyfileobj(source, target)
        finally:
            plain.unlink(missing_ok=True)

    def discard(self) -> None:
        """Stop and leave nothing behind."""
        with suppress(sf.SoundFileError, OSError):
            self._file.close()
        self._part.unlink(missing_ok=True)


class GrowingWriter:
    """Write a 16-bit wav that can be read at any time while it grows.

    Its header, 44 bytes, is right after every block. What exceeds full scale is cut off.

    Args:
        path: the file, visible from the start; an error on the way leaves what there is.
        sample_rate: in Hz.
        channels: audio channels, `C`.

    Attributes:
        frames: samples that were written.
        peak: the largest magnitude that was written; above 1.0 it was cut off.

    Raises:
        AudioError: if the file cannot be written.
        ValueError: if wav has no such rate or not so many channels, or a block has another shape
            or holds NaN or infinity.
    """

    def __init__(self, path: Path_, sample_rate: int = 44_100, channels: int = 2) -> None:
        self.path = Path(path)
        self.channels = channels
        self.frames = 0
        self.peak = 0.0
        sample_rate = _whole_rate(sample_rate)
        _check_channels(self.path, "wav16", channels)
        _refuse_devices(self.path)
        try:
            self._file = self.path.open("wb")
            self._wave = wave.open(self._file, "wb")  # noqa: SIM115
            self._wave.setnchannels(channels)
            self._wave.setsampwidth(2)
            self._wave.setframerate(sample_rate)
            self._wave.writeframes(b"")
            self._file.flush()
        except OSError as error:
            if hasattr(self, "_wave"):  # left open, it would complain when it is collected
                with suppress(AudioError):
                    self.close()
            raise _cannot_write(self.path, error) from error

    def __enter__(self) -> GrowingWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except AudioError:
            if kind is None:  # or it would hide what stopped the work
                raise

    def write(self, block: Tensor) -> None:
        """Append a block `[C, n]`."""
        if self._file.closed:
            raise AudioError(f"cannot write {self.path.name}: it was closed")
        samples = _checked(block, self.channels).T.numpy()
        self.peak = max(self.peak, float(np.abs(samples).max(initial=0.0)))
        if (self.frames + len(samples)) * 2 * self.channels > MAX_WAV:
            raise AudioError(f"{self.path.name} would pass the 4 GB that wav can hold")
        try:
            self._wave.writeframes((_quantise(samples, 16) >> 16).astype("<i2").tobytes())
            self._file.flush()
            self.frames += len(samples)
        except OSError as error:
            raise _cannot_write(self.path, error) from error

    def close(self) -> None:
        """Close the file, which stays as it is."""
        try:
            try:
                self._wave.close()
            finally:
                self._file.close()
        except OSError as error:
            raise _cannot_write(self.path, error) from error


WORK = ".stems-"
"""How the hidden folders begin in which stems are kept until all of them are there."""


class StemWriter:
    """Write the stems of one song while they are being made, all of them or none.

    Blocks go to raw 32-bit floats in a hidden folder beside the stems. At the end all stems are
    turned down by one gain if any would clip, so that they still add up to the (quieter) song, and
    encoded; then they appear together, in place of what was there. An exception inside the `with`
    leaves nothing behind. What a writer that was killed left there goes after a day.

    Args:
        folder: where the stems go; it is made if need be.
        names: the stems, in the order of the axis `S`; files are called `<name>.<extension>`. A
            mapping gives each stem another file name (without extension).
        format: one of `FORMATS`.
        sample_rate: in Hz.
        tags: title, artist, album of the song; each stem's title gets its name in brackets.

    Attributes:
        paths: the files by stem, once `finish` is through.
        gain: what `finish` applied; 1.0 where nothing would clip.
        peak: the largest magnitude of all stems before the gain.

    Raises:
        AudioError: if a file cannot be written.
        ValueError: if the format or a tag is unknown, the format has no such rate or not so many
            channels, a name is no file name, or a block has another shape or holds NaN or infinity,
            none of which is then written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with StemWriter(folder, ["vocals", "drums"], "wav16") as stems:
    ...         stems.write(torch.full((2, 2, 100), 4.0))
    ...     stems.gain, sorted(path.name for path in Path(folder).iterdir())
    (0.25, ['drums.wav', 'vocals.wav'])
    """

    def __init__(
        self,
        folder: Path_,
        names: Sequence[str] | Mapping[str, str],
        format: str = "wav16",
        sample_rate: int = 44_100,
        tags: Mapping[str, str | None] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.format = format
        self.sample_rate = _whole_rate(sample_rate)
        self.tags = _checked_tags(tags)
        self.gain = 1.0
        self.peak = 0.0
        self.frames = 0
        self.paths: dict[str, Path] = {}
        files = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
        extension = _encoding(format).extension
        check_format_rate(format, self.sample_rate)
        if not files or len(set(files.values())) < len(names):
            raise ValueError(f"the stems are called {list(names)}; give different names")
        for name in files.values():
            if not name or set(name) & set('/\\:*?"<>|') or min(name) < " ":
                raise ValueError(f"{name!r} is no name for a file; use letters, digits and spaces")
        self._targets = {stem: self.folder / f"{name}.{extension}" for stem, name in files.items()}
        for target in self._targets.values():
            _refuse_devices(target)
        self._channels: int | None = None
        self._finished = False
        self._made: list[Path] = []
        self._undo: list[tuple[Path, Path]] = []  # from where to where; noted before it is done
        try:
            self._made = [p for p in (self.folder, *self.folder.parents) if not p.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            _clear_leftovers(self.folder)
            # known before it is there, so that Ctrl-C in between leaves nothing
            self._work = self.folder / f"{WORK}{secrets.token_hex(8)}"
            self._work.mkdir(mode=0o700)
            self._raw = {stem: (self._work / f"{i}.f32").open("wb") for i, stem in enumerate(files)}
        except BaseException as error:  # Ctrl-C, too
            self.discard()
            if isinstance(error, OSError):
                raise _cannot_write(self.folder, error) from error
            raise

    def __enter__(self) -> StemWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and not self._finished:
                self.finish()
        finally:
            self.discard()  # once more, where Ctrl-C stopped that

    def write(self, block: Tensor) -> None:
        """Append a block `[S, C, n]`."""
        if not isinstance(block, Tensor):
            came = type(block).__name__
            raise ValueError(f"audio came as {came}; give floating-point tensors [S, C, n]")
        if block.dim() != 3 or block.shape[0] != len(self._raw):
            raise ValueError(
                f"a block of stems has the shape {list(block.shape)}; give [{len(self._raw)}, C, n]"
            )
        if self._channels is None:
            _check_channels(next(iter(self._targets.values())), self.format, block.shape[1])
        # all of them first, or the stems before the one that is refused would be ahead
        checked = [_checked(stem, self._channels).T.numpy() for stem in block]
        for samples, file in zip(checked, self._raw.values(), strict=True):
            self.peak = max(self.peak, float(np.abs(samples).max(initial=0.0)))
            try:
                file.write(samples.tobytes())
            except OSError as error:
                raise _cannot_write(self.folder, error) from error
        self._channels = block.shape[1]
        self.frames += block.shape[2]

    def finish(self, progress: Callable[[float], object] | None = None) -> float:
        """Encode the stems and let them appear; at the end of the `with` it happens by itself.

        Args:
            progress: called with the share that is encoded, up to 1.0; an exception that it
                raises stops the work and leaves nothing behind.

        Returns:
            The gain that all stems were turned down by, 1.0 if none would have clipped.
        """
        try:
            return self._finish(progress or (lambda share: None))
        except OSError as error:
            raise _cannot_write(self.folder, error) from error
        finally:
            self.discard()

    def _finish(self, progress: Callable[[float], object]) -> float:
        if self._channels is None:
            raise ValueError("no block of stems was written; write at least one")
        gain = clip_gain(self.peak, self.format)
        encoded = {stem: self._work / target.name for stem, target in self._targets.items()}
        done = 0
        for stem, path in encoded.items():
            self._raw[stem].close()
            tags = dict(self.tags)
            if "title" in tags:
                tags["title"] += f" ({stem})"
            shape = {"channels": self._channels, "frames": self.frames}
            with (
                open(self._raw[stem].name, "rb") as raw,
                Writer(path, self.sample_rate, format=self.format, tags=tags, **shape) as writer,
            ):
                while data := raw.read(BLOCK * 4 * self._channels):
                    block = torch.frombuffer(bytearray(data), dtype=torch.float32)
                    writer.write(block.view(-1, self._channels).T * gain)
                    done += block.numel() // self._channels
                    progress(done / (self.frames * len(encoded)))
            os.unlink(self._raw[stem].name)  # or all would be there twice before they appear
        self._let_appear(encoded)
        self.gain, self.paths, self._finished = gain, dict(self._targets), True
        return gain

    def _let_appear(self, encoded: Mapping[str, Path]) -> None:
        """Put all stems in place of what was there; until the last one is, `discard` undoes it."""
        try:
            for i, (stem, target) in enumerate(self._targets.items()):
                if target.is_dir() and not target.is_symlink():
                    raise IsADirectoryError(errno.EISDIR, "there is a folder of that name")
                if os.path.lexists(target):
                    old = self._work / f"{i}.old"
                    self._undo.append((old, target))
                    os.replace(target, old)
                else:
                    self._undo.append((target, encoded[stem]))
            for stem, path in encoded.items():
                target = self._targets[stem]
                os.replace(path, target)
        except OSError as error:
            raise _cannot_write(target, error) from error
        self._undo.clear()

    def discard(self) -> None:
        """Stop and leave nothing behind, except what `finish` completed.

        Stems that were there before and cannot be put back stay in the hidden folder, as the log
        tells. Where this is stopped itself, it can be called again.
        """
        for file in getattr(self, "_raw", {}).values():
            with suppress(OSError):
                file.close()
        for source, place in self._undo:
            with suppress(OSError):  # nothing is there, too, where it was not done or is undone
                os.replace(source, place)
        if any(old.parent == self._work and os.path.lexists(old) for old, _ in self._undo):
            logger.warning("stems that were there before could not be put back: %s", self._work)
        elif hasattr(self, "_work"):
            shutil.rmtree(self._work, ignore_errors=True)
        if not self._finished:
            for folder in self._made:  # only those that we made, and only while they are empty
                with suppress(OSError):
                    folder.rmdir()


def _clear_leftovers(folder: Path) -> None:
    """Delete the working folders in which nothing was written for a day."""
    for work in folder.glob(f"{WORK}*"):
        with suppress(OSError):
            newest = max(path.stat().st_mtime for path in (work, *work.iterdir()))
            if time.time() - newest > 86400:
                shutil.rmtree(work, ignore_errors=True)


def _checked(block: Tensor, channels: int | None) -> Tensor:
    """The block as float32 on the CPU, if it is `[C, n]` and finite."""
    if not isinstance(block, Tensor) or block.dim() != 2 or not block.is_floating_point():
        came = list(block.shape) if isinstance(block, Tensor) else type(block).__name__
        raise ValueError(f"audio came as {came}; give floating-point tensors [C, n]")
    if channels is not None and block.shape[0] != channels:
        raise ValueError(f"a block has {block.shape[0]} channels, those before had {channels}")
    block = block.detach().cpu().float()
    if not torch.isfinite(block).all():
        raise ValueError("audio to be written holds NaN or infinity")
    return block


def _quantise(samples: np.ndarray, bits: int) -> np.ndarray:
    """Round to whole numbers of so many bits, in the upper bits of an int32.

    libsndfile's own conversion rounds downwards, which leaves a bias of half a step.

    >>> (_quantise(np.array([-1.0, 0.0, 0.5, 1.0]), 16) >> 16).tolist()
    [-32768, 0, 16384, 32767]
    """
    top = 2 ** (bits - 1)
    whole = np.rint(samples.astype(np.float64) * top).clip(-top, top - 1)
    return whole.astype(np.int32) << (32 - bits)


def _encoding(format: str) -> _Encoding:
    try:
        return _ENCODINGS[format]
    except KeyError:
        raise ValueError(
            f"no format is called {format!r}; choose one of {', '.join(FORMATS)}"
        ) from None


def _format_of(path: Path) -> str:
    for name, extension in FORMATS.items():
        if path.suffix.lower() == f".{extension}":
            return name
    raise ValueError(
        f"{path.name} does not tell its format; "
        f"end it in {', '.join('.' + e for e in dict.fromkeys(FORMATS.values()))}"
    )


def _checked_tags(tags: Mapping[str, str | None] | None) -> dict[str, str]:
    unknown = sorted(set(tags or {}) - set(TAGS))
    if unknown:
        raise ValueError(f"the tag {unknown[0]!r} is unknown; choose of {', '.join(TAGS)}")
    given = {key: value for key, value in (tags or {}).items() if value is not None}
    for key, value in given.items():
        if not isinstance(value, str):
            raise ValueError(f"the tag {key} is {value!r}; give text, or None to leave it out")
    return _clean_tags(given)


_ID3_FRAMES = {"title": b"TIT2", "artist": b"TPE1", "album": b"TALB"}


def _id3(tags: Mapping[str, str]) -> bytes:
    """Tags as ID3v2.3, which every player reads; nothing where there are none.

    >>> _id3({"title": "Go"})
    b'ID3\\x03\\x00\\x00\\x00\\x00\\x00\\rTIT2\\x00\\x00\\x00\\x03\\x00\\x00\\x00Go'
    """
    frames = b""
    for key, value in tags.items():
        # the first byte names the encoding: Latin-1, or UTF-16 with its byte order before it
        plain = value.isascii()
        text = b"\0" + value.encode("ascii") if plain else b"\1\xff\xfe" + value.encode("utf-16-le")
        frames += _ID3_FRAMES[key] + len(text).to_bytes(4, "big") + b"\0\0" + text
    if not frames:
        return b""
    size = bytes(len(frames) >> shift & 0x7F for shift in (21, 14, 7, 0))  # seven bits each
    return b"ID3\3\0\0" + size + frames


def _refuse_devices(path: Path) -> None:
    """A file would take the place of a pipe, and whoever reads there would wait for ever."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise AudioError(f"cannot write {path.name}: it is a pipe or a device; name a file")


def _hidden(path: Path) -> Path:
    """A name in the same folder that nobody looks at, so that the last step is a rename.

    It does not contain the file's own name, which may be as long as a name can be.
    """
    return path.with_name(f".{os.getpid()}-{os.urandom(4).hex()}.part")


def _cannot_write(path: Path, error: Exception) -> AudioError:
    reason = _reason(error)
    # only where the system gave no better reason
    if not getattr(error, "strerror", None) or isinstance(error, FileNotFoundError):
        with suppress(OSError):  # a folder that hides what it holds
            if not path.parent.is_dir():
                return AudioError(f"cannot write {path.name}: there is no folder {path.parent}")
    if reason in ("", "system error"):  # all that libsndfile tells of a disk
        reason = "the disk may be full or the folder closed to writing"
    return AudioError(f"cannot write {path.name}: {reason}")
