"""Voices taken apart and put together again by the WORLD vocoder: new pitch, throat, time, melody.

Needs the package `pyworld`; `available` tells whether it is there.

Source: Morise, Yokomori, Ozawa 2016, WORLD: a vocoder-based high-quality speech synthesis system.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter
from scipy.signal import butter, sosfilt

from moises_light.training.corpus import SAMPLE_RATE

FRAME = 0.005
"""Seconds between two frames of the analysis."""


@dataclass(frozen=True)
class Analysis:
    """A voice in frames: pitch `[T]` in Hz, 0 where unvoiced; envelope and noise `[T, F]`."""

    pitch: np.ndarray
    envelope: np.ndarray
    noise: np.ndarray

    @property
    def frames(self) -> int:
        return len(self.pitch)


@dataclass(frozen=True)
class Syllable:
    """Frames of one syllable: where it begins, where its vowel is loudest, where it ends."""

    begin: int
    vowel: int
    end: int


def _pyworld() -> ModuleType:
    with warnings.catch_warnings():
        # its own import of pkg_resources warns; nothing here can change that
        warnings.simplefilter("ignore")
        import pyworld
    return pyworld


def available() -> bool:
    """Whether `pyworld` can be imported."""
    try:
        _pyworld()
    except ImportError:
        return False
    return True


def analyse(audio: np.ndarray, low: float = 70.0, high: float = 900.0) -> Analysis:
    """Take a voice `[C, L]` apart; pitch is looked for between `low` and `high` Hz."""
    world = _pyworld()
    x = np.ascontiguousarray(audio.mean(axis=0), np.float64)
    pitch, times = world.dio(x, SAMPLE_RATE, f0_floor=low, f0_ceil=high, frame_period=1000 * FRAME)
    pitch = world.stonemask(x, pitch, times, SAMPLE_RATE)
    envelope = world.cheaptrick(x, pitch, times, SAMPLE_RATE)
    noise = world.d4c(x, pitch, times, SAMPLE_RATE)
    return Analysis(pitch, envelope, noise)


def synthesise(voice: Analysis) -> np.ndarray:
    """Sound of an analysis, `[1, L]` float32."""
    y = _pyworld().synthesize(
        *(np.ascontiguousarray(a, np.float64) for a in (voice.pitch, voice.envelope, voice.noise)),
        SAMPLE_RATE,
        1000 * FRAME,
    )
    return y[None].astype(np.float32)


def scale_formants(envelope: np.ndarray, factor: float) -> np.ndarray:
    """Move every resonance by `factor`: above 1 a smaller throat, below 1 a larger one."""
    bins = envelope.shape[1]
    at = np.minimum(np.arange(bins) / factor, bins - 1.001)
    lower = at.astype(int)
    share = at - lower
    return envelope[:, lower] * (1 - share) + envelope[:, lower + 1] * share


def revoice(voice: Analysis, semitones: float, formant: float, speed: float = 1.0) -> Analysis:
    """The same words in another voice: shifted pitch, scaled throat, faster by `speed`."""
    at = np.arange(0, voice.frames - 1, speed).astype(int)
    envelope = scale_formants(voice.envelope[at], formant)
    return Analysis(voice.pitch[at] * 2 ** (semitones / 12), envelope, voice.noise[at])


def whisper(voice: Analysis) -> Analysis:
    """The same words without the vocal folds: breath alone."""
    return Analysis(np.zeros_like(voice.pitch), voice.envelope, np.ones_like(voice.noise))


def tune(voice: Analysis, root: int, scale: Sequence[int], strength: float) -> Analysis:
    """Draw the pitch towards the nearest note of the scale: 1 for the steps of pop's effect."""
    voiced = voice.pitch > 0
    midi = 69 + 12 * np.log2(np.where(voiced, voice.pitch, 440.0) / 440)
    ladder, nearest = _on_ladder(median_filter(midi, 9), root, scale)
    goal = ladder[nearest]
    pitch = voice.pitch * 2 ** (strength * (goal - midi) / 12)
    return Analysis(np.where(voiced, pitch, 0.0), voice.envelope, voice.noise)


def _on_ladder(midi: np.ndarray, root: int, scale: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """All notes of a key, and which of them is nearest to each pitch `[T]`."""
    ladder = np.array([p for p in range(128) if (p - root) % 12 in scale])
    return ladder, np.abs(midi[:, None] - ladder).argmin(axis=1)


def harmony(voice: Analysis, root: int, scale: Sequence[int], steps: int) -> Analysis:
    """A second voice `steps` of the scale above (or below): parallel thirds that fit the key."""
    voiced = voice.pitch > 0
    if not voiced.any():
        return voice
    midi = np.zeros(voice.frames)
    midi[voiced] = 69 + 12 * np.log2(voice.pitch[voiced] / 440)
    ladder, nearest = _on_ladder(midi, root, scale)
    moved = ladder[np.clip(nearest + steps, 0, len(ladder) - 1)] - ladder[nearest]
    # a glide passes through notes that nobody sings: the interval follows the held ones
    interval = gaussian_filter1d(median_filter(moved.astype(float), 31), 4)
    return Analysis(voice.pitch * 2 ** (interval / 12), voice.envelope, voice.noise)


def find_syllables(audio: np.ndarray, voice: Analysis) -> list[Syllable]:
    """Voiced peaks of the energy between 300 and 2500 Hz, each with the dips round it."""
    x = audio.mean(axis=0)
    hop = int(SAMPLE_RATE * FRAME)
    band = sosfilt(butter(2, [300, 2500], "band", fs=SAMPLE_RATE, output="sos"), x) ** 2
    n = voice.frames
    power = np.add.reduceat(np.pad(band, (0, n * hop)), np.arange(0, n * hop, hop))[:n] / hop
    level = 10 * np.log10(gaussian_filter1d(power, 3) + 1e-10)
    voiced = gaussian_filter1d((voice.pitch > 0).astype(float), 1) > 0.5
    peaks = [
        i
        for i in range(2, n - 2)
        if voiced[i]
        and level[i] == level[max(0, i - 8) : i + 9].max()
        and level[i] > level.max() - 25
    ]
    found = []
    for number, peak in enumerate(peaks):
        before = peaks[number - 1] if number else 0
        after = peaks[number + 1] if number + 1 < len(peaks) else n - 1
        begin = max(before + int(np.argmin(level[before : peak + 1])), peak - 30)
        end = min(peak + int(np.argmin(level[peak : after + 1])), peak + 30)
        if end - begin > 8 and voiced[begin:end].mean() > 0.5:
            found.append(Syllable(begin, peak, end))
    return found


def sing(
    notes: Sequence[tuple[float, float, float]],
    clips: Sequence[tuple[Analysis, Sequence[Syllable]]],
    rng: np.random.Generator,
    formant: float = 1.0,
) -> np.ndarray:
    """Make speech sing: a syllable for each note, its vowel held, its pitch from the score.

        frames   |begin ... vowel|  vowel held, swaying  |... end|
        score          ^ the note begins here, on the vowel's side of the consonant

    Args:
        notes: second, seconds and MIDI pitch of each, in order.
        clips: analysed speech with its syllables; taken in order, so that words stay words.

    Returns:
        `[1, L]` float32.
    """
    total = int((max(at + seconds for at, seconds, _ in notes) + 0.5) / FRAME) + 1
    bins = clips[0][0].envelope.shape[1]
    pitch = np.zeros(total)
    envelope = np.full((total, bins), 1e-12)
    noise = np.ones((total, bins))
    words = [(voice, syllable) for voice, syllables in clips for syllable in syllables]
    before: tuple[float, float] | None = None
    for number, (at, seconds, midi) in enumerate(notes):
        voice, syllable = words[number % len(words)]
        index, lead = _hold(syllable, max(int(seconds / FRAME), 12), rng)
        start = max(0, int(at / FRAME) - lead)
        index = index[: total - start]
        n = len(index)
        part = slice(start, start + n)
        level = 1e-4 * 10 ** (rng.uniform(-3, 2) / 10)
        scaled = voice.envelope[index] * (level / (voice.envelope[syllable.vowel].mean() + 1e-16))
        if formant != 1.0:
            scaled = scale_formants(scaled, formant)
        fade = np.ones(n)
        fade[:6] = np.linspace(0.2, 1, 6)[:n]
        fade[-10:] = np.minimum(fade[-10:], np.linspace(1, 0.15, 10)[-n:])
        envelope[part] = scaled * (fade**2)[:, None]
        noise[part] = voice.noise[index]
        time = np.arange(n) * FRAME
        cents = rng.normal(0, 6) + 0.5 * np.cumsum(rng.normal(0, 0.6, n))
        if seconds > 0.3:
            depth = ((time - 0.18) / 0.25).clip(0, 1) * rng.uniform(15, 45)
            cents += depth * np.sin(2 * np.pi * rng.uniform(5, 6.2) * time)
        if before is not None and at - before[0] < 0.06:
            # tied notes glide from the last pitch, others are scooped from below
            cents += (before[1] - midi) * 100 * np.exp(-time / 0.03)
        else:
            cents -= rng.uniform(20, 120) * np.exp(-time / 0.035)
        sung = 440 * 2 ** ((midi - 69 + cents / 100) / 12)
        pitch[part] = np.where(voice.pitch[index] > 0, sung, 0)
        before = (at + seconds, midi)
    return synthesise(Analysis(pitch, envelope, noise))


def _hold(syllable: Syllable, frames: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Which frame of the clip to show at each frame of a note; how many precede the beat."""
    onset = min(syllable.vowel - syllable.begin, 24)
    coda = min(syllable.end - syllable.vowel, 16 if frames > 36 else 4)
    lead = min(onset, 8)
    middle = max(frames - (onset - lead) - coda, 2)
    sway = min(6, syllable.vowel - syllable.begin, syllable.end - syllable.vowel) * 0.6
    turn = np.linspace(0, 2 * np.pi * max(1, middle / 60), middle) + rng.uniform(0, 6)
    held = syllable.vowel + np.round(sway * np.sin(turn) + rng.normal(0, 0.4, middle)).astype(int)
    index = np.concatenate(
        [
            np.arange(syllable.vowel - onset, syllable.vowel),
            held.clip(syllable.begin, syllable.end - 1),
            np.arange(max(syllable.begin, syllable.end - coda), syllable.end),
        ]
    )
    return index, lead
