"""Training examples, drawn from a corpus: `MixtureDataset.draw(index)`.

An example is either one moment of one track, or each source from a track and a moment of its own;
then gain, equaliser, room, speed, position and polarity are drawn for every source, some are left
out, and what remains is added up. The mixture is that sum, exactly.

Or it is a singer, or nobody, before a *backing*: real music whose drums, bass and other are not
known apart. These three rows are then NaN; what they add up to is the mixture less the vocals.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import fft

from moises_light.config import SOURCES
from moises_light.separation import is_mono
from moises_light.training.augment import (
    Shape,
    codecs,
    draw_shape,
    drive,
    piece_frame,
    place,
    reshape,
    round_trip,
)
from moises_light.training.config import TrainConfig
from moises_light.training.corpus import (
    BACKING,
    BLOCK,
    KINDS,
    SAMPLE_RATE,
    SILENCE,
    Corpus,
    Track,
)
from moises_light.training.effects import saturate
from moises_light.training.keys import chroma, into_key

LEVELS = {"vocals": -20.0, "drums": -20.0, "bass": -21.0, "other": -22.0, BACKING: -16.0}
"""Level in dB at which a source enters a mixture of strangers, before its random gain."""


_IN_BACKING = [SOURCES.index(source) for source in SOURCES if source != "vocals"]
"""Numbers of the sources that a backing holds together."""

VOICES_TRIED = 3
"""From how many voices `MixingConfig.in_key` chooses."""

FAINTEST = -12.0
"""Level in dB beside the rest of its track to which a fainter voice is raised, if it can be."""

MOST_RAISED = 20.0
"""By how many dB a row is raised to its level at most: what is fainter still is hardly music."""

SECOND = -3.0
"""Level in dB at which a second instrument joins, beside a voice or what it joins."""

LOUDER = 12.0
"""By how many dB it may be louder than what enters a mixture of strangers."""

REGISTER = (200, 2000)
"""Hz between which voices have most of their energy."""

BRIGHT = ("vocals", "other")
"""Sources of which `MixingConfig.bright` raises the highs."""


@dataclass(frozen=True)
class MixingConfig:
    """Shares and strengths of the draw.

    Args:
        backings: share of examples with a backing, where the corpus has any.
        sung: share of these in which somebody sings.
        in_key: share of those in which the singer keeps to the key of the backing, see `keys`.
        aligned: share of the other examples that are one moment of one track.
        kinds: weights of the kinds of track for aligned examples.
        remix_kinds: weights of the kinds for a source that is drawn on its own.
        drop: probability that a source is left out.
        sparse: share of examples of one or two sources, as in intros and breaks; only where
            something plays alone can a network learn that all of it is wanted.
        negatives: share of examples without vocals and with a melody instrument in `other`.
        speed: largest change of speed and pitch together, as a ratio to either side.
        dull: share of examples that end between 11 and 19 kHz, as lossy uploads do.
        dense: share of examples whose `other` or backing is joined by another `other`, drawn on its
            own; half of these in key. Where somebody sings it is about as loud in the voice's
            register as the voice: that is what real songs have and a draw of strangers seldom.
        roomy: share of backings in mono that are put into a room in stereo; sides behind which
            nobody plays would tell the singer.
        walled: share of examples in which a voice may break off at a frequency beyond which
            the others go on. In the rest, all of them break off there.
        muffled: share of voices that break off on their own, between 5 and 12 kHz.
        growl: share of basses with mids, as amplifiers and synthesisers give them.
        bright: share of pieces of vocals and other whose highs are raised, see `draw_shape`; of
            the examples that are not `flat`.
        codec: share of examples whose mixture, and only that, went through mp3 or, where the
            package `av` is there, AAC.
        flat: share of aligned examples, and of backings, that stay as they were recorded, save for
            the level.
        level: mean and deviation of the mixture's level in dB.
    """

    backings: float = 0.35
    sung: float = 0.75
    in_key: float = 0.5
    aligned: float = 0.55
    kinds: dict[str, float] = field(default_factory=lambda: {"song": 0.25, "band": 0.75})
    remix_kinds: dict[str, float] = field(
        default_factory=lambda: {"song": 0.2, "band": 0.45, "bank": 0.35}
    )
    drop: float = 0.15
    sparse: float = 0.1
    negatives: float = 0.15
    speed: float = 0.1
    dull: float = 0.15
    dense: float = 0.3
    roomy: float = 0.7
    walled: float = 0.5
    muffled: float = 0.1
    growl: float = 0.35
    bright: float = 0.25
    codec: float = 0.08
    flat: float = 0.2
    level: tuple[float, float] = (-16.0, 4.0)

    @classmethod
    def weighted(cls, songs: float, backings: float) -> MixingConfig:
        """The usual shares, but for real songs, which count `songs` times, and for `backings`."""
        usual = cls()
        kinds, remix_kinds = (
            weights | {"song": songs * weights["song"]}
            for weights in (usual.kinds, usual.remix_kinds)
        )
        return cls(backings=backings, kinds=kinds, remix_kinds=remix_kinds)


class _Part(NamedTuple):
    """A piece of one row of a track, to be played at some speed."""

    row: str
    track: Track
    start: int
    speed: float


_Choices = dict[str, tuple[Track, int]]
"""A track and where to begin in it for each source."""


@dataclass(frozen=True)
class _Shelf:
    """Tracks to draw from with cumulative probabilities."""

    tracks: tuple[Track, ...]
    cumulative: np.ndarray

    def draw(self, rng: np.random.Generator) -> Track:
        place = np.searchsorted(self.cumulative, rng.random(), side="right")
        return self.tracks[min(int(place), len(self.tracks) - 1)]


def _shelf(tracks: list[Track], weights: dict[str, float], source: str | None) -> _Shelf | None:
    """Tracks weighted by their kind, within a kind by the blocks in which the source plays."""
    blocks = np.array([_playing(t, source) for t in tracks], np.float64)
    kinds = np.array([KINDS.index(t.kind) for t in tracks], int)
    share = np.zeros(len(tracks))
    for kind, weight in weights.items():
        of_kind = kinds == KINDS.index(kind)
        total = blocks[of_kind].sum()
        if total:
            share[of_kind] = weight * blocks[of_kind] / total
        if source is None:
            # instrumentals have their share of examples in the negatives
            share[[t.kind == kind and "vocals" not in t.rows for t in tracks]] *= 0.5
    keep = share > 0
    if not keep.any():
        return None
    share = share[keep]
    kept = tuple(track for track, k in zip(tracks, keep, strict=True) if k)
    return _Shelf(kept, np.cumsum(share / share.sum()))


def _end(track: Track, row: str, alone: bool) -> float | None:
    """Where a row ends and takes the others with it; that of a voice need not."""
    return track.bandwidth if alone and row == "vocals" else track.end_of(row)


def _cutoff(parts: Iterable[_Part], alone: bool, dull: float | None) -> float | None:
    """Where a mixture of these parts ends, with the first of them or as a dull example, or None."""
    ends = [
        end * min(1.0, part.speed) for part in parts if (end := _end(part.track, part.row, alone))
    ]
    return min([*ends, *filter(None, [dull])], default=None)


def _some_gain(rng: np.random.Generator, spread: float) -> float:
    """A change of level in dB that is drawn for one part."""
    return float(np.clip(rng.normal(-0.5, spread), -12, 6))


def _raise(track: Track, row: str) -> float:
    """By how many dB a row is changed to enter a mixture of strangers at its level."""
    return min(LEVELS[row] - track.level[row], MOST_RAISED)


def _register(piece: np.ndarray) -> float:
    """Power of `[C, L]` where voices have most of theirs."""
    spectrum = fft.rfft(piece)
    low, high = (round(hertz * piece.shape[-1] / SAMPLE_RATE) for hertz in REGISTER)
    return 2 * float(np.square(np.abs(spectrum[:, low:high])).sum()) / piece.shape[-1] ** 2


def _voice_level(track: Track) -> float:
    """Level in dB of a track's vocals beside its other rows together, each while it plays."""
    rest = sum(10 ** (level / 10) for row, level in track.level.items() if row != "vocals")
    return track.level["vocals"] - 10 * float(np.log10(rest + 1e-12))


def _voice_raise(part: _Part) -> float:
    """By how many dB a part is raised among the rest of its own track: only a faint voice is."""
    if part.row != "vocals":
        return 0.0
    return min(max(0.0, FAINTEST - _voice_level(part.track)), MOST_RAISED)


def _playing(track: Track, source: str | None) -> int:
    if source is None:
        return track.frames // BLOCK
    levels = np.asarray(track.activity.get(source, ()))
    return int((levels > max(levels.max(initial=SILENCE) - 30, SILENCE)).sum())


class MixtureDataset:
    """Endless examples; number `index` depends on the corpus' listing, `seed` and `index` alone.

    Args:
        corpus: folder of the corpus, or an open `Corpus`.
        split: `train` or `heldout`.
        segment_length: samples of an example, `l`.
        seed: another seed gives other examples.
        config: shares and strengths.
    """

    def __init__(
        self,
        corpus: Corpus | Path | str,
        split: str = "train",
        segment_length: int = 3 * 44100,
        seed: int = 0,
        config: MixingConfig | None = None,
    ) -> None:
        self.corpus = corpus if isinstance(corpus, Corpus) else Corpus(corpus, split)
        self.segment_length = segment_length
        self.seed = seed
        self.config = config or MixingConfig()
        self._codecs = codecs()
        self._sort()

    def rescan(self) -> int:
        """Take up tracks that were added to the corpus since; returns how many."""
        new = self.corpus.rescan()
        if new:
            self._sort()
        return new

    def _sort(self) -> None:
        """Sort the tracks into the shelves that examples are drawn from."""
        # by name: a build in several processes writes its lines in any order
        tracks, config = sorted(self.corpus.tracks, key=lambda t: t.name), self.config
        whole = [t for t in tracks if len(t.present) == len(SOURCES) and len(t.rows) > 1]
        self._whole = _shelf(whole, config.kinds, None)
        self._single = {
            s: shelf
            for s in SOURCES
            if (shelf := _shelf([t for t in tracks if s in t.rows], config.remix_kinds, s))
        }
        leads = [t for t in tracks if "lead" in t.tags and "other" in t.rows]
        self._leads = _shelf(leads, config.remix_kinds, "other")
        backings = [t for t in tracks if BACKING in t.rows]
        self._backings = _shelf(backings, {"backing": 1.0}, BACKING)
        if not self._single:
            kinds = sorted({track.kind for track in tracks if track.rows})
            if not kinds:
                raise ValueError(f"the corpus at {self.corpus.folder} holds no audio yet")
            raise ValueError(
                f"the corpus at {self.corpus.folder} holds tracks of the kind {', '.join(kinds)} "
                f"alone, and none of them counts; build bands or collages, or give --songs 1"
            )

    def draw(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Example number `index`.

        Shape:
            mixture `[C, l]`, sources `[S, C, l]` in the order of `SOURCES`, float32;
            `sources.sum(0)` is the mixture, unless a codec was drawn. Before a backing all rows but
            the vocals are NaN, and their sum is the mixture less the vocals.
        """
        rng = np.random.default_rng([self.seed, index])
        with_backing = self._backings is not None and rng.random() < self.config.backings
        for _ in range(8):
            sources = self._draw_backing(rng) if with_backing else self._draw(rng)
            mixture = sources.sum(axis=0)
            power = float(np.square(mixture).mean())
            if power > 1e-8:
                break
        gain = self._gain(rng, power, float(np.abs(mixture).max()))
        sources *= np.float32(gain)
        result = torch.from_numpy(sources)
        mixture = result.sum(0)
        if with_backing:
            result[_IN_BACKING] = torch.nan
        if rng.random() < self.config.codec:
            codec = self._codecs[int(rng.integers(len(self._codecs)))]
            mixture = torch.from_numpy(round_trip(mixture.numpy(), codec, rng.random()))
        return mixture, result

    __getitem__ = draw

    def _gain(self, rng: np.random.Generator, power: float, peak: float) -> float:
        """Bring the mixture to a level that uploads have, without clipping."""
        mean, deviation = self.config.level
        target = float(np.clip(rng.normal(mean, deviation), -32, -8))
        gain = 10 ** (target / 20) / np.sqrt(power + 1e-12)
        return float(min(gain, rng.uniform(0.8, 1.0) / max(peak, 1e-6)))

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """Sources before the level of the whole is set, `[S, C, l]`."""
        config = self.config
        negative = rng.random() < config.negatives
        aligned = self._whole is not None and rng.random() < config.aligned
        flat = aligned and rng.random() < config.flat
        speed = 1.0 if flat else self._speed(rng)
        home: Track | None = None
        if aligned:
            assert self._whole is not None
            home = self._whole.draw(rng)
            choices = self._moment(rng, home, negative)
        else:
            choices = self._strangers(rng)
        choices = self._chosen(rng, choices, negative, aligned)
        parts = [
            _Part(source, track, start, speed if aligned else self._speed(rng))
            for source, (track, start) in choices.items()
        ]
        cutoff = _cutoff(parts, rng.random() < config.walled, self._dull(rng))
        out = np.zeros((len(SOURCES), 2, self.segment_length), np.float32)
        for part in parts:
            piece = self._piece(rng, part, cutoff, flat)
            gain = _voice_raise(part) if part.track is home else _raise(part.track, part.row)
            if not flat:
                gain += _some_gain(rng, 2.5 if aligned else 3.5)
            out[SOURCES.index(part.row)] = piece * np.float32(10 ** (gain / 20))
        if "other" in choices and not flat and rng.random() < config.dense:
            number = SOURCES.index("other")
            out[number] += self._second(rng, out, number, cutoff)
        return out

    def _moment(self, rng: np.random.Generator, track: Track, negative: bool) -> _Choices:
        """One moment of all rows of a track."""
        # every source in turn must be caught playing; voices rest most
        sung = "vocals" in track.rows and not negative and rng.random() < 0.5
        start = self._start(rng, track, ("vocals",) if sung else track.rows)
        return dict.fromkeys(track.rows, (track, start))

    def _strangers(self, rng: np.random.Generator) -> _Choices:
        """Each source from a track and a moment of its own."""
        choices = {}
        for source, shelf in self._single.items():
            track = shelf.draw(rng)
            choices[source] = (track, self._start(rng, track, (source,)))
        return choices

    def _chosen(
        self, rng: np.random.Generator, choices: _Choices, negative: bool, aligned: bool
    ) -> _Choices:
        """What of the choices is heard, and the lead that a negative has instead of a voice."""
        config = self.config
        if negative:
            choices = {source: choice for source, choice in choices.items() if source != "vocals"}
            if self._leads is not None:
                track = self._leads.draw(rng)
                if not (aligned and "lead" in choices.get("other", (track,))[0].tags):
                    choices["other"] = (track, self._start(rng, track, ("other",)))
            return choices
        if rng.random() < config.sparse:
            few = rng.choice(list(choices), min(len(choices), int(rng.integers(1, 3))), False)
            return {source: choice for source, choice in choices.items() if source in few}
        return self._drop(rng, choices, config.drop * (0.5 if aligned else 1.0))

    def _dull(self, rng: np.random.Generator) -> float | None:
        """Where an example ends as lossy uploads do, if it does."""
        return float(rng.uniform(11000, 19000)) if rng.random() < self.config.dull else None

    def _piece(
        self, rng: np.random.Generator, part: _Part, cutoff: float | None, flat: bool
    ) -> np.ndarray:
        """What a part plays, as it was recorded or varied."""
        if flat:
            return self._plain(part.track, part.row, part.start, cutoff)
        return self._varied(rng, part.track, part.row, part.start, part.speed, cutoff)

    def _second(
        self, rng: np.random.Generator, sources: np.ndarray, number: int, cutoff: float | None
    ) -> np.ndarray:
        """Another piece of `other`, to be added to row `number` of these `[S, C, l]`."""
        track = self._single["other"].draw(rng)
        start, speed = self._start(rng, track, ("other",)), self._speed(rng)
        if rng.random() < self.config.in_key:
            piece = self.corpus.read(track, "other", start, self.segment_length)
            bounds = (1 - self.config.speed, 1 + self.config.speed)
            speed, _ = into_key(chroma(piece), chroma(sources.sum(axis=0)), *bounds)
        piece = self._varied(rng, track, "other", start, speed, cutoff)
        level = SECOND + float(np.clip(rng.normal(0, 3.0), -9, 3))
        voice = sources[SOURCES.index("vocals")]
        if voice.any():
            level += 10 * float(np.log10((_register(voice) + 1e-12) / (_register(piece) + 1e-12)))
        else:
            beside = 10 * float(np.log10(np.square(sources[number]).mean() + 1e-12))
            level += beside - track.level["other"]
        most = _raise(track, "other") + LOUDER
        return piece * np.float32(10 ** (min(level, most) / 20))

    def _draw_backing(self, rng: np.random.Generator) -> np.ndarray:
        """As `_draw`; the backing lies in the first of its rows, the others are silent."""
        config = self.config
        assert self._backings is not None
        dull = self._dull(rng)
        flat = rng.random() < config.flat
        sung = rng.random() < config.sung and "vocals" in self._single
        track = self._backings.draw(rng)
        start = self._start(rng, track, (BACKING,))
        backing = _Part(BACKING, track, start, 1.0 if flat else self._speed(rng))
        parts = [backing]
        if sung:
            in_key = rng.random() < config.in_key
            parts.append(self._in_key(rng, backing) if in_key else self._voice(rng))
        cutoff = _cutoff(parts, rng.random() < config.walled, dull)
        out = np.zeros((len(SOURCES), 2, self.segment_length), np.float32)
        for part in parts:
            piece = self._piece(rng, part, cutoff, flat and part.row == BACKING)
            gain = _raise(part.track, part.row) + _some_gain(rng, 3.0)
            number = _IN_BACKING[0] if part.row == BACKING else SOURCES.index(part.row)
            out[number] = piece * np.float32(10 ** (gain / 20))
        if not flat and rng.random() < config.dense and "other" in self._single:
            number = _IN_BACKING[0]
            out[number] += self._second(rng, out, number, cutoff)
        return out

    def _voice(self, rng: np.random.Generator) -> _Part:
        track = self._single["vocals"].draw(rng)
        return _Part("vocals", track, self._start(rng, track, ("vocals",)), self._speed(rng))

    def _in_key(self, rng: np.random.Generator, backing: _Part) -> _Part:
        """Of a few voices the one that agrees best with the backing, at the pitch where it does."""
        length, widest = self.segment_length, self.config.speed
        behind = chroma(self.corpus.read(backing.track, BACKING, backing.start, length))
        found = []
        for _ in range(VOICES_TRIED):
            voice = self._voice(rng)
            piece = self.corpus.read(voice.track, "vocals", voice.start, length)
            bounds = ((1 + sign * widest) / backing.speed for sign in (-1, 1))
            ratio, agreement = into_key(chroma(piece), behind, *bounds)
            found.append((agreement, voice._replace(speed=ratio * backing.speed)))
        return max(found, key=lambda pair: pair[0])[1]

    @staticmethod
    def _drop(rng: np.random.Generator, choices: _Choices, probability: float) -> _Choices:
        """Leave out each source with that probability, but never all."""
        stay = {source: rng.random() >= probability for source in choices}
        if not any(stay.values()):
            stay[list(choices)[int(rng.integers(len(choices)))]] = True
        return {source: choice for source, choice in choices.items() if stay[source]}

    def _speed(self, rng: np.random.Generator) -> float:
        """A ratio of speed and pitch; half of the pieces keep theirs."""
        if rng.random() >= 0.5:
            return 1.0
        return float(1 + rng.uniform(-self.config.speed, self.config.speed))

    def _start(self, rng: np.random.Generator, track: Track, sources: tuple[str, ...]) -> int:
        """A moment to begin at, nearly always one where the sources play.

        One source should play in at least 40 % of the segment; of several, two should.
        """
        length = self.segment_length
        blocks = max(1, length // BLOCK)
        starts = np.arange(max(1, track.frames // BLOCK - blocks + 1))
        jitter = int(rng.integers(BLOCK))
        if rng.random() < 0.92:
            busy = np.zeros(len(starts))
            for source in sources:
                levels = np.asarray(track.activity[source])
                active = np.cumsum(np.append(0, levels > max(levels.max() - 26, SILENCE)))
                ends = np.minimum(starts + blocks, len(levels))
                busy += (active[ends] - active[starts]) >= 0.4 * blocks
            good = starts[busy >= min(2, len(sources))]
            starts = good if len(good) else starts
        start = int(starts[rng.integers(len(starts))]) * BLOCK + jitter
        return max(0, min(start, track.frames - length))

    def _plain(
        self,
        track: Track,
        source: str,
        start: int,
        cutoff: float | None,
    ) -> np.ndarray:
        """A piece of one source as it was recorded."""
        if cutoff is None:
            return self.corpus.read(track, source, start, self.segment_length)
        n, margin = piece_frame(self.segment_length, 1.0)
        piece = self.corpus.read(track, source, start - margin, n)
        return reshape(piece, Shape(cutoff=cutoff), self.segment_length)

    def _varied(
        self,
        rng: np.random.Generator,
        track: Track,
        source: str,
        start: int,
        speed: float,
        cutoff: float | None,
    ) -> np.ndarray:
        """A piece of one source with everything drawn anew but its gain."""
        length = self.segment_length
        n, margin = piece_frame(length, speed)
        piece = self.corpus.read(track, source, start - margin, n)
        room = 0.04 if source in ("bass", BACKING) else 0.15
        if source == BACKING and is_mono(torch.from_numpy(piece)):
            room = self.config.roomy
        growl = source == "bass" and rng.random() < self.config.growl
        if growl:
            # first, since a sampled bass has nothing there that could be raised
            rough = saturate(piece, float(rng.uniform(0.4, 0.9)))
            piece = rough * np.sqrt(np.square(piece).mean() / (np.square(rough).mean() + 1e-12))
        if source == "vocals" and rng.random() < self.config.muffled:
            end = float(rng.uniform(5000, 12000))
            cutoff = min(cutoff or end, end)
        bright = self.config.bright if source in BRIGHT else 0.0
        shape = draw_shape(rng, room=room, cutoff=cutoff, bright=bright)
        if growl:
            mids, at = float(rng.uniform(5, 14)), float(250 * 2 ** rng.uniform(0, 1.4))
            shape = replace(shape, bell=mids, bell_at=at)
        piece = reshape(piece, shape, length)
        if rng.random() < 0.12:
            piece = drive(piece, float(rng.uniform(0.2, 1.0)))
        if rng.random() < 0.5:
            low = source in ("bass", BACKING)
            pan = float(rng.normal(0, 0.08 if low else 0.2))
            width = float(rng.uniform(0.5, 1.0 if low else 1.4))
            piece = place(piece, float(np.clip(pan, -0.7, 0.7)), width)
        if rng.random() < 0.5:
            piece = piece[::-1]
        if rng.random() < 0.5:
            piece = -piece
        return piece


def dataset_of(config: TrainConfig, corpus: Path) -> MixtureDataset:
    """The examples that a run draws from the training tracks of a corpus."""
    shares = MixingConfig.weighted(config.songs, config.backings)
    return MixtureDataset(corpus, "train", config.segment_length, config.seed, shares)


def draw_batch(
    dataset: MixtureDataset, numbers: Iterable[int], names: Sequence[str] = SOURCES
) -> tuple[torch.Tensor, torch.Tensor]:
    """The examples of these numbers as a batch.

    Shape:
        mixtures `[B, C, l]`, sources `[B, S, C, l]`, those of `names`.
    """
    drawn = [dataset.draw(number) for number in numbers]
    mixtures, sources = (torch.stack(tensors) for tensors in zip(*drawn, strict=True))
    return mixtures, select(sources, names)


def select(sources: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
    """Sources that a network separates, out of all that the corpus has. `[B, S, C, l]`."""
    if tuple(names) == SOURCES:
        return sources
    return sources[:, [SOURCES.index(name) for name in names]]
