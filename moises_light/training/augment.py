"""Changes of timbre, room, speed and place that keep a piece of audio in its class.

Everything linear happens in one pass through the spectrum: a piece is transformed once, shaped by
an equaliser and sometimes a room, and transformed back at another length, which resamples it.
"""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass

import numpy as np
import soundfile
from scipy import fft

SAMPLE_RATE = 44100
MARGIN = 2048
"""Fewest samples read on both sides of a piece and cut off again.

What an equaliser wraps round ends there. The tail of a room is longer: what it has beyond the end
is heard at the beginning, in place of the tail of what was played before.
"""


@dataclass(frozen=True)
class Shape:
    """What `reshape` does to one piece.

    Args:
        low, high: gain of a shelf below and above, in dB.
        low_at, high_at: their corner frequencies in Hz.
        bell, bell_at: gain in dB and centre in Hz of a bell one octave wide.
        cutoff: frequency in Hz above which nothing passes, or None.
        room: seconds of reverberation to -60 dB; 0 for none.
        wet: level of the room beside the dry sound.
        room_seed: which room of that length.
    """

    low: float = 0.0
    low_at: float = 150.0
    high: float = 0.0
    high_at: float = 4000.0
    bell: float = 0.0
    bell_at: float = 1000.0
    cutoff: float | None = None
    room: float = 0.0
    wet: float = 0.2
    room_seed: int = 0

    @property
    def is_flat(self) -> bool:
        return not (self.low or self.high or self.bell or self.cutoff or self.room)


def draw_shape(
    rng: np.random.Generator,
    *,
    room: float = 0.15,
    cutoff: float | None = None,
    bright: float = 0.0,
) -> Shape:
    """A random equaliser, two times in three, and a room with probability `room`.

    With probability `bright`, highs are raised by 4 to 12 dB, as in a mix that wants a source to
    shine; few samples and soundfonts have by themselves what a finished record has there.
    """
    eq = rng.random() < 0.67
    has_room = rng.random() < room
    values = rng.normal(0, (3.0, 3.0, 2.5)).clip(-8, 8) * eq
    if bright and rng.random() < bright:
        values[1] = rng.uniform(4, 12)
    return Shape(
        low=float(values[0]),
        low_at=float(60 * 2 ** rng.uniform(0, 2.5)),
        high=float(values[1]),
        high_at=float(1500 * 2 ** rng.uniform(0, 2.5)),
        bell=float(values[2]),
        bell_at=float(200 * 2 ** rng.uniform(0, 5)),
        cutoff=cutoff,
        room=float(rng.uniform(0.15, 0.9)) if has_room else 0.0,
        wet=float(rng.uniform(0.1, 0.45)),
        room_seed=int(rng.integers(2**31)),
    )


def response(shape: Shape, frequencies: np.ndarray) -> np.ndarray:
    """Gain of the equaliser at each frequency in Hz; zero phase.

    Both shelves follow `1 / (1 + ratio^2)`, the power response of a first-order filter.
    """
    f = np.maximum(frequencies, 1.0)
    gain = shape.low / (1 + (f / shape.low_at) ** 2)
    gain += shape.high / (1 + (shape.high_at / f) ** 2)
    gain += shape.bell * np.exp(-0.5 * (np.log2(f / shape.bell_at) / 0.5) ** 2)
    linear = 10 ** (gain / 20)
    if shape.cutoff is not None:
        # a raised cosine over 600 Hz below the edge rings less than a brick wall
        linear *= 0.5 - 0.5 * np.cos(np.pi * ((shape.cutoff - f) / 600).clip(0, 1))
    return linear


def room_response(shape: Shape, n: int) -> np.ndarray:
    """Spectrum of a room for pieces of `n` samples: direct sound and a tail of noise, `[2, n/2+1]`.

    The tail is unlike on left and right, starts after up to 30 ms and dulls as real rooms do.
    """
    rng = np.random.default_rng(shape.room_seed)
    length = min(int(shape.room * SAMPLE_RATE), n)
    time = np.arange(length, dtype=np.float32) / SAMPLE_RATE
    tail = rng.standard_normal((2, length), dtype=np.float32) * np.exp(-6.9 * time / shape.room)
    tail = tail[:, 1:] + rng.uniform(0.2, 0.8) * tail[:, :-1]
    tail *= np.float32(shape.wet / np.sqrt(np.square(tail).sum() / 2))
    spectrum = fft.rfft(np.roll(np.pad(tail, ((0, 0), (0, n - length + 1))), rng.integers(1300)), n)
    return 1 + spectrum


def reshape(piece: np.ndarray, shape: Shape, length: int) -> np.ndarray:
    """Equalise, put into a room and resample, all at once.

    Args:
        piece: audio `[C, n]` with its margins, `n` and where to begin from `piece_frame`.
        length: samples to return; a piece that was longer comes out faster and higher.

    Returns:
        `[C, length]` float32.
    """
    n = piece.shape[-1]
    out_n = _with_margins(length)
    begin = (out_n - length) // 2
    if shape.is_flat and n == out_n:
        return piece[:, begin : begin + length]
    spectrum = fft.rfft(piece)
    bins = min(n, out_n) // 2 + 1
    spectrum = spectrum[:, :bins]
    if not shape.is_flat:
        # in Hz of the output, where the listener is: cutoff and corners stay with speed changes
        grid = np.geomspace(10, SAMPLE_RATE / 2, 256)
        if shape.cutoff is not None:
            grid = np.union1d(grid, shape.cutoff - np.linspace(600, 0, 30))
        curve = np.interp(
            np.arange(bins, dtype=np.float32) * (SAMPLE_RATE / out_n), grid, response(shape, grid)
        ).astype(np.float32)
        spectrum *= curve
        if shape.room:
            spectrum *= room_response(shape, out_n)[:, :bins]
    out = fft.irfft(spectrum, out_n) * np.float32(out_n / n)
    return out[:, begin : begin + length]


def _with_margins(length: int) -> int:
    """Samples of a piece with its margins: at least `MARGIN` each, a length with a quick FFT."""
    return int(fft.next_fast_len(length + 2 * MARGIN, real=True))


def piece_frame(length: int, speed: float) -> tuple[int, int]:
    """Samples to read for `length` samples at about that speed, and how many of them come before.

    >>> piece_frame(44100, 1.0)
    (48600, 2250)
    """
    out_n = _with_margins(length)
    n = out_n if speed == 1.0 else int(fft.next_fast_len(round(out_n * speed), real=True))
    return n, round((out_n - length) // 2 * n / out_n)


def place(piece: np.ndarray, pan: float, width: float) -> np.ndarray:
    """Stereo position of `[2, L]`: `width` scales the sides, `pan` in -1..1 fades one channel.

    >>> place(np.ones((2, 1), np.float32), 1.0, 1.0).round(3).tolist()
    [[0.0], [1.0]]
    """
    middle, side = (piece[0] + piece[1]) / 2, (piece[0] - piece[1]) / 2 * np.float32(width)
    left, right = min(1.0, 1.0 - pan), min(1.0, 1.0 + pan)
    return np.stack([(middle + side) * np.float32(left), (middle - side) * np.float32(right)])


def drive(piece: np.ndarray, amount: float) -> np.ndarray:
    """Soft saturation at about the piece's own loudness; 0 leaves it, 1 is a hot console."""
    scale = np.float32(3.0 * np.sqrt(np.square(piece).mean() + 1e-12) / max(amount, 1e-3))
    return scale * np.tanh(piece / scale)


CODECS = ("mp3", "aac")
"""What `round_trip` knows; AAC needs the package `av`."""
AAC_DELAY = 1024
"""Samples that an AAC encoder puts before the first."""


def round_trip(audio: np.ndarray, codec: str, quality: float) -> np.ndarray:
    """Encode `[2, L]` and decode it again; `quality` from 0 (about 100 kbit/s) to 1 (256 kbit/s).

    Raises:
        ValueError: for a codec that is none of `CODECS`.
    """
    if codec == "mp3":
        decoded = _through_mp3(audio, 0.7 - 0.5 * quality)
    elif codec == "aac":
        decoded = _through_aac(audio, round(96_000 + 160_000 * quality))[:, AAC_DELAY:]
    else:
        raise ValueError(f"codec={codec!r}; choose one of {', '.join(CODECS)}")
    length = audio.shape[1]
    return np.pad(decoded, ((0, 0), (0, max(0, length - decoded.shape[1]))))[:, :length]


def codecs() -> tuple[str, ...]:
    """Those of `CODECS` that work here: a machine that only trains may lack `av`."""
    return CODECS if importlib.util.find_spec("av") else ("mp3",)


def _through_mp3(audio: np.ndarray, compression: float) -> np.ndarray:
    file = io.BytesIO()
    soundfile.write(
        *(file, audio.T, SAMPLE_RATE),
        format="MP3",
        bitrate_mode="CONSTANT",
        compression_level=compression,
    )
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0].T


def _through_aac(audio: np.ndarray, bit_rate: int) -> np.ndarray:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="stereo", bit_rate=bit_rate)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(audio), format="fltp", layout="stereo"
        )
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    file.seek(0)
    with av.open(file) as container:
        return np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)
