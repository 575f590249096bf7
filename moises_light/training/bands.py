"""Our own music on paper: tempo, key, form, chords, and a part for every instrument.

`compose` writes a `Score` of plain notes in beats; nothing here makes sound. Drums are written as
grids of sixteen steps a bar, bass lines follow kick and chords, melodies grow from short motifs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

SCALES: Mapping[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
}

PROGRESSIONS: Mapping[str, Sequence[Sequence[int]]] = {
    "bright": (
        *((0, 4, 5, 3), (5, 3, 0, 4), (0, 3, 4, 3), (0, 5, 3, 4), (0, 3, 0, 4)),
        *((1, 4, 0, 5), (0, 2, 3, 4), (3, 0, 4, 5), (0, 0, 3, 4), (0, 4, 1, 3)),
    ),
    "dark": (
        *((0, 5, 2, 6), (0, 3, 5, 4), (0, 6, 5, 6), (0, 5, 3, 6), (0, 0, 5, 6)),
        *((0, 3, 6, 2), (5, 6, 0, 0), (0, 2, 6, 5), (0, 6, 5, 4), (0, 3, 0, 6)),
    ),
    "blues": ((0, 0, 0, 0, 3, 3, 0, 0, 4, 3, 0, 4), (0, 3, 0, 0, 3, 3, 0, 0, 4, 3, 0, 0)),
    "vamp": ((0,), (0, 0, 0, 6), (0, 3), (0, 1), (0, 6)),
}

HITS = {"X": (1.0, 0.97), "x": (1.0, 0.76), "o": (1.0, 0.3), "?": (0.5, 0.65), "-": (0.35, 0.25)}
"""Letters of a drum grid: probability that the step sounds, and its velocity."""

Grid = Mapping[str, str]


@dataclass(frozen=True)
class Note:
    """A note or a hit: `start` and `length` in beats, `pitch` in MIDI, `velocity` 0 to 1.

    A hit's `piece` names the part of the kit; its pitch means nothing.
    """

    start: float
    length: float
    pitch: float
    velocity: float
    piece: str = ""


@dataclass(frozen=True)
class Chord:
    """A chord: `start` and `length` in beats, `root` and `tones` as pitch classes, root first."""

    start: float
    length: float
    root: int
    tones: tuple[int, ...]


@dataclass(frozen=True)
class Section:
    """A stretch of the form: bars from `start`, and how full it is, 0 to 1."""

    name: str
    start: int
    bars: int
    energy: float


@dataclass(frozen=True)
class Part:
    """Notes of one player: the source it belongs to, its role and the family of its sound."""

    source: str
    role: str
    timbre: str
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Score:
    """A piece of music on paper. Swing and human timing are added when it is played."""

    style: str
    bpm: float
    root: int
    scale: str
    bars: int
    swing: float
    swing_unit: float
    human: float
    sections: tuple[Section, ...]
    chords: tuple[Chord, ...]
    parts: tuple[Part, ...]
    vocal_windows: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        return self.bars * 4 * 60 / self.bpm

    def time(self, beat: float) -> float:
        """Second at which a beat falls; off-beats of the swing's unit come late."""
        unit = self.swing_unit
        step = beat / unit
        if self.swing and abs(step - round(step)) < 1e-6 and round(step) % 2:
            beat += self.swing * unit
        return beat * 60 / self.bpm


@dataclass(frozen=True)
class Style:
    """What a style allows; every entry is a choice to draw from."""

    bpm: tuple[float, float]
    grooves: Sequence[Grid]
    bass: Sequence[str]
    bass_timbres: Sequence[str]
    comps: Sequence[tuple[str, str]]
    leads: Sequence[str]
    kits: Sequence[str]
    scales: Sequence[str] = ("major", "minor", "minor", "dorian", "mixolydian")
    progressions: Sequence[str] = ("bright", "dark")
    swing: tuple[float, float] = (0.0, 0.06)
    swing_unit: float = 0.25
    human: float = 0.006
    sevenths: float = 0.2
    electronic: bool = False


_EIGHTHS, _OFF = "x.x.x.x.x.x.x.x.", "..x...x...x...x."
_SIXTEENTHS = "xoxoxoxoxoxoxoxo"
_BACK = "....X.......X..."
_FOUR = "X...X...X...X..."

_ROCK_LEADS = ("guitar_drive", "guitar_clean", "organ", "synth_lead", "sax", "glide_lead")
_POP_LEADS = (
    "guitar_clean",
    "synth_lead",
    "pluck",
    "piano",
    "sax",
    "strings",
    "bell",
    "glide_lead",
)
_DANCE_LEADS = ("synth_lead", "pluck", "supersaw", "glide_lead", "piano", "sax", "bell")

STYLES: Mapping[str, Style] = {
    "rock": Style(
        (88, 160),
        (
            {"kick": "X.....x.x.......", "snare": _BACK, "hat": _EIGHTHS},
            {"kick": "X..x..x.x..?....", "snare": _BACK, "hat": _EIGHTHS},
            {"kick": "X.x.....x.x...?.", "snare": _BACK, "ride": _EIGHTHS,
             "pedal": "....x.......x..."},
            {"kick": "X.......X.x.....", "snare": "....X..-....X..-",
             "hat_open": "x...x...x...x..."},
        ),
        ("eighths", "kick", "roots"),
        ("electric", "electric", "pick"),
        (("strum", "guitar_drive"), ("power", "guitar_drive"), ("strum", "guitar_clean"),
         ("hold", "organ")),
        _ROCK_LEADS,
        ("acoustic", "acoustic", "gm"),
        progressions=("bright", "dark", "blues"),
    ),
    "pop": Style(
        (84, 128),
        (
            {"kick": "X.....x.X.x.....", "snare": _BACK, "clap": _BACK, "hat": _EIGHTHS},
            {"kick": "X...X...X...X...", "snare": _BACK, "hat": "x.xxx.xxx.xxx.xx"},
            {"kick": "X..x....X..x....", "clap": _BACK, "hat": _SIXTEENTHS, "shaker": _SIXTEENTHS},
        ),
        ("kick", "eighths", "roots"),
        ("electric", "synth_bass", "sub", "gm"),
        (("strum", "acoustic_guitar"), ("block", "piano"), ("arpeggio", "pluck"), ("hold", "pad"),
         ("strum", "guitar_clean"), ("block", "epiano")),
        _POP_LEADS,
        ("acoustic", "gm", "electro", "synth"),
        sevenths=0.3,
    ),
    "ballad": Style(
        (58, 84),
        (
            {"kick": "X.......x.?.....", "snare": _BACK, "hat": _EIGHTHS},
            {"kick": "X..-......x.....", "rim": _BACK, "ride": _EIGHTHS},
            {"kick": "X.........x.....", "snare": _BACK, "hat": "x-x-x-x-x-x-x-x-"},
        ),
        ("roots", "kick", "walk"),
        ("electric", "fretless", "upright", "gm"),
        (("block", "piano"), ("arpeggio", "piano"), ("hold", "strings"),
         ("arpeggio", "guitar_clean"),
         ("block", "epiano"), ("hold", "pad"), ("arpeggio", "acoustic_guitar")),
        ("piano", "guitar_clean", "guitar_drive", "strings", "sax", "flute"),
        ("acoustic", "acoustic", "gm"),
        sevenths=0.45,
    ),
    "funk": Style(
        (92, 118),
        (
            {"kick": "X..x..x...x..?..", "snare": "....X..o.o..X..o", "hat": _SIXTEENTHS},
            {"kick": "X.x....x..x....?", "snare": "....X..o.o.oX...", "hat": "xoxoxoXoxoxoxoXo",
             "hat_open": "..............x."},
            {"kick": "X.....x..x.x....", "snare": "....X..-.-..X.-.", "hat": _EIGHTHS,
             "cowbell": "x...x...x...x..."},
        ),
        ("funk", "kick"),
        ("electric", "slap", "electric", "synth_bass"),
        (("scratch", "guitar_clean"), ("stabs", "epiano"), ("stabs", "brass"), ("stabs", "clav"),
         ("hold", "organ")),
        ("sax", "guitar_clean", "synth_lead", "brass", "epiano"),
        ("acoustic", "acoustic", "gm"),
        scales=("dorian", "mixolydian", "minor"),
        progressions=("vamp", "blues", "dark"),
        sevenths=0.8,
        swing=(0.0, 0.15),
    ),
    "disco": Style(
        (108, 128),
        (
            {"kick": _FOUR, "snare": _BACK, "hat": _EIGHTHS, "hat_open": _OFF},
            {"kick": _FOUR, "snare": _BACK, "clap": _BACK, "hat": _SIXTEENTHS, "tamb": _EIGHTHS},
        ),
        ("octaves", "funk", "eighths"),
        ("electric", "slap", "synth_bass"),
        (("scratch", "guitar_clean"), ("stabs", "epiano"), ("hold", "strings"), ("block", "piano"),
         ("stabs", "brass")),
        ("strings", "sax", "synth_lead", "brass", "pluck"),
        ("acoustic", "gm", "electro"),
        sevenths=0.6,
    ),
    "house": Style(
        (118, 130),
        (
            {"kick": _FOUR, "clap": _BACK, "hat_open": "..X...X...X...X.",
             "hat": "xoxoxoxoxoxoxoxo"},
            {"kick": _FOUR, "clap": _BACK, "hat_open": _OFF, "shaker": _SIXTEENTHS,
             "perc": "...x..x....x..?."},
            {"kick": _FOUR, "snare": _BACK, "hat": "..x...x...x...x.", "rim": "...x..x...x..x.."},
        ),
        ("offbeat", "synco", "eighths", "octaves"),
        ("synth_bass", "sub", "fm_bass", "electric"),
        (("stabs", "stab"), ("stabs", "piano"), ("hold", "pad"), ("stabs", "organ"),
         ("arpeggio", "pluck"),
         ("hold", "strings")),
        _DANCE_LEADS,
        ("synth", "electro", "synth", "gm"),
        progressions=("dark", "bright", "vamp"),
        sevenths=0.5,
        swing=(0.0, 0.12),
        human=0.0015,
        electronic=True,
    ),
    "techno": Style(
        (124, 140),
        (
            {"kick": _FOUR, "hat_open": _OFF, "hat": "x-x-x-x-x-x-x-x-",
             "perc": "..x..x....x..x.."},
            {"kick": _FOUR, "clap": "....x.......x...", "ride": _OFF, "rim": "...x....x..x...."},
        ),
        ("rumble", "acid", "offbeat"),
        ("acid", "sub", "synth_bass", "fm_bass"),
        (("stabs", "stab"), ("hold", "pad"), ("ostinato", "pluck"), ("ostinato", "fm_key")),
        ("synth_lead", "acid_lead", "bell", "pluck"),
        ("synth", "synth", "electro"),
        scales=("minor", "phrygian", "dorian"),
        progressions=("vamp", "dark"),
        human=0.0,
        electronic=True,
    ),
    "trance": Style(
        (128, 142),
        (
            {"kick": _FOUR, "clap": _BACK, "hat_open": "..X...X...X...X.", "hat": _SIXTEENTHS},
            {"kick": _FOUR, "snare": _BACK, "hat_open": _OFF, "ride": "..x...x...x...x."},
        ),
        ("offbeat", "gallop", "eighths"),
        ("synth_bass", "sub", "fm_bass"),
        (("hold", "supersaw"), ("ostinato", "pluck"), ("hold", "pad"), ("gate", "supersaw"),
         ("arpeggio", "pluck"), ("block", "piano")),
        ("supersaw", "pluck", "synth_lead", "piano", "bell"),
        ("synth", "synth", "electro"),
        scales=("minor", "minor", "major"),
        progressions=("dark", "dark", "bright"),
        human=0.0,
        electronic=True,
    ),
    "synthwave": Style(
        (84, 122),
        (
            {"kick": "X.......X.......", "snare": _BACK, "hat": _EIGHTHS,
             "tom2": "..............x-"},
            {"kick": _FOUR, "snare": _BACK, "hat": _SIXTEENTHS},
        ),
        ("eighths", "sixteenths", "octaves"),
        ("synth_bass", "fm_bass"),
        (("hold", "pad"), ("arpeggio", "pluck"), ("hold", "supersaw"), ("stabs", "stab")),
        ("synth_lead", "sax", "guitar_drive", "glide_lead", "supersaw"),
        ("synth", "electro", "gm"),
        scales=("minor", "dorian", "major"),
        human=0.001,
        electronic=True,
    ),
    "hiphop": Style(
        (74, 98),
        (
            {"kick": "X......x..x.....", "snare": _BACK, "hat": "x.x.x.xxx.x.x.x."},
            {"kick": "X.x.......xx....", "snare": "....X..-....X...", "hat": _EIGHTHS,
             "hat_open": "..............x."},
            {"kick": "X..x.....xx.....", "clap": _BACK, "hat": _SIXTEENTHS,
             "perc": "......x........x"},
        ),
        ("kick", "roots", "synco"),
        ("electric", "sub", "upright", "synth_bass", "808"),
        (("block", "epiano"), ("block", "piano"), ("ostinato", "bell"), ("hold", "strings"),
         ("arpeggio", "guitar_clean"), ("stabs", "brass")),
        ("flute", "glide_lead", "sax", "bell", "piano"),
        ("electro", "acoustic", "synth", "gm"),
        scales=("minor", "dorian", "phrygian"),
        progressions=("vamp", "dark"),
        sevenths=0.6,
        swing=(0.05, 0.32),
    ),
    "trap": Style(
        (126, 160),
        (
            {"kick": "X.........x..x..", "clap": "........X.......", "hat": "x.x.x.x.x.x.x.x.",
             "roll": "x"},
            {"kick": "X.....x.......x.", "snare": "........X.......", "hat": "x.xxx.x.x.xxx.x.",
             "roll": "x",
             "hat_open": "..........x....."},
        ),
        ("808",),
        ("808", "808", "sub"),
        (("ostinato", "bell"), ("ostinato", "pluck"), ("hold", "pad"), ("arpeggio", "piano"),
         ("hold", "strings"), ("ostinato", "guitar_clean")),
        ("flute", "bell", "synth_lead", "brass", "glide_lead"),
        ("synth", "synth", "electro"),
        scales=("minor", "phrygian"),
        progressions=("dark", "vamp"),
        human=0.001,
        electronic=True,
    ),
    "dnb": Style(
        (164, 178),
        (
            {"kick": "X.........x.....", "snare": _BACK, "hat": _EIGHTHS,
             "ride": "-.x.-.x.-.x.-.x."},
            {"kick": "X.x.......xx....", "snare": "....X..o.o..X..o", "hat": _EIGHTHS},
        ),
        ("reese", "synco", "roots"),
        ("reese", "sub", "fm_bass"),
        (("hold", "pad"), ("stabs", "stab"), ("stabs", "epiano"), ("ostinato", "pluck")),
        ("synth_lead", "bell", "glide_lead", "sax"),
        ("electro", "synth", "acoustic"),
        scales=("minor", "dorian"),
        progressions=("dark", "vamp"),
        human=0.002,
        electronic=True,
    ),
    "breakbeat": Style(
        (100, 140),
        (
            {"kick": "X.x.......xx....", "snare": "....X..o.o..X..o", "hat": _EIGHTHS},
            {"kick": "X..x..x...x.....", "snare": "....X.......X.-.", "hat": _SIXTEENTHS},
            {"kick": "X......x.x......", "snare": "....X..-....X..-", "hat": "x.x.x.x.x.x.x.x.",
             "cowbell": "..x...x...x...x."},
        ),
        ("acid", "synco", "kick"),
        ("acid", "synth_bass", "electric", "sub"),
        (("stabs", "stab"), ("hold", "pad"), ("stabs", "organ"), ("ostinato", "pluck")),
        ("acid_lead", "synth_lead", "sax", "guitar_drive"),
        ("electro", "acoustic", "synth"),
        scales=("minor", "dorian"),
        progressions=("vamp", "dark"),
        electronic=True,
    ),
    "reggae": Style(
        (66, 92),
        (
            {"kick": "........X.......", "rim": "........X.......", "hat": _EIGHTHS},
            {"kick": _FOUR, "snare": "........X.......", "hat": "x.xxx.xxx.xxx.xx"},
            {"kick": "X.......X.......", "rim": "....X..-....X...", "hat": _EIGHTHS},
        ),
        ("reggae",),
        ("electric", "sub", "upright", "electric"),
        (("skank", "guitar_clean"), ("skank", "organ"), ("bubble", "organ"), ("skank", "piano")),
        ("sax", "melodica", "brass", "organ", "guitar_clean"),
        ("acoustic", "gm"),
        progressions=("vamp", "bright", "dark"),
        swing=(0.0, 0.22),
        swing_unit=0.5,
    ),
    "latin": Style(
        (88, 116),
        (
            {"kick": "X..xX..xX..xX..x", "rim": "x..x..x...x..x..", "shaker": _SIXTEENTHS},
            {"kick": _FOUR, "snare": "...x..x....x..x.", "hat": _EIGHTHS, "shaker": _SIXTEENTHS},
            {"kick": "X.....x.X.....x.", "conga_lo": "..x...xx..x...xx",
             "conga_hi": "x..x.....-x..-..",
             "cowbell": "x...x.x.x...x.x.", "hat": _EIGHTHS},
        ),
        ("tumbao", "kick", "roots"),
        ("electric", "upright", "fretless", "sub"),
        (("montuno", "piano"), ("strum", "acoustic_guitar"), ("stabs", "brass"),
         ("block", "epiano")),
        ("brass", "sax", "flute", "piano", "acoustic_guitar"),
        ("acoustic", "gm", "electro"),
        sevenths=0.5,
    ),
    "metal": Style(
        (100, 190),
        (
            {"kick": "xxxxxxxxxxxxxxxx", "snare": _BACK, "china": "x...x...x...x..."},
            {"kick": "x.xxx.xxx.xxx.xx", "snare": _BACK, "hat_open": "x...x...x...x..."},
            {"kick": "X..xX..x..x.X...", "snare": "........X.......", "ride": "x...x...x...x..."},
            {"kick": "x.x.x.x.x.x.x.x.", "snare": ".x.x.x.x.x.x.x.x", "ride": _EIGHTHS},
        ),
        ("riff", "eighths", "kick"),
        ("pick", "electric", "growl"),
        (("riff", "guitar_drive"), ("power", "guitar_drive"), ("hold", "strings")),
        ("guitar_drive", "guitar_drive", "synth_lead"),
        ("acoustic", "acoustic", "gm"),
        scales=("minor", "phrygian"),
        progressions=("dark", "vamp"),
        sevenths=0.0,
    ),
    "jazz": Style(
        (96, 190),
        (
            {"ride": "X...X..xX...X..x", "pedal": "....x.......x...", "kick": "-...-...-...-...",
             "snare": ".......-...-...-"},
            {"ride": "X...X..xX...X..x", "pedal": "....x.......x...", "rim": "............x..."},
        ),
        ("walk",),
        ("upright", "upright", "fretless", "electric"),
        (("charleston", "piano"), ("charleston", "guitar_clean"), ("charleston", "epiano"),
         ("hold", "organ")),
        ("sax", "sax", "piano", "guitar_clean", "brass", "flute"),
        ("acoustic", "gm"),
        scales=("major", "dorian", "mixolydian"),
        progressions=("bright", "blues", "vamp"),
        swing=(0.28, 0.36),
        swing_unit=0.5,
        sevenths=1.0,
    ),
    "soul": Style(
        (70, 112),
        (
            {"kick": "X.....x...x.....", "snare": "....X..-....X...", "hat": _EIGHTHS},
            {"kick": "X..x....x.x.....", "rim": _BACK, "hat": _SIXTEENTHS},
            {"kick": "X.x.....X.......", "snare": _BACK, "tamb": _BACK, "hat": _EIGHTHS},
        ),
        ("kick", "funk", "walk"),
        ("electric", "fretless", "electric", "synth_bass"),
        (("block", "epiano"), ("hold", "organ"), ("strum", "guitar_clean"), ("stabs", "brass"),
         ("hold", "strings")),
        ("sax", "guitar_clean", "organ", "brass", "epiano"),
        ("acoustic", "acoustic", "gm", "electro"),
        sevenths=0.7,
        swing=(0.0, 0.2),
    ),
    "folk": Style(
        (76, 132),
        (
            {"kick": "X.......x.......", "shaker": _EIGHTHS, "tamb": _BACK},
            {"kick": "X.......X.......", "snare": "--x.--x.--x.--x.", "hat": "....x.......x..."},
            {"kick": "X.......-.......", "rim": _BACK, "shaker": _SIXTEENTHS},
        ),
        ("roots", "walk"),
        ("upright", "electric", "fretless"),
        (("strum", "acoustic_guitar"), ("arpeggio", "acoustic_guitar"), ("block", "piano"),
         ("strum", "ukulele"),
         ("hold", "strings"), ("hold", "accordion")),
        ("flute", "strings", "acoustic_guitar", "accordion", "piano", "sax"),
        ("acoustic", "gm"),
        progressions=("bright",),
        scales=("major", "major", "mixolydian", "dorian", "minor"),
    ),
}  # fmt: skip


def pick(rng: np.random.Generator, choices: Sequence):
    """One of the choices, each as likely."""
    return choices[int(rng.integers(len(choices)))]


def styles_near(bpm: float) -> list[str]:
    """Styles that are played at about that tempo; where none is, those that come nearest.

    >>> "house" in styles_near(124), styles_near(30)
    (True, ['ballad'])
    """
    distance = {n: max(s.bpm[0] - bpm, bpm - s.bpm[1], 0) for n, s in STYLES.items()}
    reach = max(4.0, min(distance.values()))
    return [name for name, away in distance.items() if away <= reach]


# ---------------------------------------------------------------------------------------- harmony


def chord_on(degree: int, root: int, scale: Sequence[int], seventh: bool) -> tuple[int, ...]:
    """Pitch classes of the chord on a degree of the scale, stacked in thirds, root first.

    >>> chord_on(4, 0, SCALES["major"], True)
    (7, 11, 2, 5)
    """
    steps = (0, 2, 4, 6) if seventh else (0, 2, 4)
    return tuple((root + scale[(degree + step) % len(scale)]) % 12 for step in steps)


def write_chords(
    rng: np.random.Generator, style: Style, root: int, scale: str, sections: Sequence[Section]
) -> tuple[Chord, ...]:
    """Chords for the whole form: one progression for each kind of section."""
    steps = SCALES[scale]
    mood = [p for p in style.progressions if p not in ("bright", "dark")]
    mood += ["bright" if scale in ("major", "mixolydian") else "dark"] * 2
    plans: dict[str, tuple[Sequence[int], float, bool]] = {}
    chords: list[Chord] = []
    for section in sections:
        if section.name not in plans:
            degrees = pick(rng, PROGRESSIONS[pick(rng, mood)])
            length = pick(rng, (4.0, 4.0, 4.0, 8.0, 2.0)) if len(degrees) <= 4 else 4.0
            plans[section.name] = (degrees, length, rng.random() < style.sevenths)
        degrees, length, seventh = plans[section.name]
        begin, end = section.start * 4.0, (section.start + section.bars) * 4.0
        beat, k = begin, 0
        while beat < end:
            tones = chord_on(degrees[k % len(degrees)], root, steps, seventh)
            chords.append(Chord(beat, min(length, end - beat), tones[0], tones))
            beat += length
            k += 1
    return tuple(chords)


def voice(tones: Sequence[int], centre: float) -> list[int]:
    """MIDI pitches of a close voicing around `centre`."""
    return sorted(int(centre - 6 + (tone - (centre - 6)) % 12) for tone in tones)


def near(pitch_class: int, centre: float) -> int:
    """The pitch of that class that lies nearest to `centre`."""
    return round(centre + (pitch_class - centre + 6) % 12 - 6)


# ----------------------------------------------------------------------------------------- rhythm


def write_grid(rng: np.random.Generator, pattern: str, bar: int) -> list[tuple[float, float]]:
    """Beats and velocities of one piece in one bar of a grid."""
    hits = []
    for step, letter in enumerate(pattern):
        chance, velocity = HITS.get(letter, (0.0, 0.0))
        if rng.random() < chance:
            accent = velocity * (1.0 if step % 4 == 0 else 0.93)
            hits.append((bar * 4 + step / 4, float(np.clip(accent * rng.normal(1, 0.05), 0.05, 1))))
    return hits


def write_fill(rng: np.random.Generator, bar: int, beats: int) -> list[Note]:
    """A fill over the last beats of a bar: snare and toms that fall and grow louder."""
    pieces = ("snare", "tom1", "tom2", "tom3")
    notes = []
    start = bar * 4 + 4 - beats
    steps = beats * pick(rng, (2, 4, 4))
    for k in range(steps):
        if rng.random() < 0.82:
            piece = pieces[min(3, int(4 * k / steps * rng.uniform(0.7, 1.3)))]
            velocity = 0.5 + 0.45 * k / steps
            notes.append(Note(start + k * beats / steps, 0.25, 0, velocity, piece))
    return notes


def write_drums(
    rng: np.random.Generator, style: Style, sections: Sequence[Section]
) -> tuple[tuple[Note, ...], dict[int, list[float]]]:
    """Drum part, and for each bar the beats of the kick that the bass will follow."""
    notes: list[Note] = []
    kicks: dict[int, list[float]] = {}
    plans: dict[str, dict[str, str]] = {}
    for section in sections:
        if section.name not in plans:
            plans[section.name] = dict(pick(rng, style.grooves))
            if rng.random() < 0.25 and "hat" in plans[section.name] and section.energy > 0.7:
                grid = dict(plans[section.name])
                grid["ride" if rng.random() < 0.6 else "hat_open"] = "x...x...x...x..."
                plans[section.name] = grid
        grid = plans[section.name]
        silent = section.name == "break" and rng.random() < 0.6
        thin = section.energy < 0.4
        for bar in range(section.start, section.start + section.bars):
            kicks[bar] = [beat for beat, _ in write_grid(rng, grid.get("kick", _FOUR), bar)]
            if silent:
                continue
            last = bar == section.start + section.bars - 1
            fill = int(rng.choice([0, 1, 2, 4], p=[0.25, 0.35, 0.3, 0.1])) if last else 0
            stop = bar * 4 + 4 - fill
            for piece, pattern in grid.items():
                if piece == "roll" or (thin and piece in ("snare", "clap", "ride", "perc")):
                    continue
                if piece == "kick":
                    hits = [(beat, 0.95 if beat % 2 == 0 else 0.8) for beat in kicks[bar]]
                else:
                    hits = write_grid(rng, pattern, bar)
                notes += [Note(beat, 0.25, 0, v, piece) for beat, v in hits if beat < stop]
            if "roll" in grid and rng.random() < 0.5:
                begin = bar * 4 + float(pick(rng, (1.0, 2.0, 3.0, 3.5)))
                count = pick(rng, (3, 4, 6))
                notes += [
                    Note(begin + k * 0.5 / count, 0.1, 0, 0.4 + 0.4 * k / count, "hat")
                    for k in range(1, count)
                ]
            if fill:
                notes += write_fill(rng, bar, fill)
            if bar == section.start and rng.random() < 0.7:
                notes.append(Note(bar * 4.0, 1, 0, 0.85, "crash"))
    return tuple(sorted(notes, key=lambda n: (n.start, n.piece))), kicks


# ------------------------------------------------------------------------------------------- bass

_BASS_STEPS: Mapping[str, Sequence[Sequence[tuple[float, float, str]]]] = {
    # start and length in beats within a bar, and which tone: r root, f fifth, o octave, c any of
    # the chord, a a step below the next root
    "roots": [[(0, 4, "r")], [(0, 2, "r"), (2, 2, "r")], [(0, 3, "r"), (3, 1, "f")]],
    "eighths": [[(k / 2, 0.5, "r") for k in range(8)],
                [(k / 2, 0.5, "r") for k in range(7)] + [(3.5, 0.5, "a")]],
    "sixteenths": [[(k / 4, 0.25, "r") for k in range(16)]],
    "octaves": [[(k / 2, 0.4, "r" if k % 2 == 0 else "o") for k in range(8)]],
    "offbeat": [[(k + 0.5, 0.4, "r") for k in range(4)],
                [(k + 0.5, 0.3, "r") for k in range(4)] + [(k + 0.75, 0.2, "r") for k in range(4)]],
    "gallop": [[(k + s, 0.22, "r") for k in range(4) for s in (0.25, 0.5, 0.75)]],
    "synco": [[(0, 0.7, "r"), (0.75, 0.7, "r"), (1.5, 0.5, "c"), (2.5, 0.5, "r"), (3.25, 0.5, "o")],
              [(0, 0.5, "r"), (1.5, 0.75, "f"), (2.75, 0.5, "r"), (3.5, 0.4, "a")]],
    "rumble": [[(k + s, 0.24, "r") for k in range(4) for s in (0.25, 0.5, 0.75)]],
    "reese": [[(0, 4, "r")], [(0, 2.5, "r"), (2.5, 1.5, "c")], [(0, 1.5, "r"), (1.5, 2.5, "r")]],
    "808": [[(0, 2.2, "r"), (2.5, 1.4, "r")], [(0, 3.5, "r"), (3.5, 0.5, "o")],
            [(0, 1.4, "r"), (1.5, 0.9, "r"), (2.5, 1.4, "f")]],
    "reggae": [[(0, 0.7, "r"), (1, 0.45, "c"), (1.5, 0.45, "c"), (2, 0.8, "f")],
               [(0.5, 0.4, "r"), (1, 0.5, "r"), (2.5, 0.5, "c"), (3, 0.9, "r")]],
    "tumbao": [[(0, 1.4, "r"), (1.5, 0.5, "f"), (3, 1, "o")], [(0, 1.5, "r"), (1.5, 1.4, "f"), (3,
                                                                                                1,
    "r")]],
}  # fmt: skip


def write_bass(
    rng: np.random.Generator,
    mode: str,
    bars: Sequence[int],
    chords: Sequence[Chord],
    kicks: Mapping[int, Sequence[float]],
    scale: Sequence[int],
) -> tuple[Note, ...]:
    """A bass line: the root where a chord begins, chord tones, steps only towards the next root."""
    notes: list[Note] = []
    plan = [pick(rng, _BASS_STEPS[mode]) for _ in range(2)] if mode in _BASS_STEPS else []
    riff = [float(s) / 4 for s in range(16) if rng.random() < (0.75 if s % 4 == 0 else 0.4)]
    acid = [
        (s / 4, rng.random() < 0.2, int(rng.integers(4))) for s in range(16) if rng.random() < 0.7
    ]
    centre = float(rng.uniform(31, 41))
    for bar in bars:
        steps: list[tuple[float, float, str]]
        if mode in _BASS_STEPS:
            steps = list(plan[1 if bar % 4 == 3 else 0])
        elif mode == "walk":
            steps = [(0, 1, "r"), (1, 1, "c"), (2, 1, "c"), (3, 1, "a")]
        elif mode == "acid":
            tones = ("r", "r", "o", "c")
            steps = [(at, 0.45 if slide else 0.22, tones[k]) for at, slide, k in acid]
        elif mode == "riff":
            steps = [(at, 0.25, "r") for at in riff]
        else:
            starts = sorted(
                {beat - bar * 4 for beat in kicks[bar]} | ({0.0} if rng.random() < 0.9 else set())
            )
            steps = [
                (a, min(b - a, 1.5), "r") for a, b in zip(starts, [*starts[1:], 4.0], strict=True)
            ]
            if mode == "funk":
                ghosts = {s / 4 for s in range(16) if rng.random() < 0.2} - set(starts)
                steps += [(a, 0.2, pick(rng, ("c", "o", "f"))) for a in ghosts]
            elif rng.random() < 0.3:
                steps.append((3.5, 0.5, "a"))
        for at, length, tone in sorted(steps):
            beat = bar * 4 + at
            chord, following = _chords_at(chords, beat)
            root = near(chord.root, centre)
            if abs(beat - chord.start) < 1e-6 or tone == "r":
                pitch = root
            elif tone == "o":
                pitch = root + 12
            elif tone == "a" and following.root != chord.root:
                goal = near(following.root, centre)
                pitch = goal - 1 if rng.random() < 0.5 else goal + int(pick(rng, (-2, 2)))
            elif tone == "f":
                pitch = near(chord.tones[2], centre + 3)
            else:
                pitch = near(int(pick(rng, chord.tones)), centre + 3)
            velocity = float(np.clip(rng.normal(0.8 if at % 1 == 0 else 0.68, 0.07), 0.2, 1))
            notes.append(
                Note(beat, min(length, chord.start + chord.length - beat), pitch, velocity)
            )
    return tuple(sorted(notes, key=lambda n: n.start))


def _chords_at(chords: Sequence[Chord], beat: float) -> tuple[Chord, Chord]:
    """The chord that sounds at a beat, and the one after it."""
    for number, chord in enumerate(chords):
        if chord.start - 1e-6 <= beat < chord.start + chord.length - 1e-6:
            return chord, chords[min(number + 1, len(chords) - 1)]
    return chords[-1], chords[-1]


# ------------------------------------------------------------------------------------- comping

_COMP_STEPS: Mapping[str, Sequence[Sequence[tuple[float, float]]]] = {
    "block": [[(0, 4)], [(0, 2), (2, 2)], [(0, 1), (1, 1), (2, 1), (3, 1)], [(0, 1.5), (1.5, 2.5)]],
    "hold": [[(0, 4)]],
    "strum": [[(k / 2, 0.5) for k in (0, 2, 3, 5, 6, 7)], [(k / 2, 0.5) for k in range(8)],
              [(0, 1), (1, 0.5), (1.5, 1), (2.5, 0.5), (3, 0.5), (3.5, 0.5)]],
    "power": [[(k / 2, 0.45) for k in range(8)], [(0, 2), (2, 2)], [(0, 1.5), (1.5, 1.5), (3, 1)]],
    "stabs": [[(0.5, 0.3), (2.5, 0.3)], [(0, 0.3), (0.75, 0.3), (1.5, 0.3), (2.75, 0.3), (3.5,
                                                                                          0.3)],
              [(0.75, 0.4), (2.25, 0.4)], [(1.5, 0.5), (3.5, 0.4)], [(0.75, 0.25), (1.5, 0.25),
                                                                     (2.5, 0.6)]],
    "skank": [[(k + 0.5, 0.2) for k in range(4)], [(1, 0.25), (3, 0.25)]],
    "bubble": [[(k + s, 0.2) for k in range(4) for s in (0.5, 0.75)]],
    "scratch": [[(k / 4, 0.12) for k in (0, 2, 3, 6, 7, 10, 11, 13, 14)],
                [(k / 4, 0.12) for k in (0, 3, 4, 6, 9, 10, 12, 14, 15)]],
    "gate": [[(k / 4, 0.2) for k in (0, 1, 3, 4, 6, 7, 9, 10, 12, 14)]],
    "charleston": [[(0, 1), (1.5, 0.5)], [(0.5, 0.5), (2, 1)], [(1.5, 0.5), (3.5, 0.5)]],
}  # fmt: skip


def write_comp(
    rng: np.random.Generator, mode: str, bars: Sequence[int], chords: Sequence[Chord], timbre: str
) -> tuple[Note, ...]:
    """Accompaniment: chords held, struck, strummed or broken up."""
    centre = float(rng.uniform(55, 67)) - (7 if timbre == "guitar_drive" else 0)
    plan = [pick(rng, _COMP_STEPS[mode]) for _ in range(2)] if mode in _COMP_STEPS else []
    grain = pick(rng, (0.5, 0.5, 0.25))
    order = rng.permutation(8)
    riff = [(s / 4, int(rng.integers(4))) for s in range(16) if rng.random() < 0.55]
    notes: list[Note] = []
    for bar in bars:
        if mode in ("arpeggio", "ostinato", "montuno"):
            if mode == "arpeggio":
                steps = [(k * grain, int(order[k % 8]) % 4) for k in range(int(4 / grain))]
            elif mode == "montuno":
                steps = [(k / 2, k % 3) for k in (0, 1, 3, 4, 6, 7)] + [(1.25, 2), (2.75, 1)]
            else:
                steps = riff
            for at, k in steps:
                chord, _ = _chords_at(chords, bar * 4 + at)
                pitches = voice(chord.tones, centre + 5)
                pitch = pitches[k % len(pitches)] + 12 * (k // len(pitches))
                velocity = float(np.clip(rng.normal(0.68, 0.08), 0.2, 1))
                notes.append(Note(bar * 4 + at, grain * 1.2, pitch, velocity))
            continue
        if mode == "riff":
            for at, k in riff:
                chord, _ = _chords_at(chords, bar * 4 + at)
                low = near(chord.root, 43)
                for pitch in (low, low + 7, low + 12) if k == 0 else (low,):
                    notes.append(
                        Note(bar * 4 + at, 0.3 if k else 0.5, pitch, 0.9 if k == 0 else 0.7)
                    )
            continue
        for at, length in plan[1 if bar % 4 == 3 and len(plan) > 1 else 0]:
            beat = bar * 4 + at
            chord, _ = _chords_at(chords, beat)
            if (
                mode in ("hold", "block")
                and at == 0
                and chord.start < bar * 4 - 1e-6
                and mode == "hold"
            ):
                continue
            if mode == "hold":
                length = chord.length
            if mode == "power":
                low = near(chord.root, 45)
                pitches = [low, low + 7, low + 12]
            else:
                pitches = voice(chord.tones, centre)
            velocity = float(np.clip(rng.normal(0.7 if at % 1 == 0 else 0.6, 0.07), 0.2, 1))
            spread = 0.02 if mode == "strum" else 0.0
            notes += [
                Note(beat, length, p, velocity * (1 - 0.3 * spread * k))
                for k, p in enumerate(pitches)
            ]
        if mode == "hold":
            inner = [c for c in chords if bar * 4 + 1e-6 < c.start < bar * 4 + 4 - 1e-6]
            for chord in inner:
                notes += [
                    Note(chord.start, chord.length, p, 0.65) for p in voice(chord.tones, centre)
                ]
    return tuple(sorted(notes, key=lambda n: (n.start, n.pitch)))


LOW = ("piano", "epiano", "organ", "pad", "strings", "stab", "supersaw", "accordion", "fm_key")
"""Families whose left hand, or pedals, may reach into the bass's register."""


def with_roots(
    rng: np.random.Generator, notes: Sequence[Note], chords: Sequence[Chord]
) -> tuple[Note, ...]:
    """Add the chord's root far below wherever the part strikes a beat anew."""
    centre = float(rng.uniform(34, 46))
    octave = rng.random() < 0.4
    added: dict[float, Note] = {}
    for note in notes:
        if note.start % 1 == 0 and note.start not in added:
            low = near(_chords_at(chords, note.start)[0].root, centre)
            added[note.start] = replace(note, pitch=low)
    low_notes = list(added.values())
    if octave:
        low_notes += [replace(note, pitch=note.pitch - 12) for note in low_notes]
    return tuple(sorted([*notes, *low_notes], key=lambda n: (n.start, n.pitch)))


# ------------------------------------------------------------------------------------- melody


def write_melody(
    rng: np.random.Generator,
    windows: Sequence[tuple[float, float]],
    chords: Sequence[Chord],
    root: int,
    scale: Sequence[int],
    low: int,
    high: int,
    busy: float = 0.5,
) -> tuple[Note, ...]:
    """A melody over the windows (in beats): motifs of two bars that come back, varied, with rests.

    Notes on a beat belong to the chord; others step through the scale.
    """
    ladder = [p for p in range(low, high + 1) if (p - root) % 12 in scale]
    motifs = [_motif(rng, busy) for _ in range(2)]
    notes: list[Note] = []
    at = int(rng.integers(len(ladder) // 3, 2 * len(ladder) // 3 + 1))
    for begin, end in windows:
        beat = begin
        while beat + 2 < end:
            motif = motifs[0] if rng.random() < 0.65 else motifs[1]
            if rng.random() < 0.12:
                beat += 4
                continue
            for start, length, step in motif:
                if beat + start + length > end:
                    break
                at = int(np.clip(at + step + rng.choice([0, 0, 0, -1, 1]), 0, len(ladder) - 1))
                pitch = ladder[at]
                if (beat + start) % 1 == 0:
                    chord, _ = _chords_at(chords, beat + start)
                    inside = [p for p in ladder if p % 12 in chord.tones]
                    if inside:
                        pitch = min(inside, key=lambda p: abs(p - ladder[at]))
                        at = ladder.index(pitch)
                velocity = float(np.clip(rng.normal(0.72, 0.09), 0.3, 1))
                notes.append(Note(beat + start, length, pitch, velocity))
            beat += 8
    return tuple(notes)


def _motif(rng: np.random.Generator, busy: float) -> list[tuple[float, float, int]]:
    """Two bars of rhythm with steps: start and length in beats, and how far the line moves."""
    lengths = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
    weights = np.array([busy**2, 1.2 * busy, 0.4, 0.8, 0.35, 0.5, 0.25 * (1 - busy)])
    beat = float(pick(rng, (0.0, 0.0, 0.5, 1.0, 0.25)))
    stop = float(rng.uniform(5.5, 7.5))
    motif = []
    while beat < stop:
        length = float(rng.choice(lengths, p=weights / weights.sum()))
        length = min(length, 8 - beat)
        if rng.random() > 0.1:
            motif.append((beat, length * (0.95 if length > 0.3 else 1.0), int(rng.integers(-2, 3))))
        beat += length
    return motif


# ------------------------------------------------------------------------------------- the whole


def write_form(rng: np.random.Generator, bars: int) -> tuple[Section, ...]:
    """Sections of four or eight bars: intro at times, verses and choruses, a break now and then."""
    sections: list[Section] = []
    start = 0
    if rng.random() < 0.5 and bars > 12:
        sections.append(Section("intro", 0, 4, float(rng.uniform(0.2, 0.7))))
        start = 4
    name = pick(rng, ("verse", "verse", "chorus"))
    while start < bars:
        length = min(int(pick(rng, (4, 8, 8))), bars - start)
        energy = {"verse": 0.6, "chorus": 0.9, "break": 0.3}[name] + float(rng.uniform(-0.1, 0.1))
        sections.append(Section(name, start, length, energy))
        start += length
        name = {"verse": "chorus", "chorus": pick(rng, ("verse", "break")), "break": "chorus"}[name]
    return tuple(sections)


def compose(
    rng: np.random.Generator,
    seconds: float,
    *,
    style: str | None = None,
    bpm: float | None = None,
    root: int | None = None,
    scale: str | None = None,
    vocals: bool = True,
    full: bool = False,
) -> Score:
    """Write a piece of about that many seconds; what is given is kept, the rest is drawn.

    Args:
        root: pitch class of the key, C = 0.
        vocals: whether somebody sings; otherwise an instrument carries the tune.
        full: every source plays, and the singer in every section; for short pieces that measure.

    Raises:
        ValueError: for an unknown style or scale.
    """
    if style is not None and style not in STYLES:
        raise ValueError(f"no style is called {style!r}; choose one of {', '.join(STYLES)}")
    if scale is not None and scale not in SCALES:
        raise ValueError(f"no scale is called {scale!r}; choose one of {', '.join(SCALES)}")
    name = style or pick(rng, styles_near(bpm) if bpm else list(STYLES))
    chosen = STYLES[name]
    tempo = bpm or float(rng.uniform(*chosen.bpm))
    key = int(rng.integers(12)) if root is None else root
    mode = scale or pick(rng, chosen.scales)
    steps = SCALES[mode]
    bars = max(8, 4 * round(seconds * tempo / 240 / 4))
    sections = write_form(rng, bars)
    chords = write_chords(rng, chosen, key, mode, sections)
    drums, kicks = write_drums(rng, chosen, sections)
    parts = []
    if full or rng.random() > (0.25 if name == "folk" else 0.03):
        parts.append(Part("drums", "kit", pick(rng, chosen.kits), drums))
    low = pick(rng, chosen.bass)
    with_bass = _bars(rng, sections, {} if full else {"intro": 0.6, "break": 0.6}, 0.97)
    if full or rng.random() > 0.04:
        line = write_bass(rng, low, with_bass, chords, kicks, steps)
        parts.append(Part("bass", low, pick(rng, chosen.bass_timbres), line))
    count = int(rng.choice([1, 2, 3], p=[0.25, 0.5, 0.25]))
    order = rng.permutation(len(chosen.comps))[:count]
    for number, choice in enumerate(order):
        comp, timbre = chosen.comps[int(choice)]
        played = _bars(rng, sections, {}, 0.95 if number == 0 else 0.6)
        notes = write_comp(rng, comp, played, chords, timbre)
        if timbre in LOW and rng.random() < 0.3:
            notes = with_roots(rng, notes, chords)
        parts.append(Part("other", comp, timbre, notes))
    windows = ((0.0, bars * 4.0),) if full else _windows(rng, sections, 0.85)
    if not vocals or rng.random() < 0.3:
        where = _windows(rng, sections, 0.8 if not vocals else 0.3)
        timbre = pick(rng, chosen.leads)
        base = 57 if timbre in ("guitar_drive", "sax", "guitar_clean") else 62
        tune = write_melody(rng, where, chords, key, steps, base, base + 19, rng.uniform(0.3, 0.8))
        parts.append(Part("other", "lead", timbre, tune))
    if vocals:
        base = int(pick(rng, (48, 52, 55, 57, 59)))
        tune = write_melody(
            rng, windows, chords, key, steps, base, base + 15, rng.uniform(0.2, 0.6)
        )
        parts.append(Part("vocals", "melody", "voice", tune))
    return Score(
        style=name,
        bpm=tempo,
        root=key,
        scale=mode,
        bars=bars,
        swing=float(rng.uniform(*chosen.swing)),
        swing_unit=chosen.swing_unit,
        human=chosen.human,
        sections=sections,
        chords=chords,
        parts=tuple(part for part in parts if part.notes),
        vocal_windows=windows if vocals else (),
    )


def _bars(
    rng: np.random.Generator, sections: Sequence[Section], chance: Mapping[str, float], usual: float
) -> list[int]:
    """Bars of the sections in which a part plays."""
    plays = [rng.random() < chance.get(section.name, usual) for section in sections]
    return [
        bar
        for section, yes in zip(sections, plays, strict=True)
        if yes
        for bar in range(section.start, section.start + section.bars)
    ]


def _windows(
    rng: np.random.Generator, sections: Sequence[Section], usual: float
) -> tuple[tuple[float, float], ...]:
    """Stretches in beats for a tune: most sections that are no intro, neighbours joined."""
    windows: list[tuple[float, float]] = []
    for section in sections:
        chance = 0.15 if section.name == "intro" else usual
        if rng.random() < chance:
            begin, end = section.start * 4.0, (section.start + section.bars) * 4.0
            if windows and windows[-1][1] == begin:
                windows[-1] = (windows[-1][0], end)
            else:
                windows.append((begin, end))
    return tuple(windows)
