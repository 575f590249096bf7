"""Voices in the key of what plays behind them.

Drawn at random, a voice mostly lies between the notes of its backing, where it is easy to tell from
it. In songs the two share their notes and many of their partials.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import fft

SAMPLE_RATE = 44100
CLASSES = 36
"""Pitch classes to the octave: three to a semitone, since recordings are tuned differently."""

WINDOW = 8192
HOP = WINDOW // 2
RANGE = (110.0, 2500.0)
"""From which frequencies, in Hz, `chroma` adds up: fundamentals and the partials next to them."""


@cache
def _classes() -> np.ndarray:
    """How much each bin of a spectrum adds to each pitch class, `[F, CLASSES]`."""
    frequencies = fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE)
    within = (frequencies >= RANGE[0]) & (frequencies <= RANGE[1])
    pitch = CLASSES * np.log2(np.maximum(frequencies, 1.0) / RANGE[0])
    distance = (pitch[:, None] - np.arange(CLASSES) + CLASSES / 2) % CLASSES - CLASSES / 2
    # a semitone wide on both sides of its middle: as sharp as a window of this length can tell
    return (np.maximum(1 - np.abs(distance) / 3, 0) * within[:, None]).astype(np.float32)


def chroma(piece: np.ndarray) -> np.ndarray:
    """How strong each pitch class is, by frames: `[C, L] -> [T, CLASSES]`.

    From the square root of the magnitudes, so that quiet notes count beside loud ones, and less
    the mean over the classes, so that noise counts nothing. A piece shorter than a frame is filled
    up with silence.
    """
    mono = piece.mean(axis=0)
    mono = np.pad(mono, (0, max(0, WINDOW - len(mono))))
    frames = np.lib.stride_tricks.sliding_window_view(mono, WINDOW)[::HOP]
    spectrum = np.abs(fft.rfft(frames * np.hanning(WINDOW).astype(np.float32)))
    strength = np.sqrt(spectrum) @ _classes()
    return strength - strength.mean(axis=1, keepdims=True)


def agreement(voice: np.ndarray, backing: np.ndarray) -> np.ndarray:
    """How well a voice's notes lie on those behind it, were it higher by 0, 1, ... classes.

    Args:
        voice, backing: `chroma`, `[T, CLASSES]`; what one is longer than the other is left out.

    Returns:
        `[CLASSES]`, from -1 to 1; zeros where one is silent. The last is one class lower.
    """
    frames = min(len(voice), len(backing))
    voice, backing = voice[:frames], backing[:frames]
    scale = np.sqrt(np.square(voice).sum() * np.square(backing).sum())
    if scale < 1e-9:
        return np.zeros(CLASSES, np.float32)
    crossed = fft.rfft(backing, axis=1) * fft.rfft(voice, axis=1).conj()
    return fft.irfft(crossed.sum(axis=0), CLASSES) / scale


def into_key(
    voice: np.ndarray, backing: np.ndarray, lowest: float, highest: float
) -> tuple[float, float]:
    """The change of speed and pitch, as a ratio, that brings a voice nearest to its backing's key.

    Args:
        voice, backing: `[C, L]`.
        lowest, highest: between these ratios.

    Returns:
        the ratio, and the agreement that it gives.

    Raises:
        ValueError: if no step of a third of a semitone lies between the two.
    """
    first, last = CLASSES * np.log2((lowest, highest))
    shifts = np.arange(int(np.ceil(first)), int(np.floor(last)) + 1)
    if not len(shifts):
        raise ValueError(f"no third of a semitone between {lowest} and {highest}; widen the range")
    found = agreement(chroma(voice), chroma(backing))[shifts]
    best = int(found.argmax())
    return float(2 ** (shifts[best] / CLASSES)), float(found[best])
