"""Effects for whole stems: dynamics, drive, rooms, echo, chorus."""

from __future__ import annotations

import numpy as np
from scipy import signal

from moises_light.training.corpus import SAMPLE_RATE

HOP = 128
"""Samples for which a compressor holds one gain before it moves to the next."""


def envelope(audio: np.ndarray, attack: float = 0.01, release: float = 0.15) -> np.ndarray:
    """Level of `[C, L]`, `[L / HOP]`, that follows within `attack` and `release` seconds."""
    n = audio.shape[1] // HOP * HOP
    power = np.square(audio[:, :n]).reshape(len(audio), -1, HOP).mean(axis=(0, 2))
    step = HOP / SAMPLE_RATE
    rise, fall = np.exp(-step / attack), np.exp(-step / release)
    out = np.empty_like(power)
    level = 0.0
    for k, p in enumerate(power.tolist()):
        level = p + (rise if p > level else fall) * (level - p)
        out[k] = level
    return np.sqrt(out)


def compressor_gain(
    audio: np.ndarray, threshold: float, ratio: float, **times: float
) -> np.ndarray:
    """Gain over time, `[L]`, that keeps `audio` near `threshold` (dB) by `ratio`."""
    level = 20 * np.log10(envelope(audio, **times) + 1e-6)
    over = np.maximum(level - threshold, 0)
    gain = 10 ** (-over * (1 - 1 / ratio) / 20)
    at = np.arange(len(gain)) * HOP + HOP / 2
    return np.interp(np.arange(audio.shape[1]), at, gain).astype(np.float32)


def compress(audio: np.ndarray, over: float, ratio: float) -> np.ndarray:
    """Compress by `ratio` what lies above the stem's own level less `over` dB."""
    power = np.square(audio).mean(axis=0)
    loud = power[power > 1e-6]
    if not len(loud):
        return audio
    threshold = 10 * np.log10(loud.mean()) - over
    return audio * compressor_gain(audio, float(threshold), ratio)


def saturate(audio: np.ndarray, amount: float) -> np.ndarray:
    """Soft clipping from hardly any (0) to heavy distortion (1) at the stem's own level."""
    loud = np.sqrt(np.square(audio).mean() + 1e-12)
    gain = np.float32((0.3 + 12 * amount**2) / max(4 * loud, 1e-6))
    return np.tanh(audio * gain) / gain


def cabinet(audio: np.ndarray, low: float = 90, high: float = 5000) -> np.ndarray:
    """The narrow band of a guitar loudspeaker."""
    sos = np.concatenate(
        [
            signal.butter(2, low, "high", fs=SAMPLE_RATE, output="sos"),
            signal.butter(4, high, "low", fs=SAMPLE_RATE, output="sos"),
        ]
    )
    return signal.sosfilt(sos, audio, axis=1).astype(np.float32)


def reverb(
    audio: np.ndarray, seconds: float, wet: float, rng: np.random.Generator, delay: float = 0.01
) -> np.ndarray:
    """Add a room of noise that falls by 60 dB in `seconds`; `wet` is its level."""
    n = int(seconds * SAMPLE_RATE)
    time = np.arange(n, dtype=np.float32) / SAMPLE_RATE
    white = rng.standard_normal((2, n)).astype(np.float32)
    sos = signal.butter(1, [float(rng.uniform(120, 400)), float(rng.uniform(2500, 7000))], "band",
                        fs=SAMPLE_RATE, output="sos")  # fmt: skip
    dull = signal.sosfilt(sos, white, axis=1).astype(np.float32)
    tail = dull * np.exp(-6.9 * time / seconds)
    tail *= np.float32(wet / np.sqrt(np.square(tail).sum() / 2))
    tail = np.pad(tail, ((0, 0), (int(delay * SAMPLE_RATE), 0)))
    return audio + signal.oaconvolve(audio, tail, axes=1)[:, : audio.shape[1]].astype(np.float32)


def echo(audio: np.ndarray, seconds: float, level: float, repeats: int = 4) -> np.ndarray:
    """Repeats that change sides, each weaker and duller than the one before."""
    out = audio.copy()
    copy = audio
    d = int(seconds * SAMPLE_RATE)
    sos = signal.butter(1, 3500, "low", fs=SAMPLE_RATE, output="sos")
    for k in range(1, repeats + 1):
        if k * d >= audio.shape[1]:
            break
        copy = signal.sosfilt(sos, copy, axis=1).astype(np.float32)
        side = np.array([[1.0], [0.5]] if k % 2 else [[0.5], [1.0]], np.float32)
        out[:, k * d :] += copy[:, : -k * d] * side * np.float32(level**k)
    return out


def chorus(audio: np.ndarray, depth: float, rate: float) -> np.ndarray:
    """A copy whose delay sways by `depth` seconds, out of step on both sides."""
    n = audio.shape[1]
    time = np.arange(n) / SAMPLE_RATE
    out = audio.copy()
    for channel in range(2):
        sway = depth * (1.2 + np.sin(2 * np.pi * rate * time + channel * np.pi / 2))
        at = np.arange(n) - sway * SAMPLE_RATE
        out[channel] += np.interp(at, np.arange(n), audio[channel], left=0).astype(np.float32)
    return out * np.float32(0.7)


def duck(beats: np.ndarray, frames: int, depth: float, seconds: float) -> np.ndarray:
    """Gain `[frames]` that drops by `depth` (0 to 1) at every second in `beats` and comes back."""
    gain = np.ones(frames, np.float32)
    n = int(seconds * SAMPLE_RATE)
    shape = 1 - depth * (1 - np.linspace(0, 1, n, dtype=np.float32) ** 1.5)
    for beat in beats:
        start = int(beat * SAMPLE_RATE)
        stop = min(start + n, frames)
        if start < stop:
            gain[start:stop] = np.minimum(gain[start:stop], shape[: stop - start])
    return gain


def sides(pan: float) -> np.ndarray:
    """Gains of left and right, `[2, 1]`, that put a part at `pan`, -1 to 1."""
    return np.array([[min(1, 1 - pan)], [min(1, 1 + pan)]], np.float32)


def tilt(audio: np.ndarray, low: float, high: float, at: float = 800.0) -> np.ndarray:
    """Shelves of `low` dB below and `high` dB above `at` Hz, first order.

    H(s) = (g_high s + g_low w) / (s + w), which is g_low at 0 Hz and g_high at the top.
    """
    w = 2 * np.pi * at
    b, a = signal.bilinear([10 ** (high / 20), 10 ** (low / 20) * w], [1, w], fs=SAMPLE_RATE)
    return signal.lfilter(b, a, audio, axis=1).astype(np.float32)


def bell(audio: np.ndarray, gain: float, frequency: float, octaves: float) -> np.ndarray:
    """Raise (or lower) a band round `frequency` Hz by `gain` dB.

    Source: R. Bristow-Johnson, Cookbook formulae for audio equaliser biquads, peakingEQ.
    """
    w = 2 * np.pi * frequency / SAMPLE_RATE
    a = 10 ** (gain / 40)
    alpha = np.sin(w) * np.sinh(np.log(2) / 2 * octaves * w / np.sin(w))
    numerator = [1 + alpha * a, -2 * np.cos(w), 1 - alpha * a]
    denominator = [1 + alpha / a, -2 * np.cos(w), 1 - alpha / a]
    return signal.lfilter(numerator, denominator, audio, axis=1).astype(np.float32)


def high_pass(audio: np.ndarray, frequency: float) -> np.ndarray:
    """Take away what lies below `frequency` Hz, 12 dB an octave."""
    sos = signal.butter(2, frequency, "high", fs=SAMPLE_RATE, output="sos")
    return signal.sosfilt(sos, audio, axis=1).astype(np.float32)


def soft_limit(audio: np.ndarray, ceiling: float) -> np.ndarray:
    """Bend what comes near `ceiling` (linear) so that nothing passes it; quiet parts stay."""
    knee = np.float32(0.7 * ceiling)
    over = np.abs(audio) - knee
    room = np.float32(ceiling) - knee
    bent = np.sign(audio) * (knee + room * np.tanh(np.maximum(over, 0) / room))
    return np.where(over > 0, bent, audio).astype(np.float32)
