"""From score to stems: players of real samples, soundfonts and synthetic sounds, and the desk.

A `Studio` holds what there is to play on; `render` plays a score and returns a stem per source.
Soundfonts need the library FluidSynth with the package `pyfluidsynth`; without either, samples and
synthetic sounds play everything.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from moises_light.training import effects, production, synth
from moises_light.training.bands import Note, Part, Score, pick
from moises_light.training.banks import (
    Bank,
    Instrument,
    Sample,
    fade,
    level_gain,
    mix_in,
    repitch,
)
from moises_light.training.corpus import SAMPLE_RATE, LicenceRow, active_level, block_levels
from moises_light.training.songs import to_stereo

_log = logging.getLogger(__name__)

SOUNDFONTS = (
    Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
    Path("/usr/share/sounds/sf3/MuseScore_General_Full.sf3"),
    Path("/usr/share/sounds/sf2/sf_GMbank.sf2"),
)
"""Where Debian puts `fluid-soundfont-gm`, `musescore-general-soundfont`, `csound-soundfont`."""

FONT_WEIGHTS = {"FluidR3_GM": 0.5, "MuseScore_General_Full": 0.25, "sf_GMbank": 0.25}
"""How often each is played on; fonts of your own as often as the first."""

SOUNDFONT_LICENCES = {
    "FluidR3_GM": ("Debian fluid-soundfont-gm", "Frank Wen", "MIT"),
    "MuseScore_General_Full": (
        "Debian musescore-general-soundfont",
        "S. Christian Collins, Michael Cowgill, Frank Wen",
        "MIT",
    ),
    "sf_GMbank": ("Debian csound-soundfont", "unknown", "Public Domain"),
}

HELD_OUT_PROGRAMS = frozenset(
    {1, 5, 11, 14, 18, 23, 25, 28, 29, 34, 39, 46, 49, 63, 66, 74, 84, 89, 93}
)
"""General MIDI programs, counted from 0, that no training track uses."""
HELD_OUT_KITS = frozenset({16, 32})
"""Drum kits of the soundfonts that no training track uses."""
GM_KITS = (0, 8, 16, 24, 25, 32, 40)

PROGRAMS: Mapping[str, Sequence[int]] = {
    "electric": (33, 34), "slap": (36, 37), "pick": (34, 33), "growl": (34, 33), "fretless": (35,),
    "upright": (32,), "gm": (32, 33, 34, 35, 36, 37, 38, 39), "synth_bass": (38, 39),
    "fm_bass": (38, 39), "guitar_clean": (26, 27, 28), "guitar_drive": (29, 30),
    "acoustic_guitar": (24, 25), "ukulele": (24, 105), "piano": (0, 1, 2, 3), "epiano": (4, 5),
    "clav": (6, 7), "organ": (16, 17, 18, 19), "accordion": (21, 22, 23), "melodica": (22, 21),
    "strings": (44, 48, 49, 50, 51), "brass": (56, 57, 58, 60, 61, 62, 63), "sax": (64, 65, 66, 67),
    "flute": (68, 69, 71, 72, 73, 74, 75), "pad": (50, 88, 89, 90, 92, 93, 94, 95),
    "supersaw": (81, 90, 84), "synth_lead": (80, 81, 82, 83, 84, 86, 87), "acid_lead": (81, 87),
    "pluck": (12, 13, 45, 46, 104, 107), "stab": (62, 63, 81), "bell": (8, 9, 10, 11, 12, 13, 14),
    "fm_key": (5, 4),
}  # fmt: skip
"""General MIDI programs of each family of sound."""

RECORDED: Mapping[str, Sequence[str]] = {
    "electric": ("bass/growlybass", "bass/swagbass", "bass/pastabass"),
    "pick": ("bass/pastabass", "bass/swagbass"), "growl": ("bass/growlybass",),
    "slap": ("bass/swagbass",), "fretless": ("bass/flbass",), "upright": ("bass/meatbass",),
    "gm": ("bass/swagbass", "bass/growlybass"),
    "guitar_clean": ("other/emilyguitar", "other/shinyguitar"),
    "guitar_drive": ("other/emilyguitar", "other/shinyguitar"),
    "acoustic_guitar": ("other/shinyguitar",), "ukulele": ("other/estuary_ukulele",),
    "piano": ("other/splendidpiano",), "epiano": ("other/epianos/0", "other/epianos"),
    "sax": ("other/mtgsax/alt", "other/mtgsax/ten", "other/mtgsax/sop", "other/mtgsax/bar"),
}  # fmt: skip
"""Banks of real recordings of each family."""

GM_PIECES = {
    "kick": 36, "snare": 38, "rim": 37, "clap": 39, "hat": 42, "pedal": 44, "hat_open": 46,
    "ride": 51, "bell": 53, "crash": 49, "china": 52, "tom1": 50, "tom2": 47, "tom3": 43,
    "cowbell": 56, "shaker": 70, "tamb": 54, "conga_hi": 63, "conga_lo": 64, "perc": 76,
}  # fmt: skip
"""Keys of the General MIDI drum map."""

PIECE_LEVELS = {
    "kick": 0.0, "snare": -1.0, "rim": -6.0, "clap": -4.0, "hat": -14.0, "pedal": -17.0,
    "hat_open": -13.0, "ride": -14.0, "bell": -12.0, "crash": -9.0, "china": -9.0, "tom1": -3.0,
    "tom2": -3.0, "tom3": -3.0, "cowbell": -13.0, "shaker": -17.0, "tamb": -15.0, "conga_hi": -8.0,
    "conga_lo": -8.0, "perc": -10.0,
}  # fmt: skip
"""Peak in dB of each piece in the kit's balance, before a song's own."""

KITS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "muldjordkit": {
        "kick": ("KdrumL", "KdrumR"), "snare": ("Snare_",), "rim": ("SnareRest",),
        "hat": ("HihatClosed",), "hat_open": ("HihatOpen",), "pedal": ("HihatClosed",),
        "ride": ("RideL_", "RideR_"), "bell": ("RideLBell", "RideRBell"),
        "crash": ("CrashL", "CrashR"), "china": ("China",), "tom1": ("Tom1",), "tom2": ("Tom2",),
        "tom3": ("Tom3", "Tom4"),
    },
    "gogodze": {
        "kick": ("ks_",), "snare": ("sc_", "se_"), "rim": ("ss_",), "hat": ("hc_", "ht_"),
        "hat_open": ("ho_", "hl_"), "pedal": ("hf_", "hc_"), "tom1": ("th_",), "tom2": ("tm_",),
        "tom3": ("tl_",),
    },
    "sonicpi": {
        "kick": ("bd_", "elec_hollow_kick", "elec_soft_kick", "drum_bass", "drum_heavy"),
        "snare": ("sn_", "elec_hi_snare", "elec_lo_snare", "elec_mid_snare", "elec_snare",
                  "drum_snare"),
        "hat": ("elec_tick", "drum_cymbal_closed"), "hat_open": ("elec_cymbal", "drum_cymbal_open"),
        "pedal": ("drum_cymbal_pedal",), "crash": ("drum_splash", "drum_cymbal_hard"),
        "ride": ("drum_cymbal_soft",), "rim": ("elec_wood",), "clap": ("perc_snap",),
        "tom1": ("drum_tom_hi",), "tom2": ("drum_tom_mid",), "tom3": ("drum_tom_lo",),
        "perc": ("tabla_", "elec_wood"), "conga_hi": ("tabla_na", "tabla_te"),
        "conga_lo": ("tabla_ghe",), "cowbell": ("drum_cowbell",),
    },
}  # fmt: skip
"""File names of the pieces of each recorded kit; a group of one-shots counts as many kits."""


@dataclass
class Studio:
    """Everything that can play.

    Args:
        bank: recorded samples, either those for training or the held-out ones.
        held_out: which side of the fence the soundfonts' programs are taken from.
        soundfonts: files to use; missing ones are left out.
    """

    bank: Bank
    held_out: bool = False
    soundfonts: Sequence[Path] = SOUNDFONTS
    _instruments: dict[str, Instrument] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.soundfonts = [path for path in self.soundfonts if path.is_file()]
        try:
            import fluidsynth  # noqa: F401
        except (ImportError, OSError):
            self.soundfonts = []
        if not self.soundfonts:
            _log.warning(
                "no soundfonts: install libfluidsynth, pyfluidsynth and a General MIDI soundfont "
                "for more instruments; samples and synthetic sounds play everything now"
            )

    def instrument(self, prefix: str) -> Instrument:
        if prefix not in self._instruments:
            self._instruments[prefix] = Instrument(self.bank, self.bank.under(prefix))
        return self._instruments[prefix]

    def font(self, rng: np.random.Generator) -> Path:
        """One of the soundfonts."""
        weights = np.array([FONT_WEIGHTS.get(Path(f).stem, 0.5) for f in self.soundfonts])
        return self.soundfonts[int(rng.choice(len(weights), p=weights / weights.sum()))]

    def programs(self, timbre: str) -> list[int]:
        """General MIDI programs of that family on this side of the fence."""
        if not self.soundfonts:
            return []
        return [p for p in PROGRAMS.get(timbre, ()) if (p in HELD_OUT_PROGRAMS) == self.held_out]

    def recorded(self, timbre: str) -> list[str]:
        return [p for p in RECORDED.get(timbre, ()) if self.instrument(p)]


@dataclass
class Take:
    """A rendered bus and what it was made of."""

    audio: np.ndarray
    material: set[str] = field(default_factory=set)


# ---------------------------------------------------------------------------------- single players


def spread_chords(part: Part, rng: np.random.Generator) -> dict[int, float]:
    """Delay in seconds of each note of a strummed part, down and up in turn."""
    delays: dict[int, float] = {}
    if part.role != "strum":
        return delays
    width = float(rng.uniform(0.006, 0.02))
    groups: dict[float, list[int]] = {}
    for number, note in enumerate(part.notes):
        groups.setdefault(note.start, []).append(number)
    for turn, numbers in enumerate(groups.values()):
        order = numbers if turn % 2 == 0 else numbers[::-1]
        delays.update({number: k * width for k, number in enumerate(order)})
    return delays


def timed(part: Part, score: Score, rng: np.random.Generator) -> list[tuple[float, float, Note]]:
    """Second, length in seconds and note, with swing and human timing."""
    delays = spread_chords(part, rng)
    lag = float(rng.normal(0, score.human))
    out = []
    for number, note in enumerate(part.notes):
        at = score.time(note.start) + lag + float(rng.normal(0, score.human))
        seconds = max(0.04, note.length * 60 / score.bpm)
        out.append((max(0.0, at + delays.get(number, 0.0)), seconds, note))
    return out


def play_recorded(
    part: Part, score: Score, instrument: Instrument, frames: int, rng: np.random.Generator
) -> np.ndarray:
    """Play a part on sampled notes, `[2, L]`; notes beyond its range move by octaves."""
    bus = np.zeros((2, frames), np.float32)
    low, high = instrument.range
    tune = float(rng.normal(0, 0.06))
    for at, seconds, note in timed(part, score, rng):
        pitch = note.pitch
        while pitch > high + 4:
            pitch -= 12
        while pitch < low - 4:
            pitch += 12
        mix_in(bus, to_stereo(instrument.play(pitch + tune, note.velocity, seconds, rng)), at)
    return bus


def play_synth(
    part: Part, score: Score, patch: synth.Patch, frames: int, rng: np.random.Generator
) -> np.ndarray:
    """Play a part on a synthetic sound, `[2, L]`; a note that comes back is not computed twice."""
    bus = np.zeros((2, frames), np.float32)
    made: dict[tuple[float, float, float], np.ndarray] = {}
    for at, seconds, note in timed(part, score, rng):
        key = (note.pitch, round(seconds, 2), round(note.velocity, 1))
        if key not in made:
            made[key] = synth.play(patch, note.pitch, key[2], key[1], rng)
        mix_in(bus, made[key], at)
    return bus


def play_glide(
    part: Part, score: Score, patch: synth.Patch, frames: int, rng: np.random.Generator
) -> np.ndarray:
    """Play a tune on a synthetic voice that glides, `[2, L]`; of notes together the first."""
    notes: list[tuple[float, float, float, float]] = []
    for at, seconds, note in sorted(timed(part, score, rng), key=lambda event: event[0]):
        if not notes or at - notes[-1][0] > 0.04:
            notes.append((at, seconds, note.pitch, note.velocity))
    return synth.line(patch, notes, frames, float(rng.uniform(0.01, 0.08)), rng)


def play_soundfont(
    events: Sequence[tuple[float, float, int, int]],
    path: Path,
    bank: int,
    program: int,
    frames: int,
    tune: float = 0.0,
) -> np.ndarray:
    """Play `(second, seconds, key, velocity)` on a preset of a soundfont, dry, `[2, L]`."""
    import fluidsynth

    # a synthesiser of its own for every part: the same events give the same bits
    player = fluidsynth.Synth(gain=0.25, samplerate=float(SAMPLE_RATE))
    player.setting("synth.reverb.active", 0)
    player.setting("synth.chorus.active", 0)
    player.setting("synth.dynamic-sample-loading", 1)
    font = player.sfload(str(path))
    if font < 0 or player.program_select(0, font, bank, program) != 0:
        player.delete()
        raise ValueError(f"{path.name} has no preset {bank}:{program}")
    player.pitch_bend(0, round(8191 * tune / 2))
    timeline: list[tuple[int, int, int, int]] = []
    for at, seconds, key, velocity in events:
        timeline.append((int(at * SAMPLE_RATE), 1, key, velocity))
        timeline.append((int((at + seconds) * SAMPLE_RATE), 0, key, 0))
    timeline.sort()
    pieces, now = [], 0
    for when, on, key, velocity in timeline:
        when = min(when, frames)
        if when > now:
            pieces.append(player.get_samples(when - now))
            now = when
        if on:
            player.noteon(0, key, velocity)
        else:
            player.noteoff(0, key)
    if frames > now:
        pieces.append(player.get_samples(frames - now))
    player.delete()
    audio = np.concatenate(pieces).reshape(-1, 2).T
    return audio.astype(np.float32) / 32768


def play_part(
    part: Part, score: Score, studio: Studio, frames: int, rng: np.random.Generator
) -> Take:
    """Play a part on something of its family: recorded, from a soundfont, or synthetic."""
    timbre = part.timbre
    recorded, programs = studio.recorded(timbre), studio.programs(timbre)
    synthetic = timbre in synth.SYNTHETIC
    ways = ["recorded"] * bool(recorded) * 3 + ["programs"] * bool(programs) * 2
    ways += ["synthetic"] * synthetic * 3
    # a held-out track shows its held-out sounds; what nothing else plays is synthesised
    if studio.held_out and (recorded or programs):
        ways = [way for way in ways if way != "synthetic"] or ways
    way = pick(rng, ways or ["synthetic"])
    if way == "recorded":
        instrument = studio.instrument(pick(rng, recorded))
        audio = play_recorded(part, score, instrument, frames, rng)
        material = set(instrument.material)
    elif way == "programs":
        font = studio.font(rng)
        program = pick(rng, programs)
        events = [
            (at, seconds, int(np.clip(note.pitch, 0, 127)), int(1 + 126 * note.velocity))
            for at, seconds, note in timed(part, score, rng)
        ]
        audio = play_soundfont(events, font, 0, program, frames, float(rng.normal(0, 0.05)))
        material = {f"soundfont/{font.stem}/{program:03d}"}
    else:
        family = timbre if synthetic else ("synth_bass" if part.source == "bass" else "pluck")
        play = play_glide if family == "glide_lead" else play_synth
        audio = play(part, score, synth.draw_patch(family, rng), frames, rng)
        material = set()
    if timbre == "guitar_drive" and not (way == "programs" and rng.random() < 0.6):
        audio = effects.saturate(audio, float(rng.uniform(0.5, 1.0)))
        audio = effects.cabinet(audio, float(rng.uniform(70, 130)), float(rng.uniform(3800, 6500)))
    return Take(audio, material)


# ------------------------------------------------------------------------------------------ drums

Kit = dict[str, list[np.ndarray]]
"""Hits `[2, L]` of every piece, softest first, the loudest with peak 1."""


def recorded_kit(studio: Studio, name: str, rng: np.random.Generator) -> tuple[Kit, set[str]]:
    """The pieces of a recorded kit; of several drums for a piece a song takes one."""
    kit: Kit = {}
    material: set[str] = set()
    for piece, names in KITS[name].items():
        groups = [studio.bank.under(f"drums/{name}/{prefix}") for prefix in names]
        groups = [group for group in groups if group]
        if not groups:
            continue
        samples: list[Sample] = pick(rng, groups)
        if name == "sonicpi":
            samples = [pick(rng, samples)]
        hits = [to_stereo(studio.bank.audio(sample)) for sample in samples]
        kit[piece] = normalise(hits)
        material |= {sample.material for sample in samples}
    return kit, material


def normalise(hits: list[np.ndarray]) -> list[np.ndarray]:
    """Sort hits by loudness and scale them together to a peak of 1."""
    order = sorted(hits, key=lambda hit: float(np.square(hit[:, :8000]).sum()))
    peak = max(float(np.abs(hit).max()) for hit in order)
    return [hit / max(peak, 1e-6) for hit in order]


def soundfont_kit(studio: Studio, rng: np.random.Generator) -> tuple[Kit, set[str]]:
    """A kit of a soundfont, each piece struck at four velocities."""
    font = studio.font(rng)
    program = pick(rng, [k for k in GM_KITS if (k in HELD_OUT_KITS) == studio.held_out])
    gap = 2.0
    events = [
        ((4 * row + k) * gap, 1.5, key, velocity)
        for row, key in enumerate(GM_PIECES.values())
        for k, velocity in enumerate((35, 70, 100, 126))
    ]
    n = int(gap * SAMPLE_RATE)
    audio = play_soundfont(events, font, 128, program, len(events) * n)
    hits = [audio[:, k * n : (k + 1) * n] for k in range(len(events))]
    kit = {
        piece: normalise([fade(hit, 0.0, 0.05) for hit in hits[4 * row : 4 * row + 4]])
        for row, piece in enumerate(GM_PIECES)
        if max(np.abs(hit).max() for hit in hits[4 * row : 4 * row + 4]) > 1e-3
    }
    return kit, {f"soundfont/{font.stem}/kit{program:03d}"}


def draw_kit(studio: Studio, family: str, rng: np.random.Generator) -> tuple[Kit, set[str]]:
    """A kit of the family; what it lacks comes from a soundfont or is synthesised when struck."""
    kit: Kit = {}
    material: set[str] = set()
    acoustic = [k for k in ("muldjordkit", "gogodze") if studio.bank.under(f"drums/{k}/")]
    electro = bool(studio.bank.under("drums/sonicpi/"))
    if family == "acoustic" and acoustic:
        kit, material = recorded_kit(studio, pick(rng, acoustic), rng)
    elif (family == "electro" or (family == "acoustic" and studio.held_out)) and electro:
        kit, material = recorded_kit(studio, "sonicpi", rng)
    if studio.soundfonts and (family == "gm" or (family == "acoustic" and len(kit) < 12)):
        more, theirs = soundfont_kit(studio, rng)
        kit = {**more, **kit}
        material = material | theirs
    return kit, material


def play_drums(
    part: Part, score: Score, studio: Studio, frames: int, rng: np.random.Generator
) -> Take:
    """Play a drum part on a kit with a balance, tuning and damping of this song's own."""
    kit, material = draw_kit(studio, part.timbre, rng)
    tuning = float(rng.normal(0, 1.2))
    damping = float(rng.uniform(0.2, 3.0)) if rng.random() < 0.4 else 0.0
    setup: dict[str, tuple[list[np.ndarray], float, float]] = {}
    for piece in sorted({note.piece for note in part.notes}):
        hits = kit.get(piece) or [synth.draw_hit(piece, rng)]
        shift = tuning + float(rng.normal(0, 0.7))
        hits = [repitch(hit, shift) for hit in hits]
        if damping:
            hits = [damp(hit, damping) for hit in hits]
        level = PIECE_LEVELS.get(piece, -10.0) + float(rng.normal(0, 2.2))
        low = piece in ("kick", "snare")
        setup[piece] = (hits, level, float(rng.normal(0, 0.03 if low else 0.3)))
    bus = np.zeros((2, frames), np.float32)
    events = timed(part, score, rng)
    shut = np.array([at for at, _, note in events if note.piece in ("hat", "pedal")])
    for at, _, note in events:
        hits, level, pan = setup[note.piece]
        place = note.velocity * len(hits) - 0.5 + float(rng.normal(0, 0.6))
        hit = hits[int(np.clip(round(place), 0, len(hits) - 1))]
        # a group of layers carries its own dynamics; a lone sample gets all of it here
        depth = 26 if len(hits) == 1 else 9
        gain = 10 ** ((level - depth * (1 - note.velocity)) / 20)
        if note.piece == "hat_open" and len(shut):
            following = shut[shut > at + 0.02]
            if len(following):
                n = int((following[0] - at) * SAMPLE_RATE)
                hit = fade(hit[:, :n], 0.0, 0.02)
        sides = effects.sides(pan)
        mix_in(bus, hit * (np.float32(gain) * sides), at)
    loops = studio.bank.under("drums/sonicpi/loop_")
    if loops and part.timbre in ("electro", "synth") and rng.random() < 0.25:
        loop = pick(rng, loops)
        layer = play_loop(to_stereo(studio.bank.audio(loop)), score, frames, rng)
        bus += layer * level_gain(layer, 20 * np.log10(rms(bus) + 1e-6) - rng.uniform(3, 9))
        material.add(loop.material)
    return Take(bus, material)


def damp(hit: np.ndarray, amount: float) -> np.ndarray:
    """Let a hit die sooner: by `amount` times 60 dB in a second."""
    time = np.arange(hit.shape[1], dtype=np.float32) / SAMPLE_RATE
    return hit * np.exp(-6.9 * amount * time)


def play_loop(loop: np.ndarray, score: Score, frames: int, rng: np.random.Generator) -> np.ndarray:
    """Repeat a loop in tempo; it lasts the power of two of beats that bends it least."""
    beat = 60 / score.bpm * SAMPLE_RATE
    beats = 2.0 ** round(np.log2(loop.shape[1] / beat))
    semitones = 12 * np.log2(loop.shape[1] / (beats * beat))
    piece = repitch(loop, float(semitones))
    bus = np.zeros((2, frames), np.float32)
    for section in score.sections:
        if rng.random() < 0.6:
            at = section.start * 4.0
            while at < (section.start + section.bars) * 4:
                mix_in(bus, piece, at * 60 / score.bpm)
                at += beats
    return bus


def rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.square(audio).mean()))


# -------------------------------------------------------------------------------------- the desk


def drum_bus(audio: np.ndarray, rng: np.random.Generator, electronic: bool) -> np.ndarray:
    """Equaliser, compression, saturation and room of the drums."""
    audio = effects.tilt(audio, float(rng.normal(1, 2)), float(rng.normal(0, 2)), 700)
    if rng.random() < 0.6:
        audio = effects.compress(audio, float(rng.uniform(0, 8)), float(rng.uniform(1.5, 4)))
    if rng.random() < 0.3:
        audio = effects.saturate(audio, float(rng.uniform(0.05, 0.35)))
    if rng.random() < (0.3 if electronic else 0.65):
        wet = float(rng.uniform(0.04, 0.25))
        audio = effects.reverb(audio, float(rng.uniform(0.2, 1.1)), wet, rng)
    return audio


def bass_bus(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bass stays near the middle; amplifier, compression, hardly a room."""
    middle = audio.mean(axis=0, keepdims=True)
    width = np.float32(rng.uniform(0, 0.4))
    audio = middle + (audio - middle) * width
    audio = effects.tilt(audio, float(rng.normal(1, 2)), float(rng.normal(-1, 3)), 400)
    if rng.random() < 0.6:
        audio = effects.compress(audio, float(rng.uniform(2, 8)), float(rng.uniform(2, 5)))
    if rng.random() < 0.35:
        audio = effects.saturate(audio, float(rng.uniform(0.1, 0.6)))
    if rng.random() < 0.08:
        audio = effects.reverb(audio, 0.5, 0.06, rng)
    return audio


def other_part(audio: np.ndarray, part: Part, score: Score, rng: np.random.Generator) -> np.ndarray:
    """Equaliser, chorus, echo, room and place of one accompanying part."""
    audio = production.treat_part(audio, part.role == "lead", score, rng)
    audio = effects.tilt(audio, float(rng.normal(-1, 2)), float(rng.normal(0, 2.5)))
    if rng.random() < 0.6:
        # as at a real desk: what lies under the bass is not this part's
        audio = effects.high_pass(audio, float(rng.uniform(60, 180)))
    if rng.random() < 0.3:
        depth, rate = float(rng.uniform(0.001, 0.004)), float(rng.uniform(0.2, 1.2))
        audio = effects.chorus(audio, depth, rate)
    if rng.random() < (0.4 if part.role in ("lead", "ostinato", "arpeggio") else 0.12):
        beats = float(pick(rng, (0.5, 0.75, 1.0)))
        audio = effects.echo(audio, beats * 60 / score.bpm, float(rng.uniform(0.2, 0.5)))
    if rng.random() < 0.65:
        wet = float(rng.uniform(0.05, 0.35))
        audio = effects.reverb(audio, float(rng.uniform(0.4, 2.2)), wet, rng)
    if rng.random() < 0.3:
        audio = effects.compress(audio, float(rng.uniform(0, 6)), float(rng.uniform(1.5, 4)))
    pan = float(np.clip(rng.normal(0, 0.12 if part.role == "lead" else 0.35), -0.9, 0.9))
    return audio * effects.sides(pan)


def vocal_bus(audio: np.ndarray, score: Score, rng: np.random.Generator) -> np.ndarray:
    """High-pass, compression, echo and room of the singing."""
    audio = production.treat_vocals(audio, score, rng)
    audio = effects.high_pass(audio, float(rng.uniform(70, 140)))
    audio = effects.tilt(audio, float(rng.normal(0, 1.5)), float(rng.normal(3.5, 2.5)), 2000)
    if rng.random() < 0.7:
        audio = effects.compress(audio, float(rng.uniform(2, 9)), float(rng.uniform(1.5, 4)))
    if rng.random() < 0.15:
        audio = effects.saturate(audio, float(rng.uniform(0.05, 0.4)))
    if rng.random() < 0.12:
        audio = effects.chorus(audio, 0.003, float(rng.uniform(0.3, 0.9)))
    if rng.random() < 0.35:
        beats = float(pick(rng, (0.5, 0.75, 1.0, 0.25)))
        audio = effects.echo(audio, beats * 60 / score.bpm, float(rng.uniform(0.12, 0.4)))
    if rng.random() < 0.8:
        wet = float(rng.uniform(0.05, 0.35))
        seconds, delay = float(rng.uniform(0.5, 2.6)), float(rng.uniform(0, 0.04))
        audio = effects.reverb(audio, seconds, wet, rng, delay)
    return audio


BUS_LEVELS = {"vocals": -19.0, "drums": -18.0, "bass": -19.5, "other": -20.0}
"""Level in dB of each source while it plays, as it leaves the desk, give or take 2 dB."""


def render(
    score: Score,
    studio: Studio,
    rng: np.random.Generator,
    sing: Callable[[Score, int, np.random.Generator], Take] | None = None,
) -> tuple[dict[str, np.ndarray], set[str]]:
    """Play a score.

    Args:
        sing: gives the dry vocals of a score for a number of samples; None leaves them out.

    Returns:
        A stem `[2, L]` for each source that plays, and the material that was used.
    """
    frames = int((score.seconds + 1.5) * SAMPLE_RATE)
    buses: dict[str, np.ndarray] = {}
    material: set[str] = set()
    electronic = score.human < 0.003
    kicks = np.array(
        [
            score.time(note.start)
            for part in score.parts
            for note in part.notes
            if note.piece == "kick"
        ]
    )
    ducked = electronic and rng.random() < 0.6 and len(kicks)
    ducking = np.ones(frames, np.float32)
    if ducked:
        depth, seconds = float(rng.uniform(0.3, 0.95)), float(rng.uniform(0.12, 0.35))
        ducking = effects.duck(kicks, frames, depth, seconds)
    for number, part in enumerate(score.parts):
        if part.source == "vocals":
            continue
        if part.source == "drums":
            take = play_drums(part, score, studio, frames, rng)
            audio = drum_bus(take.audio, rng, electronic)
        else:
            take = play_part(part, score, studio, frames, rng)
            if part.source == "bass":
                audio = bass_bus(take.audio, rng)
            else:
                audio = other_part(take.audio, part, score, rng)
                if part.timbre == "guitar_drive" and part.role != "lead" and rng.random() < 0.6:
                    double = play_part(part, score, studio, frames, rng)
                    take.material |= double.material
                    audio = np.stack([audio.mean(axis=0), double.audio.mean(axis=0)])
                offset = {"lead": 1.5, "hold": -2.5}.get(part.role, 0.0) - 1.0 * number * 0.3
                audio = audio * level_gain(audio, -20 + offset + float(rng.normal(0, 1.5)))
            audio = audio * ducking
        buses[part.source] = buses.get(part.source, 0) + audio
        material |= take.material
    if electronic and rng.random() < 0.3:
        seconds = 4 * 60 / score.bpm
        for section in score.sections[1:]:
            sweep = synth.riser(rng, seconds) * np.float32(0.2)
            bus = buses.setdefault("other", np.zeros((2, frames), np.float32))
            mix_in(bus, sweep, section.start * 240 / score.bpm - seconds)
    if rng.random() < (0.35 if electronic else 0.15):
        layer = production.texture(score, frames, rng)
        bus = buses.setdefault("other", np.zeros((2, frames), np.float32))
        bus += layer * level_gain(layer, -20 - float(rng.uniform(4, 18)))
    if "drums" in buses and rng.random() < 0.12:
        buses["drums"] = production.apply(buses["drums"], production.draw_stutters(score, rng))
    if sing is not None:
        take = sing(score, frames, rng)
        buses["vocals"] = vocal_bus(take.audio, score, rng)
        material |= take.material
    for source, audio in buses.items():
        target = BUS_LEVELS[source] + float(np.clip(rng.normal(0, 2), -5, 4))
        level = active_level(block_levels(audio))
        audio = audio * np.float32(10 ** ((target - level) / 20))
        crest = {"drums": 17.0, "vocals": 15.0}.get(source, 14.0)
        buses[source] = effects.soft_limit(audio, 10 ** ((target + crest) / 20))
    buses = master(buses, score, electronic, rng)
    return {s: np.asarray(audio, np.float32) for s, audio in buses.items()}, material


def master(
    buses: dict[str, np.ndarray], score: Score, electronic: bool, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """What is done to the sum, done to every stem alike, so that they still add up to it."""
    changes: list[Callable[[np.ndarray], np.ndarray]] = []
    if rng.random() < (0.15 if electronic else 0.03):
        changes.append(production.draw_sweep(score, rng))
    if rng.random() < (0.1 if electronic else 0.02):
        changes += production.draw_stutters(score, rng)
    buses = {source: production.apply(audio, changes) for source, audio in buses.items()}
    mixture = np.sum(list(buses.values()), axis=0)
    gain = np.ones(mixture.shape[1], np.float32)
    if rng.random() < 0.3:
        threshold, ratio = float(rng.uniform(-20, -12)), float(rng.uniform(1.3, 2.5))
        gain = gain * effects.compressor_gain(mixture, threshold, ratio, release=0.25)
    if rng.random() < 0.35:
        # as loud as uploads are: the peaks of the drums pull all else down
        over = float(rng.uniform(0, 5))
        threshold = active_level(block_levels(mixture)) + 6 - over
        gain = gain * effects.compressor_gain(
            mixture * gain, threshold, 12.0, attack=0.001, release=float(rng.uniform(0.03, 0.12))
        )
    return {source: audio * gain for source, audio in buses.items()}


def licence_rows(fonts: Sequence[str]) -> list[LicenceRow]:
    """Licence rows of soundfonts by the stems of their file names."""
    unknown = ("a soundfont of your own", "unknown", "unknown")
    return [(f"soundfont/{font}", *SOUNDFONT_LICENCES.get(font, unknown)) for font in fonts]
