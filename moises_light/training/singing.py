"""Voices for rendered bands: phrases of real singers in their own key and tempo, single sung notes
joined to the score's melody, speech, and speech that is made to sing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from moises_light.training import effects, world
from moises_light.training.bands import SCALES, Score, pick
from moises_light.training.banks import (
    BANDWIDTH,
    Bank,
    Instrument,
    Sample,
    fade,
    level_gain,
    mix_in,
    repitch,
    vocal_packs,
)
from moises_light.training.corpus import SAMPLE_RATE
from moises_light.training.render import Take
from moises_light.training.songs import to_stereo

_KEY = re.compile(
    r"-_([A-G])(b|sharp)?_(minor|Major)_-_(\d+)_BPM|(\d+)_BPM_-_([A-G])(b|sharp)?_(minor|Major)"
)
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}

Sing = Callable[[Score, int, np.random.Generator], Take]
Change = Callable[[np.ndarray, Score, np.random.Generator], np.ndarray]
"""What is done to each phrase before it is placed."""


@dataclass(frozen=True)
class Singer:
    """Who sings a band's vocals and what that asks of the band.

    Args:
        sing: gives dry vocals for a score and a number of samples; None for an instrumental.
        bpm, root, scale: what the band has to keep to; None where it is free.
        bandwidth: frequency in Hz above which the voice holds nothing, or None.
    """

    sing: Sing | None
    bpm: float | None = None
    root: int | None = None
    scale: str | None = None
    bandwidth: float | None = None


def key_in(name: str) -> tuple[int, str, float] | None:
    """Root, scale and tempo that a file's name states, or None.

    >>> key_in("SHV_-_Fsharp_minor_-_122_BPM_-_Ah.ogg")
    (6, 'minor', 122.0)
    """
    found = _KEY.search(name)
    if found is None:
        return None
    a, b, c, d, e, f, g, h = found.groups()
    letter, sign, mode, bpm = (a, b, c, d) if a else (f, g, h, e)
    root = (_STEPS[letter] + {"b": -1, "sharp": 1}.get(sign, 0)) % 12
    return root, mode.lower(), float(bpm)


def phrase_packs(bank: Bank) -> dict[str, list[Sample]]:
    """Phrases that belong together, those of one singer, key and tempo, by a name for them."""
    packs: dict[str, list[Sample]] = {}
    for material, samples in vocal_packs(bank).items():
        if "producerspace" in material:
            name = re.sub(r"_(adlib|phrase)$", "", material)
            packs.setdefault(name, []).extend(samples)
    return packs


def phrases(bank: Bank, rng: np.random.Generator) -> Singer | None:
    """Phrases of one pack on the beat, at times repeated as hooks; key and tempo move together."""
    packs = phrase_packs(bank)
    if not packs:
        return None
    names = list(packs)
    weights = np.array([sum(s.seconds for s in packs[n]) ** 0.7 for n in names])
    name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    samples = packs[name]
    stated = key_in(samples[0].path)
    doubled, layered = rng.random() < 0.35, rng.random() < 0.3
    voice = draw_voice(rng) if rng.random() < 0.65 and world.available() else None
    backing = draw_voice(rng) if rng.random() < 0.2 and world.available() else None
    shift = voice.semitones if voice else int(rng.integers(-3, 4))

    def change(audio: np.ndarray, score: Score, rng: np.random.Generator) -> np.ndarray:
        return voice.change(audio, score) if voice else repitch(audio, shift)

    def join(audio: np.ndarray, score: Score, rng: np.random.Generator) -> np.ndarray:
        assert backing is not None
        return choir(audio, score, shift, backing)

    def sing(score: Score, frames: int, rng: np.random.Generator) -> Take:
        bus = _string(bank, samples, score, frames, change, rng, hooks=0.3)
        if doubled:
            bus += _doubles(bus, rng)
        if layered:
            layer = _string(bank, samples, score, frames, change, rng, hooks=0.0, share=0.4)
            pan = float(rng.uniform(-0.8, 0.8))
            sides = effects.sides(pan)
            bus += layer * sides * np.float32(rng.uniform(0.25, 0.7))
        if backing:
            behind = _string(bank, samples, score, frames, join, rng, hooks=0.2, share=0.5)
            bus += behind * np.float32(rng.uniform(0.15, 0.5))
        return Take(bus, {sample.material for sample in samples})

    if stated is None:
        return Singer(sing)
    root, scale, bpm = stated
    tempo = bpm * (voice.speed if voice else 2 ** (shift / 12))
    # half the tempo under the same phrases makes ballads and hip-hop of club vocals
    if rng.random() < 0.3:
        tempo /= 2
    return Singer(sing, tempo, (root + shift) % 12, scale)


@dataclass(frozen=True)
class Voice:
    """Another throat for a singer, at another pitch and pace, at times with a second voice.

    Args:
        semitones, formant, speed: see `world.revoice`.
        steps: steps of the scale between the two voices, 0 for one voice.
        balance: level of the second voice.
        tuned: how far the pitch is drawn to the notes of the key, 0 to 1.
        whispered: breath alone.
    """

    semitones: int
    formant: float
    speed: float
    steps: int = 0
    balance: float = 0.5
    tuned: float = 0.0
    whispered: bool = False

    def change(self, audio: np.ndarray, score: Score) -> np.ndarray:
        """A phrase `[C, L]` in this voice, `[1, L]`."""
        changed = world.revoice(world.analyse(audio), self.semitones, self.formant, self.speed)
        scale = SCALES[score.scale]
        if self.tuned:
            changed = world.tune(changed, score.root, scale, self.tuned)
        if self.whispered:
            return world.synthesise(world.whisper(changed))
        out = world.synthesise(changed)
        if self.steps:
            second = world.synthesise(world.harmony(changed, score.root, scale, self.steps))
            out = out + np.float32(self.balance) * second[:, : out.shape[1]]
        return out


def draw_voice(rng: np.random.Generator) -> Voice:
    """A voice unlike the recorded one: often a man's for a woman's, else another throat."""
    kind = rng.random()
    if kind < 0.1:
        # sped up or a child's
        semitones = int(rng.integers(4, 10))
        formant = float(rng.uniform(1.08, 1.3))
    elif kind < 0.5:
        semitones = int(pick(rng, (-12, -10, -9, -8, -7, -5)))
        formant = float(rng.uniform(0.78, 0.9))
    else:
        semitones = int(rng.integers(-4, 4))
        formant = float(rng.uniform(0.88, 1.16))
    steps = int(pick(rng, (2, 2, -2, 4, -3))) if rng.random() < 0.25 else 0
    speed = float(rng.uniform(0.88, 1.12))
    balance = float(rng.uniform(0.3, 0.7))
    tuned = float(rng.uniform(0.6, 1.0)) if rng.random() < 0.2 else 0.0
    return Voice(semitones, formant, speed, steps, balance, tuned, bool(rng.random() < 0.04))


CHOIR = ((2, -0.7), (-3, 0.7), (4, 0.2))
"""Steps of the scale from the tune and place, -1 to 1, of each voice behind a singer."""


def choir(audio: np.ndarray, score: Score, semitones: int, voice: Voice) -> np.ndarray:
    """A phrase `[C, L]` sung by the voices of `CHOIR` in the key, `[2, L]`."""
    sung = world.revoice(world.analyse(audio), semitones, voice.formant, voice.speed)
    voices = []
    for number, (steps, pan) in enumerate(CHOIR):
        moved = world.harmony(sung, score.root, SCALES[score.scale], steps)
        # no two throats are alike
        envelope = world.scale_formants(moved.envelope, 0.96 + 0.04 * number)
        heard = world.synthesise(world.Analysis(moved.pitch, envelope, moved.noise))
        voices.append(heard * effects.sides(pan))
    return np.sum(voices, axis=0)


def _string(
    bank: Bank,
    samples: Sequence[Sample],
    score: Score,
    frames: int,
    change: Change,
    rng: np.random.Generator,
    hooks: float,
    share: float = 1.0,
) -> np.ndarray:
    """Phrases one after another from beat to beat within the score's windows, `[2, L]`."""
    bus = np.zeros((2, frames), np.float32)
    beat_seconds = 60 / score.bpm
    grid = float(pick(rng, (1.0, 2.0, 2.0, 4.0)))
    order = rng.permutation(len(samples))
    k = 0
    for begin, end in score.vocal_windows:
        beat = begin + float(pick(rng, (0.0, 0.0, 1.0, 2.0)))
        while beat < end - 1:
            sample = samples[order[k % len(order)]]
            k += 1
            repeats = (
                int(rng.integers(2, 5)) if sample.seconds < 2.5 and rng.random() < hooks else 1
            )
            audio = to_stereo(fade(change(bank.audio(sample), score, rng)))
            audio = audio * level_gain(audio, -20 + float(rng.normal(0, 1.2)))
            beats = audio.shape[1] / SAMPLE_RATE / beat_seconds
            for _ in range(repeats):
                if beat >= end - 0.5:
                    break
                if rng.random() < share:
                    mix_in(bus, audio, beat * beat_seconds)
                beat += max(1.0, np.ceil(beats / grid) * grid)
            if rng.random() < 0.25:
                beat += grid
    return bus


def _doubles(bus: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two late, slowly drifting copies to the sides."""
    n = bus.shape[1]
    out = np.zeros_like(bus)
    time = np.arange(n) / SAMPLE_RATE
    middle = bus.mean(axis=0)
    for channel in range(2):
        late = rng.uniform(0.012, 0.03)
        sway = 0.0025 * np.sin(2 * np.pi * rng.uniform(0.1, 0.4) * time + rng.uniform(0, 6))
        at = np.arange(n) - (late + sway) * SAMPLE_RATE
        out[channel] = np.interp(at, np.arange(n), middle, left=0)
    return out * np.float32(rng.uniform(0.3, 0.7))


def takes(bank: Bank, rng: np.random.Generator) -> Singer | None:
    """A whole a cappella take or choir, at its own tempo, entering with the windows."""
    samples = [s for s in bank.under("vocals/") if s.seconds > 9 and "producerspace" not in s.path]
    if not samples:
        return None
    weights = np.array([0.25 if "choir" in s.path else 1.0 for s in samples])
    sample = samples[int(rng.choice(len(samples), p=weights / weights.sum()))]
    shift = float(rng.uniform(-3, 3))

    def sing(score: Score, frames: int, rng: np.random.Generator) -> Take:
        bus = np.zeros((2, frames), np.float32)
        audio = to_stereo(repitch(bank.audio(sample), shift))
        audio = audio * level_gain(audio, -20)
        start = int(rng.integers(max(1, audio.shape[1] // 2)))
        for begin, end in score.vocal_windows:
            n = int((end - begin) * 60 / score.bpm * SAMPLE_RATE)
            piece = audio[:, start : start + n]
            mix_in(bus, fade(piece, 0.05, 0.2), begin * 60 / score.bpm)
            start = (start + n) % max(1, audio.shape[1] - SAMPLE_RATE)
        return Take(bus, {sample.material})

    return Singer(sing, bandwidth=bandwidth_of([sample]))


NOTE_SINGERS = (
    "vocals/berklee_olpc/femalevoice_",
    "vocals/berklee_olpc/malevoice_",
    "vocals/berklee_olpc/femalevoices_",
    "vocals/berklee_olpc/malevoices_",
    "vocals/vocobox/note_",
    "vocals/vocobox/vowel_",
)


def notes(bank: Bank, rng: np.random.Generator) -> Singer | None:
    """Single sung notes joined to the score's melody, note to note with short fades."""
    groups = [prefix for prefix in NOTE_SINGERS if bank.under(prefix)]
    if not groups:
        return None
    instrument = Instrument(bank, bank.under(pick(rng, groups)))
    if not instrument:
        return None
    shift = float(rng.choice([0, 0, -2, 2, 3]))

    def sing(score: Score, frames: int, rng: np.random.Generator) -> Take:
        bus = np.zeros((2, frames), np.float32)
        low, high = instrument.range
        for part in score.parts:
            if part.source != "vocals":
                continue
            for note in part.notes:
                pitch = note.pitch
                while pitch > high + 3:
                    pitch -= 12
                while pitch < low - 3:
                    pitch += 12
                seconds = note.length * 60 / score.bpm
                audio = instrument.play(pitch + 0.02 * shift, note.velocity, seconds + 0.05, rng)
                audio = fade(audio, 0.03, 0.06)
                mix_in(
                    bus, to_stereo(audio), max(0.0, score.time(note.start) + rng.normal(0, 0.012))
                )
        if rng.random() < 0.3:
            bus += _doubles(bus, rng)
        return Take(bus, set(instrument.material))

    return Singer(sing)


def speakers(bank: Bank) -> dict[str, list[Sample]]:
    """Spoken clips by speaker."""
    found: dict[str, list[Sample]] = {}
    for sample in bank.under("speech/"):
        found.setdefault(sample.material, []).append(sample)
    return found


def draw_speaker(bank: Bank, rng: np.random.Generator) -> list[Sample] | None:
    """Clips of one speaker; those without highs come up a third as often."""
    found = speakers(bank)
    if not found:
        return None
    names = list(found)
    weights = np.array(
        [
            min(60.0, sum(s.seconds for s in found[n])) * (0.3 if bandwidth_of(found[n]) else 1.0)
            for n in names
        ]
    )
    return found[names[int(rng.choice(len(names), p=weights / weights.sum()))]]


def speech(bank: Bank, rng: np.random.Generator) -> Singer | None:
    """Plain talk, clip after clip on the beat, the nearest to rap that there is."""
    samples = draw_speaker(bank, rng)
    return None if samples is None else _talk(bank, samples, rng)


def _talk(bank: Bank, samples: list[Sample], rng: np.random.Generator) -> Singer:
    shift = float(rng.uniform(-2.5, 2.5))

    def change(audio: np.ndarray, score: Score, rng: np.random.Generator) -> np.ndarray:
        return repitch(audio, shift)

    def sing(score: Score, frames: int, rng: np.random.Generator) -> Take:
        bus = _string(bank, samples, score, frames, change, rng, hooks=0.1)
        return Take(bus, {sample.material for sample in samples})

    return Singer(sing, bandwidth=bandwidth_of(samples))


VOICED = 0.3
"""Least share of a speaker's speech, in the median over clips, that has a pitch if it sings."""


def sung_speech(bank: Bank, rng: np.random.Generator) -> Singer | None:
    """Speech that sings the score's melody, in the speaker's voice or another throat.

    A whisper has no pitch and would sing in a buzz; it whispers on the beat.
    """
    samples = draw_speaker(bank, rng)
    if samples is None or not world.available():
        return speech(bank, rng)
    chosen = [samples[k] for k in rng.permutation(len(samples))[:10]]
    formant = float(rng.uniform(0.8, 1.2)) if rng.random() < 0.7 else 1.0
    doubled = rng.random() < 0.3

    def sing(score: Score, frames: int, rng: np.random.Generator) -> Take:
        bus = np.zeros((2, frames), np.float32)
        clips, spoken, voiced = [], [], []
        for sample in chosen:
            audio = bank.audio(sample)
            analysis = world.analyse(audio, 70, 500)
            voiced.append((analysis.pitch > 0).mean())
            syllables = world.find_syllables(audio, analysis)
            if syllables:
                clips.append((analysis, syllables))
                spoken.append(analysis.pitch[analysis.pitch > 0])
        tune = [note for part in score.parts if part.source == "vocals" for note in part.notes]
        if np.median(voiced) < VOICED:
            talk = _talk(bank, samples, rng).sing
            assert talk is not None
            return talk(score, frames, rng)
        if not clips or not tune:
            return Take(bus)
        # singers sit some way above their speaking voice
        home = 69 + 12 * np.log2(np.median(np.concatenate(spoken)) / 440) + rng.uniform(2, 6)
        middle = float(np.median([note.pitch for note in tune]))
        shift = 12 * round((home - middle) / 12)
        notes = [
            (score.time(note.start), note.length * 60 / score.bpm, note.pitch + shift)
            for note in tune
        ]
        for phrase in _phrases(notes):
            begin = phrase[0][0]
            local = [(at - begin + 0.2, seconds, midi) for at, seconds, midi in phrase]
            order = int(rng.integers(len(clips)))
            audio = world.sing(local, clips[order:] + clips[:order], rng, formant)
            audio = effects.bell(audio, float(rng.uniform(2, 6)), 1700, 1.6)
            audio = audio * level_gain(audio, -20)
            mix_in(bus, to_stereo(fade(audio)), begin - 0.2)
        if doubled:
            bus += _doubles(bus, rng)
        return Take(bus, {sample.material for sample in chosen})

    return Singer(sing, bandwidth=bandwidth_of(samples))


def _phrases(
    notes: Sequence[tuple[float, float, float]], rest: float = 0.8
) -> list[list[tuple[float, float, float]]]:
    """Notes in groups, parted where nothing sounds for `rest` seconds."""
    groups: list[list[tuple[float, float, float]]] = []
    end = -np.inf
    for note in notes:
        if note[0] - end > rest or len(groups[-1]) > 24:
            groups.append([])
        groups[-1].append(note)
        end = note[0] + note[1]
    return groups


def bandwidth_of(samples: Sequence[Sample]) -> float | None:
    """The lowest bandwidth among the samples, or None where all reach high enough."""
    limits = [hz for s in samples for prefix, hz in BANDWIDTH.items() if s.path.startswith(prefix)]
    return min(limits, default=None)
