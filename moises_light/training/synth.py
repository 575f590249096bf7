"""Sounds of our own: oscillators, electronic drums and noises, all from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import signal

from moises_light.training.corpus import SAMPLE_RATE

TABLE = 2048
"""Samples of one cycle of a wavetable."""


@dataclass(frozen=True)
class Patch:
    """A sound of the synthesiser.

    Args:
        wave: `saw`, `square`, `triangle`, `sine`, `organ` or `fm`.
        voices, detune, spread: detuned copies, cents between the outermost, stereo width 0 to 1.
        bright, dark: cutoff of the filter when a note begins and when it has settled, in Hz.
        decay: seconds in which the filter closes.
        resonance: height of a peak at the cutoff, 0 to 1.
        attack, hold, release: seconds of fade-in, seconds to fall by 60 dB (0: sustained),
        fade-out.
        ratio, index: frequency ratio and depth of `fm`.
        sub: level of a sine one octave below.
        vibrato: cents, from a third of a second on.
        drop: semitones that the pitch falls from when a note begins, as a kick drum's does.
        drive: saturation, 0 to 1.
    """

    wave: str = "saw"
    voices: int = 1
    detune: float = 10.0
    spread: float = 0.7
    bright: float = 6000.0
    dark: float = 2000.0
    decay: float = 0.3
    resonance: float = 0.0
    attack: float = 0.005
    hold: float = 0.0
    release: float = 0.1
    ratio: float = 2.0
    index: float = 2.0
    sub: float = 0.0
    vibrato: float = 0.0
    drop: float = 0.0
    drive: float = 0.0


@lru_cache(maxsize=512)
def _table(wave: str, harmonics: int, cutoff: float, resonance: float) -> np.ndarray:
    """One band-limited cycle; `cutoff` in harmonics, 12 dB an octave above it with a peak at it."""
    k = np.arange(1, max(1, harmonics) + 1)
    if wave == "square":
        level = np.where(k % 2, 1 / k, 0.0)
    elif wave == "triangle":
        level = np.where(k % 2, 1 / k**2, 0.0)
    elif wave == "sine":
        level = np.where(k == 1, 1.0, 0.0)
    elif wave == "organ":
        level = np.isin(k, (1, 2, 3, 4, 6, 8)) * 0.8 ** np.log2(k)
    else:
        level = 1 / k
    ratio = k / cutoff
    level = level / np.sqrt(1 + ratio**4)
    level = level * (1 + 6 * resonance * np.exp(-0.5 * (np.log2(ratio) / 0.25) ** 2))
    spectrum = np.zeros(TABLE // 2 + 1, complex)
    spectrum[1 : len(k) + 1] = -0.5j * level[: TABLE // 2]
    return (np.fft.irfft(spectrum) * TABLE).astype(np.float32)


def play(
    patch: Patch, midi: float, velocity: float, seconds: float, rng: np.random.Generator
) -> np.ndarray:
    """One note, `[2, L]`."""
    tail = patch.release
    n = int((seconds + tail) * SAMPLE_RATE)
    time = np.arange(n, dtype=np.float32) / SAMPLE_RATE
    frequency = 440 * 2 ** ((midi - 69) / 12)
    cents = np.zeros(n, np.float32)
    if patch.vibrato:
        cents += patch.vibrato * np.sin(2 * np.pi * 5.5 * time) * ((time - 0.25) / 0.3).clip(0, 1)
    if patch.drop:
        cents += 100 * patch.drop * np.exp(-time / 0.03)
    moving = bool(patch.vibrato or patch.drop)
    bend = 2 ** (cents / 1200) if moving else np.float32(1)
    closing = np.exp(-time / patch.decay)
    bright = patch.bright * (0.4 + 0.6 * velocity)
    out = np.zeros((2, n), np.float32)
    for voice in range(patch.voices):
        place = 2 * voice / (patch.voices - 1) - 1 if patch.voices > 1 else 0.0
        f = frequency * 2 ** (place * patch.detune / 2400)
        start = rng.random()
        phase = np.cumsum(bend * np.float64(f / SAMPLE_RATE)) if moving else time * np.float64(f)
        phase = (phase + start) % 1
        if patch.wave == "fm":
            modulator = np.sin(2 * np.pi * patch.ratio * phase)
            depth = patch.index * (0.4 + 0.6 * velocity) * (0.25 + 0.75 * closing)
            wave = np.sin(2 * np.pi * phase + depth * modulator).astype(np.float32)
        else:
            index = (phase * TABLE).astype(np.int32)
            limit = min(int(0.45 * SAMPLE_RATE / f), TABLE // 2 - 1)
            open_, shut = (
                _table(patch.wave, limit, round(max(c / f, 0.5), 1), patch.resonance)
                for c in (bright, patch.dark)
            )
            wave = open_[index] * closing + shut[index] * (1 - closing)
        pan = place * patch.spread
        out[0] += wave * np.float32(min(1, 1 - pan))
        out[1] += wave * np.float32(min(1, 1 + pan))
    out /= np.sqrt(patch.voices)
    if patch.sub:
        out += np.float32(patch.sub) * np.sin(np.pi * frequency * time).astype(np.float32)
    if patch.drive:
        out = np.tanh(out * np.float32(1 + 5 * patch.drive)) / np.float32(1 + patch.drive)
    envelope = np.minimum(1, time / patch.attack) * (0.3 + 0.7 * velocity)
    if patch.hold:
        envelope *= np.exp(-6.9 * time / patch.hold)
    if tail:
        envelope *= np.clip((seconds + tail - time) / tail, 0, 1) ** 1.5
    return out * envelope.astype(np.float32) * np.float32(0.3)


def line(
    patch: Patch,
    notes: Sequence[tuple[float, float, float, float]],
    frames: int,
    glide: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """A tune on one voice whose pitch glides from note to note, as a singer's does, `[2, L]`.

    Args:
        notes: second, seconds, MIDI pitch and velocity of each, in order.
        glide: seconds in which most of the way to the next pitch is gone.
    """
    hop = 64
    count = frames // hop + 1
    time = np.arange(count) * hop / SAMPLE_RATE
    goal = np.full(count, notes[0][2] if notes else 60.0)
    loud, since = np.zeros(count), np.zeros(count)
    for number, (at, seconds, pitch, velocity) in enumerate(notes):
        begin = int(at * SAMPLE_RATE / hop)
        goal[begin:] = pitch
        since[begin:] = time[: max(0, count - begin)]
        # notes that nearly touch are tied
        gap = notes[number + 1][0] - at - seconds if number + 1 < len(notes) else 1.0
        end = begin + int((seconds + (gap if gap < 0.08 else 0.0)) * SAMPLE_RATE / hop)
        loud[begin:end] = 0.3 + 0.7 * velocity
    step = hop / SAMPLE_RATE
    keep = np.exp(-step / glide)
    way = goal[0] + signal.lfilter([1 - keep], [1, -keep], goal - goal[0])
    sway = patch.vibrato / 100 * ((since - 0.25) / 0.3).clip(0, 1)
    way = way + sway * np.sin(2 * np.pi * float(rng.uniform(4.5, 6.5)) * time)
    fall = np.exp(-step / max(0.3 * patch.release, 0.01))
    loud = signal.lfilter([1 - fall], [1, -fall], loud)
    samples = np.arange(frames) / hop
    frequency = 440 * 2 ** ((np.interp(samples, np.arange(count), way) - 69) / 12)
    top = float(frequency.max())
    middle = float(np.median(frequency))
    out = np.zeros((2, frames), np.float32)
    for voice in range(patch.voices):
        place = 2 * voice / (patch.voices - 1) - 1 if patch.voices > 1 else 0.0
        f = frequency * 2 ** (place * patch.detune / 2400)
        phase = (np.cumsum(f / SAMPLE_RATE) + rng.random()) % 1
        limit = min(int(0.45 * SAMPLE_RATE / top), TABLE // 2 - 1)
        table = _table(patch.wave, limit, round(max(patch.bright / middle, 0.5), 1), 0.0)
        wave = table[(phase * TABLE).astype(np.int32)]
        pan = place * patch.spread
        out[0] += wave * np.float32(min(1, 1 - pan))
        out[1] += wave * np.float32(min(1, 1 + pan))
    out *= np.interp(samples, np.arange(count), loud).astype(np.float32) * np.float32(0.3)
    if patch.drive:
        out = np.tanh(out * np.float32(1 + 5 * patch.drive)) / np.float32(1 + patch.drive)
    return out


def draw_patch(timbre: str, rng: np.random.Generator) -> Patch:
    """A sound of that family, each time another one.

    Raises:
        ValueError: for a family that has no synthetic sound.
    """
    u = rng.uniform
    wave = str(rng.choice(["saw", "saw", "square", "triangle"]))
    resonance = float(u(0, 0.7)) if rng.random() < 0.4 else 0.0
    if timbre in ("synth_bass", "gm"):
        return Patch(
            wave,
            int(rng.choice([1, 1, 2, 3])),
            u(5, 20),
            0.3,
            u(500, 4000),
            u(150, 900),
            u(0.06, 0.5),
            resonance,
            0.004,
            float(rng.choice([0, u(0.5, 3)])),
            0.06,
            sub=u(0, 0.6),
            drive=u(0, 0.5) * (rng.random() < 0.5),
        )
    if timbre == "sub":
        return Patch(
            str(rng.choice(["sine", "triangle", "sine", "saw"])),
            bright=u(150, 500),
            dark=u(100, 250),
            attack=0.006,
            release=0.08,
            drive=u(0, 0.6) * (rng.random() < 0.5),
        )
    if timbre == "808":
        return Patch(
            "sine", hold=u(1.2, 4), attack=0.003, release=0.12, drop=u(5, 24), drive=u(0, 0.9)
        )
    if timbre == "acid":
        return Patch(
            str(rng.choice(["saw", "square"])),
            bright=u(1500, 6000),
            dark=u(200, 600),
            decay=u(0.05, 0.25),
            resonance=u(0.5, 1),
            attack=0.003,
            release=0.04,
            drive=u(0, 0.7),
        )
    if timbre == "fm_bass":
        return Patch(
            "fm",
            ratio=float(rng.choice([0.5, 1, 1, 2, 3])),
            index=u(1, 5),
            decay=u(0.08, 0.5),
            attack=0.003,
            release=0.06,
            drive=u(0, 0.4),
        )
    if timbre == "reese":
        return Patch(
            "saw",
            3,
            u(25, 60),
            0.4,
            u(600, 2500),
            u(250, 900),
            u(0.5, 2),
            attack=0.01,
            release=0.06,
            sub=u(0.3, 0.8),
            drive=u(0, 0.6),
        )
    if timbre in ("pad", "strings"):
        return Patch(
            str(rng.choice(["saw", "saw", "triangle", "square"])),
            int(rng.choice([3, 4, 5])),
            u(10, 35),
            u(0.5, 1),
            u(900, 5000),
            u(500, 3000),
            u(0.5, 3),
            0.0,
            u(0.08, 0.6),
            0.0,
            u(0.3, 1),
        )
    if timbre == "supersaw":
        return Patch(
            "saw",
            int(rng.choice([5, 7])),
            u(20, 50),
            u(0.6, 1),
            u(4000, 14000),
            u(2000, 9000),
            u(0.2, 1),
            0.0,
            u(0.004, 0.03),
            0.0,
            u(0.08, 0.4),
        )
    if timbre in ("pluck", "clav"):
        return Patch(
            wave,
            int(rng.choice([1, 2, 3])),
            u(5, 25),
            u(0.3, 1),
            u(2000, 12000),
            u(200, 900),
            u(0.04, 0.25),
            resonance,
            0.002,
            u(0.3, 1.6),
            0.15,
        )
    if timbre == "stab":
        return Patch(
            "saw",
            int(rng.choice([1, 2, 4])),
            u(8, 30),
            u(0.3, 1),
            u(2500, 9000),
            u(400, 2000),
            u(0.08, 0.4),
            resonance,
            0.002,
            u(0.5, 2),
            0.12,
            drive=u(0, 0.3),
        )
    if timbre in ("bell", "fm_key"):
        return Patch(
            "fm",
            ratio=float(rng.choice([3.5, 1.41, 7, 4, 2.76, 14, 1])),
            index=u(0.5, 3),
            decay=u(0.1, 0.8),
            attack=0.002,
            hold=u(0.8, 4),
            release=0.3,
        )
    if timbre == "organ":
        return Patch(
            "organ",
            int(rng.choice([1, 2])),
            u(4, 14),
            0.6,
            9000,
            7000,
            1.0,
            attack=0.006,
            release=0.05,
            vibrato=u(0, 12),
            drive=u(0, 0.5) * (rng.random() < 0.5),
        )
    if timbre in ("synth_lead", "acid_lead", "flute", "melodica", "glide_lead"):
        return Patch(
            str(rng.choice(["saw", "square", "triangle", "sine"])),
            int(rng.choice([1, 2, 3])),
            u(5, 25),
            0.4,
            u(1500, 9000),
            u(800, 5000),
            u(0.1, 0.6),
            resonance,
            u(0.003, 0.03),
            0.0,
            u(0.05, 0.25),
            vibrato=u(0, 35),
            drive=u(0, 0.5) * (rng.random() < 0.4),
        )
    raise ValueError(f"no synthetic sound for {timbre!r}")  # fmt: skip


SYNTHETIC = frozenset(
    {
        *(
            "synth_bass",
            "gm",
            "sub",
            "808",
            "acid",
            "fm_bass",
            "reese",
            "pad",
            "strings",
            "supersaw",
        ),
        *("pluck", "clav", "stab", "bell", "fm_key", "organ", "synth_lead", "acid_lead", "flute"),
        *("melodica", "glide_lead"),
    }
)
"""Families that `draw_patch` knows."""


# ------------------------------------------------------------------------------------------ drums


def _noise(
    rng: np.random.Generator, seconds: float, low: float, high: float, fall: float
) -> np.ndarray:
    """Noise between two frequencies in Hz, `[2, L]`, falling by 60 dB in `fall` seconds."""
    n = int(seconds * SAMPLE_RATE)
    x = rng.standard_normal((1 if rng.random() < 0.6 else 2, n)).astype(np.float32)
    sos = signal.butter(2, [low, min(high, 20000)], "band", fs=SAMPLE_RATE, output="sos")
    time = np.arange(n, dtype=np.float32) / SAMPLE_RATE
    y = signal.sosfilt(sos, x, axis=1).astype(np.float32) * np.exp(-6.9 * time / fall)
    y = np.repeat(y, 2, axis=0) if len(y) == 1 else y
    return y / max(float(np.abs(y).max()), 1e-6)


def _tone(
    rng: np.random.Generator, seconds: float, low: float, high: float, sweep: float, fall: float
) -> np.ndarray:
    """A sine that drops from `high` to `low` Hz within about `sweep` seconds, `[L]`."""
    time = np.arange(int(seconds * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    frequency = low + (high - low) * np.exp(-time / sweep)
    wave = np.sin(2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE)
    return (wave * np.exp(-6.9 * time / fall)).astype(np.float32)


def draw_hit(piece: str, rng: np.random.Generator) -> np.ndarray:
    """One electronic drum sound for a piece of the kit, `[2, L]`, peak 1; each time another one."""
    u = rng.uniform
    if piece == "kick":
        fall = u(0.15, 0.9)
        body = _tone(rng, fall, u(38, 60), u(120, 420), u(0.008, 0.05), fall)
        click = np.zeros_like(body)
        n = min(len(body), 600)
        click[:n] = _noise(rng, n / SAMPLE_RATE, 1000, 12000, 0.01)[0, :n] * u(0, 0.4)
        body = np.tanh((body + click) * u(1, 4))
        hit = np.stack([body, body])
    elif piece in ("snare", "rim"):
        fall = u(0.12, 0.35) if piece == "snare" else u(0.03, 0.08)
        body = _tone(rng, fall, u(160, 240), u(250, 500), 0.02, fall * 0.6)
        hit = _noise(rng, fall, u(800, 2000), u(7000, 16000), fall) * u(0.4, 1)
        hit = hit + body * u(0.3, 1)
    elif piece == "clap":
        noise = _noise(rng, 0.35, u(700, 1200), u(5000, 12000), u(0.15, 0.35))
        hit = noise.copy()
        for delay in (u(0.008, 0.012), u(0.017, 0.024)):
            k = int(delay * SAMPLE_RATE)
            hit[:, k:] += noise[:, :-k]
    elif piece in ("hat", "pedal", "shaker", "roll"):
        fall = u(0.03, 0.12)
        hit = _noise(rng, fall, u(4000, 9000), 18000, fall)
        if piece == "shaker":
            n = hit.shape[1]
            hit = hit * np.minimum(1, np.arange(n, dtype=np.float32) / (0.3 * n))
    elif piece in ("hat_open", "tamb"):
        fall = u(0.2, 0.6)
        hit = _noise(rng, fall, u(4000, 8000), 18000, fall)
    elif piece in ("ride", "bell", "crash", "china"):
        fall = u(0.6, 1.2) if piece in ("ride", "bell") else u(1.2, 2.5)
        hit = _noise(rng, fall, u(2500, 6000), 18000, fall)
        time = np.arange(hit.shape[1], dtype=np.float32) / SAMPLE_RATE
        ring = np.sign(np.sin(2 * np.pi * np.outer(u(300, 900, 5), time))).sum(axis=0)
        sos = signal.butter(2, 5000, "high", fs=SAMPLE_RATE, output="sos")
        hit = hit + 0.15 * signal.sosfilt(sos, ring) * np.exp(-6.9 * time / fall)
    elif piece.startswith("tom"):
        base = {"1": 150, "2": 110, "3": 80}.get(piece[3:4], 100) * u(0.8, 1.2)
        body = _tone(rng, 0.5, base, base * u(1.3, 2), 0.05, u(0.25, 0.5))
        hit = np.stack([body, body])
    elif piece == "cowbell":
        time = np.arange(int(0.3 * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
        pair = np.array([u(530, 570), u(780, 830)])
        body = np.sign(np.sin(2 * np.pi * np.outer(pair, time))).sum(axis=0)
        body = body * np.exp(-6.9 * time / u(0.15, 0.3))
        hit = np.stack([body, body])
    else:  # congas and anything struck
        body = _tone(rng, 0.25, u(150, 900), u(300, 1200), 0.02, u(0.05, 0.25))
        hit = np.stack([body, body]) + _noise(rng, 0.25, 500, 6000, 0.03) * u(0, 0.4)
    hit = np.asarray(hit, np.float32)
    return hit / max(float(np.abs(hit).max()), 1e-6)


def riser(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A sweep of noise that rises to a new section, `[2, L]`."""
    n = int(seconds * SAMPLE_RATE)
    ramp = np.linspace(0, 1, n, dtype=np.float32)
    low = _noise(rng, seconds, 300, 2500, 1e6)
    high = _noise(rng, seconds, 2500, 15000, 1e6)
    return (low * (1 - ramp) + high * ramp) * ramp**2 * np.float32(0.5)
