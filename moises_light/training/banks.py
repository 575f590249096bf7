"""Banks: folders of isolated samples with a table of licences, and instruments made of them.

A bank folder holds `LICENSES.tsv` (path, class, source, author, licence, note, seconds; the last
two may be missing) and the files that it names. The folder below the class is the *material*: one
singer's pack, one bass. What begins with one of `HELD_OUT` is kept from training and makes the
held-out set.
"""

from __future__ import annotations

import csv
import logging
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from scipy import fft

from moises_light.training.corpus import SAMPLE_RATE, LicenceRow
from moises_light.training.keys import chroma, into_key
from moises_light.training.songs import read_audio, to_stereo

HELD_OUT = (
    "vocals/producerspace/etv_fm_136_adlib",
    "vocals/producerspace/etv_fm_136_phrase",
    "vocals/producerspace/shv_c_126",
    "vocals/producerspace/dvs2",
    "vocals/berklee_olpc/femalevoice_",
    "bass/pastabass",
    "bass/sonicpi/bass_trance_c",
    "drums/sonicpi/drum_",
    "drums/sonicpi/loop_amen",
    "other/emilyguitar",
    "other/mtgsax/bar_",
    "other/epianos/0",
    "speech/producerspace/sq",
    "speech/vctk_demo",
    "fretsonfire-songs-sectoid/Feelings",
    "freecol/sunrise",
    "gigalomania-data/",
    "naev-data/heartofmachine",
    "openclonk-data/UrbanBolero",
    "pax-britannica-data/",
    "titanion-data/",
    "ufoai-music/azrael1",
)
"""Prefixes of paths that are never trained on: whole singers' packs, instruments, a drum kit, music
that singers are put before."""

BANDWIDTH = {
    "speech/flemishguy": 12000.0,
    "speech/nathalie": 12000.0,
    "vocals/dagstuhl_choirset": 11000.0,
    "vocals/vocobox": 11250.0,
}
"""Frequency in Hz above which material holds nothing, where that lies below 15 kHz."""

OCTAVES = {
    "bass/growlybass": -12,
    "bass/pastabass": -12,
    "bass/swagbass": -12,
    "other/splendidpiano": 12,
    "other/estuary_ukulele": 12,
}
"""Semitones between the note in a file's name and the one it sounds, by measurement."""

COLUMNS = ("path", "class", "source", "author", "licence")
"""What a bank's table has to have, with tabs between; `note` and `seconds` are optional."""

COLUMNS_TOLD = f"give the columns {', '.join(COLUMNS)} with tabs between them"

LOUDNESS = {"ppp": 1, "pp": 2, "p": 3, "mp": 4, "mf": 5, "f": 6, "ff": 7, "fff": 8}
_log = logging.getLogger(__name__)
_NOTE = re.compile(r"(?:^|[_\-])([a-gA-G])([b#s]?)(-?\d)(?=$|[^0-9])")
_STEPS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}


@dataclass(frozen=True)
class Sample:
    """One file of a bank: `path` below the bank's folder, `source` its class."""

    path: str
    source: str
    origin: str
    author: str
    licence: str
    seconds: float

    @property
    def material(self) -> str:
        """Name of the singer, kit or instrument; held-out parts of a folder have their own."""
        for prefix in HELD_OUT:
            if self.path.startswith(prefix):
                return prefix
        return self.path.rsplit("/", 1)[0]

    @property
    def held_out(self) -> bool:
        return self.path.startswith(HELD_OUT)

    @property
    def licence_row(self) -> LicenceRow:
        return (self.material, self.origin, self.author, self.licence)


class Bank:
    """The samples below a folder, decoded once and kept while there is room.

    Args:
        folder: holds `LICENSES.tsv`.
        held_out: False for what may be trained on, True for the rest.
        room: bytes of decoded audio to keep.

    Raises:
        ValueError: if the folder has no table, or something is wrong with it.
    """

    def __init__(self, folder: Path | str, held_out: bool, room: int = 400_000_000) -> None:
        self.folder = Path(folder)
        table = self.folder / "LICENSES.tsv"
        if not table.is_file():
            raise ValueError(f"{self.folder} holds no LICENSES.tsv; name the folder of the banks")
        self.samples: list[Sample] = []
        missing: list[str] = []
        for line, row in _rows(table):
            path = row["path"]
            # songs are read as folders; validation data is for validation alone
            if path.startswith(("songs/", "validation/")):
                continue
            if not (self.folder / path).is_file():
                missing.append(path)
                continue
            sample = Sample(
                path=path,
                source=row["class"],
                origin=row["source"],
                author=row["author"],
                licence=row["licence"].strip('"').replace('""', '"'),
                seconds=_seconds(row.get("seconds"), self.folder / path, f"{table}, line {line}"),
            )
            if sample.held_out == held_out:
                self.samples.append(sample)
        if missing:
            _log.warning(
                "%s lacks %d of the files that its LICENSES.tsv lists, such as %s; "
                "the others are used",
                self.folder,
                len(missing),
                missing[0],
            )
        self._room = room
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()
        self._size = 0

    def under(self, *prefixes: str) -> list[Sample]:
        """Samples whose path begins with one of the prefixes, sorted by path."""
        some = [sample for sample in self.samples if sample.path.startswith(prefixes)]
        return sorted(some, key=lambda sample: sample.path)

    def audio(self, sample: Sample) -> np.ndarray:
        """`[C, L]` float32 at 44.1 kHz, one channel or two, leading silence cut off."""
        if sample.path in self._kept:
            self._kept.move_to_end(sample.path)
        else:
            decoded = trim(read_audio(self.folder / sample.path)[:2])
            packed = np.round(decoded.clip(-1, 1) * 32767).astype(np.int16)
            self._kept[sample.path] = packed
            self._size += packed.nbytes
            while self._size > self._room and len(self._kept) > 1:
                self._size -= self._kept.popitem(last=False)[1].nbytes
        return self._kept[sample.path] * np.float32(1 / 32767)

    def __getstate__(self) -> dict[str, Any]:
        # other processes decode for themselves
        return {**self.__dict__, "_kept": OrderedDict(), "_size": 0}


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a bank's table by the names of its columns, each with its line's number."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:  # Windows puts a mark in front
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise ValueError(f"{table}, line 1: {COLUMNS_TOLD}")
            for row in reader:
                if any(row[column] is None for column in COLUMNS):
                    raise ValueError(f"{table}, line {reader.line_num}: {COLUMNS_TOLD}")
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} cannot be read as a table in UTF-8: {error}") from error


def _seconds(told: str | None, path: Path, where: str) -> float:
    """Length of a sample as its table tells it; where that says nothing, as the file does."""
    if not told:
        try:
            return float(soundfile.info(path).duration)
        except (soundfile.LibsndfileError, OSError) as error:
            raise ValueError(f"{path} cannot be read as audio: {error}") from None
    try:
        return float(told)
    except ValueError:
        raise ValueError(
            f"{where}: seconds is {told!r}; give a number such as 1.5, or nothing"
        ) from None


def trim(audio: np.ndarray, threshold: float = 0.004) -> np.ndarray:
    """Cut off what comes before the sound, up to 2 ms, relative to the peak."""
    loud = np.abs(audio).max(axis=0)
    begin = int(np.argmax(loud > threshold * max(float(loud.max(initial=0)), 1e-6)))
    return audio[:, max(0, begin - 88) :]


def note_in(name: str) -> int | None:
    """MIDI number of a note written in a file's name, C4 = 60.

    >>> note_in("gb4_staccato_rr4"), note_in("027-D#1-FF"), note_in("perc_3_rr2")
    (66, 27, None)
    """
    found = _NOTE.search(name)
    if found is None:
        return None
    letter, sign, octave = found.groups()
    return 12 * (int(octave) + 1) + _STEPS[letter.lower()] + {"b": -1, "": 0}.get(sign, 1)


def loudness_in(name: str) -> int:
    """How hard a note was played, 1 (softest) to 8, from a file's name; 5 where it says nothing.

    >>> loudness_in("a2_vl4_rr3"), loudness_in("c3_pp_rr1"), loudness_in("db4ff")
    (6, 2, 7)
    """
    layer = re.search(r"vl(\d)", name)
    if layer:
        return int(layer.group(1)) + 2
    marks = re.findall(r"(?:^|[_\-\d])(p{1,3}|mp|mf|f{1,3})(?=$|[_\-])", name.lower())
    return LOUDNESS[marks[-1]] if marks else 5


def pitch_of(audio: np.ndarray) -> float | None:
    """MIDI pitch of a steady note by the YIN difference function, or None where there is none.

    Source: de Cheveigne and Kawahara 2002, steps 1 to 4.
    """
    x = audio.mean(axis=0)
    begin = int(np.argmax(np.abs(x) > 0.2 * np.abs(x).max())) + 1500
    x = x[begin : begin + 12000].astype(np.float64)
    n = len(x)
    if n < 4000 or not np.any(x):
        return None
    correlation = fft.irfft(np.abs(fft.rfft(x, 2 * n)) ** 2, 2 * n)[:n]
    energy = np.append(0, np.cumsum(x**2))
    lag = np.arange(n)
    difference = energy[n - lag] + energy[n] - energy[lag] - 2 * correlation
    norm = np.append(1, difference[1:] * lag[1:] / np.maximum(np.cumsum(difference[1:]), 1e-9))
    low, high = SAMPLE_RATE // 1200, min(SAMPLE_RATE // 28, n // 2)
    window = norm[low:high]
    dips = np.flatnonzero(window < 0.12)
    if not len(dips):
        return None
    at = int(dips[0])
    while at + 1 < len(window) and window[at + 1] < window[at]:
        at += 1
    return float(69 + 12 * np.log2(SAMPLE_RATE / (low + at) / 440))


def repitch(audio: np.ndarray, semitones: float) -> np.ndarray:
    """Play faster and higher (or slower and lower), as a tape does."""
    if abs(semitones) < 0.02:
        return audio
    ratio = 2 ** (semitones / 12)
    return soxr.resample(audio.T, SAMPLE_RATE * ratio, SAMPLE_RATE, quality="MQ").T


def fade(audio: np.ndarray, begin: float = 0.003, end: float = 0.01) -> np.ndarray:
    """Raised-cosine ends of `begin` and `end` seconds, so that a cut does not click."""
    out = audio.copy()
    for seconds, part in ((begin, slice(None)), (end, slice(None, None, -1))):
        n = min(int(seconds * SAMPLE_RATE), out.shape[-1])
        if n:
            ramp = 0.5 - 0.5 * np.cos(np.pi * np.arange(n, dtype=np.float32) / n)
            out[:, part][:, :n] *= ramp
    return out


class Instrument:
    """Single notes of one instrument; plays any pitch near those that were recorded."""

    def __init__(self, bank: Bank, samples: Sequence[Sample]) -> None:
        self.bank = bank
        self.notes: list[tuple[float, int, Sample]] = []
        for sample in samples:
            stem = sample.path.rsplit("/", 1)[1].rsplit(".", 1)[0]
            if re.search(r"release|perc|mute_|harmonic|dead|ghost|slide|bended|instable|ko$", stem):
                continue
            written = note_in(stem)
            folder = sample.path.rsplit("/", 1)[0]
            measured = folder in ("other/mtgsax", "vocals/vocobox", "vocals/berklee_olpc")
            if measured:
                pitch = pitch_of(bank.audio(sample))
            else:
                pitch = None if written is None else float(written + OCTAVES.get(folder, 0))
            if pitch is not None and sample.seconds > 0.3:
                self.notes.append((pitch, loudness_in(stem), sample))
        self.material = {sample.material for _, _, sample in self.notes}
        self._played: dict[tuple[str, float], np.ndarray] = {}

    def __bool__(self) -> bool:
        return bool(self.notes)

    @property
    def range(self) -> tuple[float, float]:
        pitches = [pitch for pitch, _, _ in self.notes]
        return min(pitches), max(pitches)

    def play(
        self, midi: float, velocity: float, seconds: float, rng: np.random.Generator
    ) -> np.ndarray:
        """One note, `[C, L]`: the nearest sample by pitch and force, repitched, cut with a release.

        Args:
            midi: pitch; `velocity` 0 to 1; `seconds` until the note is let go.
        """
        force = 1 + 7 * velocity
        costs = [
            abs(pitch - midi) + 0.6 * abs(layer - force) + rng.uniform(0, 1.5)
            for pitch, layer, _ in self.notes
        ]
        pitch, layer, sample = self.notes[int(np.argmin(costs))]
        shift = round(midi - pitch, 2)  # before it is used: what was played before must not tell
        key = (sample.path, shift)
        if key not in self._played:
            if len(self._played) > 150:
                self._played.clear()
            self._played[key] = repitch(self.bank.audio(sample), shift)
        audio = self._played[key]
        n = min(audio.shape[1], int((seconds + 0.06) * SAMPLE_RATE))
        gain = 10 ** (0.9 * (force - layer) / 20)
        return fade(audio[:, :n], 0.001, min(0.06, 0.5 * seconds)) * np.float32(gain)


def mix_in(bus: np.ndarray, audio: np.ndarray, at: float) -> None:
    """Add `audio` to `bus` `[2, L]` from second `at`; what lies outside is lost."""
    start = round(at * SAMPLE_RATE)
    skip = max(0, -start)
    start += skip
    n = min(audio.shape[1] - skip, bus.shape[1] - start)
    if n > 0:
        bus[:, start : start + n] += audio[:, skip : skip + n]


def vocal_packs(bank: Bank) -> dict[str, list[Sample]]:
    """Samples of each singer's pack, by material."""
    packs: dict[str, list[Sample]] = {}
    for sample in bank.under("vocals/"):
        packs.setdefault(sample.material, []).append(sample)
    return packs


PACK_WEIGHTS = {
    "producerspace": 1.0,
    "oatsu": 0.5,
    "vocadito": 0.5,
    "berklee": 0.5,
    "vocobox": 0.5,
    "choir": 0.15,
    "vgut": 0.15,
    "sonicpi": 0.02,
}


def pack_weight(material: str, samples: Iterable[Sample]) -> float:
    """How often a pack is sung from: by its seconds, few choirs and extended voices."""
    factor = next((w for key, w in PACK_WEIGHTS.items() if key in material), 0.5)
    return factor * sum(sample.seconds for sample in samples)


def draw_pack(bank: Bank, rng: np.random.Generator) -> tuple[str, list[Sample]]:
    packs = vocal_packs(bank)
    names = list(packs)
    weights = np.array([pack_weight(name, packs[name]) for name in names])
    name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    return name, packs[name]


def vocal_collage(
    bank: Bank, seconds: float, rng: np.random.Generator, behind: np.ndarray | None = None
) -> tuple[np.ndarray, set[str], float | None]:
    """Phrases of one pack after another, at times doubled to the sides.

    Args:
        bank: whose singers are drawn.
        seconds: length of the collage.
        rng: of every draw.
        behind: music `[2, L]`; each phrase is then moved into the key of what plays behind it, by
            three semitones at most.

    Returns:
        audio `[2, L]`, its material, and its bandwidth in Hz or None.
    """
    name, samples = draw_pack(bank, rng)
    bus = np.zeros((2, int(seconds * SAMPLE_RATE)), np.float32)
    shift = float(rng.uniform(-3, 3)) if rng.random() < 0.7 else 0.0
    doubled = rng.random() < 0.25
    order = rng.permutation(len(samples))
    at = float(rng.uniform(0, 1))
    k = 0
    while at < seconds - 0.5:
        sample = samples[order[k % len(order)]]
        k += 1
        audio = bank.audio(sample)[:, : 24 * SAMPLE_RATE]
        if behind is not None:
            shift = _into_key_of(audio, behind[:, int(at * SAMPLE_RATE) :])
        audio = to_stereo(fade(repitch(audio, shift)))
        audio = audio * level_gain(audio, -20 + rng.normal(0, 1.5))
        mix_in(bus, audio, at)
        if doubled:
            left = repitch(audio, float(rng.uniform(-0.12, 0.12)))
            right = repitch(audio, float(rng.uniform(-0.12, 0.12)))
            sides = np.zeros((2, min(left.shape[1], right.shape[1])), np.float32)
            sides[0] = left[0, : sides.shape[1]]
            sides[1] = right[1, : sides.shape[1]]
            mix_in(bus, sides * np.float32(0.5), at + float(rng.uniform(0.01, 0.03)))
        at += audio.shape[1] / SAMPLE_RATE + float(rng.exponential(0.35))
    bandwidths = [hz for prefix, hz in BANDWIDTH.items() if name.startswith(prefix)]
    return bus, {name}, min(bandwidths, default=None)


def _into_key_of(phrase: np.ndarray, music: np.ndarray) -> float:
    """By how many semitones a phrase is moved to fit what plays from its beginning on."""
    reach = 2.0 ** (3 / 12)
    behind = music[:, : int(phrase.shape[1] * reach)]
    ratio, _ = into_key(chroma(phrase), chroma(behind), 1 / reach, reach)
    return 12 * float(np.log2(ratio))


def level_gain(audio: np.ndarray, target: float) -> np.float32:
    """Gain that brings a phrase's loud part to `target` dB."""
    power = np.square(audio).mean(axis=0)
    n = len(power) // 4410 * 4410
    blocks = power[:n].reshape(-1, 4410).mean(1) if n else np.array([power.mean()])
    loud = np.sort(blocks)[-max(1, len(blocks) // 2) :].mean()
    return np.float32(10 ** (target / 20) / np.sqrt(loud + 1e-9))


SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "pentatonic": (0, 3, 5, 7, 10),
}


def line_collage(
    instrument: Instrument, seconds: float, rng: np.random.Generator, chords: float = 0.0
) -> np.ndarray:
    """A wandering line (or chords, with that probability a note) on one instrument, `[2, L]`."""
    bus = np.zeros((2, int(seconds * SAMPLE_RATE)), np.float32)
    low, high = instrument.range
    scale = list(SCALES.values())[int(rng.integers(len(SCALES)))]
    root = int(rng.integers(12))
    notes = [m for m in range(int(low), int(high) + 1) if (m - root) % 12 in scale]
    if len(notes) < 3:
        notes = list(range(int(low) - 1, int(high) + 2))
    beat = 60 / float(rng.uniform(70, 150))
    tune = float(rng.uniform(-0.5, 0.5))
    place = int(rng.integers(len(notes)))
    at = 0.0
    while at < seconds:
        length = beat * float(rng.choice([0.25, 0.5, 0.5, 1, 1, 2]))
        if rng.random() > 0.12:
            place = int(np.clip(place + rng.integers(-3, 4), 0, len(notes) - 1))
            velocity = float(np.clip(rng.normal(0.65, 0.15), 0.1, 1))
            voices = (0, 2, 4) if rng.random() < chords else (0,)
            for k in voices:
                midi = notes[min(place + k, len(notes) - 1)] + tune
                held = length * float(rng.uniform(0.7, 1.1))
                mix_in(bus, to_stereo(instrument.play(midi, velocity, held, rng)), at)
        at += length
    return bus * level_gain(bus, -20)


LINES = {
    "bass": ("bass/growlybass", "bass/swagbass", "bass/meatbass", "bass/flbass", "bass/pastabass"),
    "other": (
        *("other/emilyguitar", "other/shinyguitar", "other/splendidpiano", "other/estuary_ukulele"),
        *("other/mtgsax/alt", "other/mtgsax/ten", "other/mtgsax/sop", "other/mtgsax/bar"),
        *("other/epianos/0", "other/epianos/"),
    ),
}
"""Prefixes of the banks that a line can be played on."""
LEADS = ("other/mtgsax", "other/emilyguitar", "other/shinyguitar")


def instruments(bank: Bank, source: str) -> dict[str, Instrument]:
    """Every instrument of that source that the bank has, by prefix."""
    found = {}
    for prefix in LINES[source]:
        instrument = Instrument(bank, bank.under(prefix))
        if instrument:
            found[prefix] = instrument
    return found
