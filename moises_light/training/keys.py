"""Voices in the key of what plays behind them.

Drawn at random, a voice mostly lies between the notes of its backing, where it is easy to tell from
it. In songs the two share their notes and many of their partials.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import fft
from scipy.ndimage import uniform_filter1d

from moises_light.training.corpus import SAMPLE_RATE

CLASSES = 36
"""Pitch classes to the octave: three to a semitone, since recordings are tuned differently."""

WINDOW = 8192
HOP = WINDOW // 2
LOWEST = 110.0
"""Frequency in Hz from which `chroma` adds up; classes are counted from here."""
OCTAVES = 4
"""How many octaves it adds up: fundamentals and the partials next to them."""
AROUND = 13
"""Classes to what a partial's neighbourhood is: two semitones to either side."""


@cache
def _classes() -> np.ndarray:
    """How much each bin of a spectrum adds to each pitch, `[F, OCTAVES * CLASSES]`.

    As a mean over the bins, so that noise is as strong in all classes.
    """
    frequencies = fft.rfftfreq(WINDOW, 1 / SAMPLE_RATE)
    pitch = CLASSES * np.log2(np.maximum(frequencies, 1.0) / LOWEST)
    distance = np.abs(pitch[:, None] - np.arange(OCTAVES * CLASSES))
    # a semitone wide on both sides of its middle: as sharp as a window of this length can tell
    weight = np.maximum(1 - distance / 3, 0)
    return (weight / weight.sum(axis=0)).astype(np.float32)


def chroma(piece: np.ndarray) -> np.ndarray:
    """How strong each pitch class is, by frames: `[C, L] -> [T, CLASSES]`.

    Of the square root of the magnitudes, so that quiet notes count beside loud ones, what rises
    above its neighbourhood: partials, not noise. Frames count alike, unless they are very quiet;
    each is without its mean. A piece shorter than a frame is filled up with silence.
    """
    mono = piece.mean(axis=0)
    mono = np.pad(mono, (0, max(0, WINDOW - len(mono))))
    frames = np.lib.stride_tricks.sliding_window_view(mono, WINDOW)[::HOP]
    spectrum = np.abs(fft.rfft(frames * np.hanning(WINDOW).astype(np.float32)))
    strength = np.sqrt(spectrum) @ _classes()
    partials = np.maximum(strength - uniform_filter1d(strength, AROUND), 0)
    classes = partials.reshape(-1, OCTAVES, CLASSES).sum(axis=1)
    classes -= classes.mean(axis=1, keepdims=True)
    power = np.square(classes).sum(axis=1, keepdims=True)
    return classes / (np.sqrt(power) + 0.05 * np.sqrt(power.mean()) + 1e-6)


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

    Compared is what then sounds at once, for a voice that is higher is through its phrase sooner.

    Args:
        voice, backing: `chroma`, as in `agreement`.
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
    ratios = 2 ** (shifts / CLASSES)
    found = [agreement(faster(voice, r), backing)[s] for r, s in zip(ratios, shifts, strict=True)]
    best = int(np.argmax(found))
    return float(ratios[best]), float(found[best])


def faster(frames: np.ndarray, ratio: float) -> np.ndarray:
    """Rows `[T, ...]` in the order in which they are heard at another speed: the nearest ones."""
    at = np.arange(int((len(frames) - 1) / ratio + 1e-6) + 1) * ratio
    return frames[np.rint(at).astype(int)]
