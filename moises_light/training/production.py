"""What producers do to finished parts: sweeps, gates, stutters, wah, chops, throws, textures.

Audio is `[2, L]` float32 at 44.1 kHz, in and out; the same generator gives the same bits. What
filters or cuts is linear in the audio or moves samples about, so the same call with the same
draws on every stem keeps their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import signal

from moises_light.training import effects
from moises_light.training.bands import Score, pick
from moises_light.training.banks import fade, mix_in, repitch
from moises_light.training.corpus import SAMPLE_RATE, fit

WINDOW = 1024
"""Samples of the transform behind filters that move."""

VOWELS = {
    "a": (730, 1090, 2440), "e": (530, 1840, 2480), "i": (270, 2290, 3010), "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}  # fmt: skip
"""Three resonances of each vowel in Hz, of men's voices.

Source: Peterson, Barney 1952, Control methods used in a study of the vowels, table II.
"""

Response = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Gain of a filter at each frequency `[F]` in Hz and second `[T]`: `[F, T]`."""


def filtered(audio: np.ndarray, response: Response) -> np.ndarray:
    """Filter `[2, L]` by a response that moves with time."""
    hop = WINDOW // 4
    f, t, spectrum = signal.stft(audio, SAMPLE_RATE, nperseg=WINDOW, noverlap=WINDOW - hop)
    _, out = signal.istft(
        spectrum * response(f, t).astype(np.float32),
        SAMPLE_RATE,
        nperseg=WINDOW,
        noverlap=WINDOW - hop,
    )
    return fit(out, audio.shape[1]).astype(np.float32)


@dataclass(frozen=True)
class Sweep:
    """A low-pass (or high-pass) whose cutoff glides between two frequencies.

    Args:
        begin, end: seconds of the audio between which it is heard; elsewhere all passes.
        first, last: cutoff in Hz at either end.
        high: a high-pass instead.
        peak: height of the resonance at the cutoff, 0 to about 2.
    """

    begin: float
    end: float
    first: float
    last: float
    high: bool = False
    peak: float = 0.0

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        start, stop = (int(at * SAMPLE_RATE) for at in (self.begin, self.end))
        piece = audio[:, start:stop]
        if piece.shape[1] < 4 * WINDOW:
            return audio

        def response(f: np.ndarray, t: np.ndarray) -> np.ndarray:
            share = (t / t[-1]).clip(0, 1)
            cutoff = self.first * (self.last / self.first) ** share
            octaves = np.log2(np.maximum(f, 10)[:, None] / cutoff)
            over = -octaves if self.high else octaves
            gain = 1 / np.sqrt(1 + 2.0 ** (8 * over.clip(-8, 8)))
            return gain * (1 + self.peak * np.exp(-0.5 * (octaves / 0.2) ** 2))

        out = audio.copy()
        out[:, start:stop] = filtered(piece, response)
        return out


def draw_sweep(score: Score, rng: np.random.Generator) -> Sweep:
    """A sweep over the last bars before a section of the score, as builds have."""
    section = pick(rng, score.sections)
    bars = min(int(pick(rng, (2, 4, 8))), section.bars)
    end = (section.start + section.bars) * 240 / score.bpm
    dark, light = float(rng.uniform(150, 700)), float(rng.uniform(5000, 16000))
    high = rng.random() < 0.35
    if high:
        dark, light = float(rng.uniform(20, 60)), float(rng.uniform(300, 1500))
    first, last = (dark, light) if high or rng.random() < 0.7 else (light, dark)
    return Sweep(end - bars * 240 / score.bpm, end, first, last, high, float(rng.uniform(0, 1.5)))


def wah(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A resonance that follows the playing or sways, as of a pedal."""
    follows = rng.random() < 0.5
    low, high = float(rng.uniform(300, 600)), float(rng.uniform(1300, 2600))
    rate, start = float(rng.uniform(0.3, 4)), float(rng.uniform(0, 6))
    level = effects.envelope(audio, 0.01, 0.12)
    level = (level / max(float(np.quantile(level, 0.95)), 1e-6)).clip(0, 1)

    def response(f: np.ndarray, t: np.ndarray) -> np.ndarray:
        if follows:
            at = np.interp(t, np.arange(len(level)) * effects.HOP / SAMPLE_RATE, level)
        else:
            at = 0.5 + 0.5 * np.sin(2 * np.pi * rate * t + start)
        octaves = np.log2(np.maximum(f, 10)[:, None] / (low * (high / low) ** at))
        return 0.12 + 1.6 * np.exp(-0.5 * (octaves / 0.45) ** 2)

    return filtered(audio, response)


def talk(audio: np.ndarray, beat: float, rng: np.random.Generator) -> np.ndarray:
    """Vowels that an instrument seems to speak, a new one every `beat` seconds or so."""
    count = int(audio.shape[1] / SAMPLE_RATE / beat) + 2
    size = float(rng.uniform(0.85, 1.25))
    shapes = np.array([VOWELS[pick(rng, tuple(VOWELS))] for _ in range(count)]) * size
    moments = np.arange(count) * beat
    widths = (90.0, 110.0, 170.0)

    def response(f: np.ndarray, t: np.ndarray) -> np.ndarray:
        gain = np.full((len(f), len(t)), 0.06)
        for number, width in enumerate(widths):
            at = np.interp(t, moments, shapes[:, number])
            gain += 1.8 / (number + 1) / (1 + ((f[:, None] - at) / width) ** 2)
        return gain

    return filtered(audio, response)


def gate(audio: np.ndarray, score: Score, rng: np.random.Generator) -> np.ndarray:
    """Cut a part into a rhythm of sixteenths that comes back every bar."""
    pattern = rng.random(16) < rng.uniform(0.4, 0.75)
    pattern[int(rng.integers(4))] = True
    step = 15 / score.bpm
    hold = float(rng.uniform(0.5, 1.0))
    place = np.arange(audio.shape[1]) / SAMPLE_RATE / step
    opens = pattern[place.astype(int) % 16] & (place % 1 < hold)
    floor = np.float32(rng.uniform(0, 0.15))
    return audio * (floor + (1 - floor) * smooth(opens))


def smooth(opens: np.ndarray, seconds: float = 0.004) -> np.ndarray:
    """A gain of ones where `opens` and zeros elsewhere, with ramps between, float32."""
    n = int(seconds * SAMPLE_RATE)
    return signal.oaconvolve(opens.astype(np.float32), np.full(n, np.float32(1 / n)), mode="same")


@dataclass(frozen=True)
class Stutter:
    """A moment that is repeated instead of what follows it, or played backwards, or slowed down.

    Args:
        at: second where it begins; `seconds`: of the moment; `repeats`: how often it is heard.
        kind: `repeat`, `reverse` or `stop` (a tape that stands still at the end).
    """

    at: float
    seconds: float
    repeats: int
    kind: str = "repeat"

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        n = int(self.seconds * SAMPLE_RATE)
        start = int(self.at * SAMPLE_RATE)
        stop = start + n * self.repeats
        if start < 0 or n < 64 or stop > audio.shape[1]:
            return audio
        if self.kind == "repeat":
            span = np.tile(fade(audio[:, start : start + n], 0.002, 0.002), self.repeats)
        elif self.kind == "reverse":
            span = fade(audio[:, start:stop][:, ::-1], 0.004, 0.004)
        else:
            m = stop - start
            share = np.arange(m) / m
            at = start + m * (share - share**2 / 2)
            span = np.stack([np.interp(at, np.arange(len(row)), row) for row in audio])
            span = fade(span, 0.002, 0.02)
        out = audio.copy()
        out[:, start:stop] = span
        return out


def draw_stutters(score: Score, rng: np.random.Generator) -> list[Stutter]:
    """Some stutters on the last beats of bars, most where a section ends."""
    beat = 60 / score.bpm
    ends = [4 * (section.start + section.bars) for section in score.sections]
    ends += [4 * (k + 1) for k in range(score.bars) if rng.random() < 0.08]
    found = []
    for end in ends:
        if rng.random() < 0.5:
            beats = float(pick(rng, (1.0, 2.0, 1.0, 0.5)))
            repeats = int(pick(rng, (2, 4, 4, 8)))
            kind = str(pick(rng, ("repeat", "repeat", "reverse", "stop")))
            found.append(Stutter((end - beats) * beat, beats * beat / repeats, repeats, kind))
    return found


def telephone(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The narrow, driven sound of a small loudspeaker."""
    narrow = effects.cabinet(audio, float(rng.uniform(200, 500)), float(rng.uniform(2200, 4500)))
    return effects.saturate(narrow, float(rng.uniform(0.1, 0.6)))


def throws(audio: np.ndarray, score: Score, rng: np.random.Generator) -> np.ndarray:
    """Long echoes of single beats only, as a hand on the send gives."""
    beat = 60 / score.bpm
    caught = rng.random(int(audio.shape[1] / SAMPLE_RATE / beat) + 1) < 0.12
    at = (np.arange(audio.shape[1]) / SAMPLE_RATE / beat).astype(int)
    send = audio * smooth(caught[at])
    delay = beat * float(pick(rng, (0.5, 0.75, 1.0)))
    wet = effects.echo(send, delay, float(rng.uniform(0.5, 0.75)), repeats=8) - send
    return audio + wet


def chops(audio: np.ndarray, score: Score, rng: np.random.Generator) -> np.ndarray:
    """Slices of a voice played as a pattern, some at other steps of the chord, `[2, L]`."""
    step = 15 / score.bpm
    level = effects.envelope(audio, 0.005, 0.05)
    busy = np.flatnonzero(level > 0.5 * np.quantile(level, 0.9))
    bus = np.zeros_like(audio)
    if not len(busy):
        return bus
    slices = []
    for _ in range(int(rng.integers(2, 5))):
        start = int(busy[rng.integers(len(busy))]) * effects.HOP
        length = int(step * float(pick(rng, (1, 2, 3))) * SAMPLE_RATE)
        piece = repitch(audio[:, start : start + length], float(pick(rng, (0, 0, 5, 7, 12))))
        slices.append(fade(piece, 0.004, 0.03))
    pattern = [int(rng.integers(len(slices))) if rng.random() < 0.45 else -1 for _ in range(16)]
    sung = int(rng.integers(len(score.sections)))
    for turn, section in enumerate(score.sections):
        if turn == sung or rng.random() < 0.4:
            for bar in range(section.start, section.start + section.bars):
                for place, number in enumerate(pattern):
                    if number >= 0:
                        mix_in(bus, slices[number], (bar * 16 + place) * step)
    return bus


def texture(score: Score, frames: int, rng: np.random.Generator) -> np.ndarray:
    """What lies round the notes of produced music: hiss, crackle, drones, impacts, falls."""
    kind = str(pick(rng, ("hiss", "crackle", "drone", "impacts", "falls")))
    time = np.arange(frames, dtype=np.float32) / SAMPLE_RATE
    if kind == "hiss":
        white = rng.standard_normal((2, frames)).astype(np.float32)
        low, high = float(rng.uniform(200, 2000)), float(rng.uniform(4000, 14000))
        sos = signal.butter(1, [low, high], "band", fs=SAMPLE_RATE, output="sos")
        sway = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.05, 0.5) * time + rng.uniform(0, 6))
        return (signal.sosfilt(sos, white, axis=1) * sway).astype(np.float32)
    if kind == "crackle":
        clicks = rng.random((2, frames)) < rng.uniform(2e-5, 4e-4)
        dust = clicks * rng.exponential(1.0, (2, frames)) * rng.choice([-1, 1], (2, frames))
        sos = signal.butter(1, [700, 9000], "band", fs=SAMPLE_RATE, output="sos")
        return signal.sosfilt(sos, dust, axis=1).astype(np.float32)
    bus = np.zeros((2, frames), np.float32)
    if kind == "drone":
        root = 440 * 2 ** ((score.root - 9 - 12 * int(rng.integers(1, 4))) / 12)
        for harmonic in range(1, int(rng.integers(3, 12))):
            for channel in range(2):
                drift = rng.uniform(-0.8, 0.8)
                sway = 0.5 + 0.5 * np.sin(
                    2 * np.pi * rng.uniform(0.03, 0.3) * time + rng.uniform(0, 6)
                )
                angle = 2 * np.pi * (root * harmonic + drift) * time
                bus[channel] += np.sin(angle + rng.uniform(0, 6)) * sway / harmonic
        return bus
    for section in score.sections:
        at = section.start * 240 / score.bpm
        seconds = float(rng.uniform(1.5, 5))
        n = int(seconds * SAMPLE_RATE)
        t = np.arange(n, dtype=np.float32) / SAMPLE_RATE
        if kind == "impacts":
            low, high = rng.uniform(25, 60), rng.uniform(80, 250)
            f = low + (high - low) * np.exp(-t / rng.uniform(0.05, 0.4))
            boom = np.sin(2 * np.pi * np.cumsum(f) / SAMPLE_RATE) * np.exp(-6.9 * t / seconds)
            hit = np.stack([boom, boom]) + 0.3 * rng.standard_normal((2, n)) * np.exp(-t / 0.2)
            hit = effects.reverb(hit.astype(np.float32), seconds, 0.5, rng)
        else:
            white = rng.standard_normal((2, n)).astype(np.float32)
            hit = Sweep(0, seconds, float(rng.uniform(6000, 15000)), 300.0, peak=1.0)(white)
            hit = hit * np.exp(-3 * t / seconds)
        mix_in(bus, hit.astype(np.float32), at)
    return bus


def treat_vocals(audio: np.ndarray, score: Score, rng: np.random.Generator) -> np.ndarray:
    """Now and then what pop and dance producers do to a voice."""
    if rng.random() < 0.08:
        audio = telephone(audio, rng)
    if rng.random() < 0.1:
        audio = (audio if rng.random() < 0.7 else 0) + chops(audio, score, rng)
    return treat(audio, score, rng, gated=0.05, stuttered=0.12, thrown=0.15, swept=0.08)


def treat_part(audio: np.ndarray, lead: bool, score: Score, rng: np.random.Generator) -> np.ndarray:
    """Now and then what producers do to an accompanying part."""
    if rng.random() < (0.14 if lead else 0.05):
        audio = talk(audio, 60 / score.bpm * float(pick(rng, (0.5, 1, 2, 4))), rng)
    elif rng.random() < 0.08:
        audio = wah(audio, rng)
    audio = treat(audio, score, rng, gated=0.06, stuttered=0.06, thrown=0.1, swept=0.12)
    if rng.random() < 0.03:
        audio = telephone(audio, rng)
    return audio


def treat(
    audio: np.ndarray,
    score: Score,
    rng: np.random.Generator,
    *,
    gated: float,
    stuttered: float,
    thrown: float,
    swept: float,
) -> np.ndarray:
    """What befalls any part, each with its probability."""
    if rng.random() < gated:
        audio = gate(audio, score, rng)
    if rng.random() < stuttered:
        audio = apply(audio, draw_stutters(score, rng))
    if rng.random() < thrown:
        audio = throws(audio, score, rng)
    if rng.random() < swept:
        audio = draw_sweep(score, rng)(audio)
    return audio


def apply(audio: np.ndarray, changes: Sequence[Callable[[np.ndarray], np.ndarray]]) -> np.ndarray:
    """One change after another."""
    for change in changes:
        audio = change(audio)
    return audio
