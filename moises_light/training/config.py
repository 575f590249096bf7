"""What describes a training run: one frozen value."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import cos, inf, pi

import numpy as np

from moises_light.config import SOURCES, get_config

LOSSES = ("bands", "snr", "mae")


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Args:
        preset: name of the network's preset.
        sources: sources to separate; those of the preset where empty.
        frames: STFT frames of an example, a multiple of `2 ** n_enc`.
        batch_size: examples a step, over all processes.
        accumulate: parts that a step's batch is computed in, to save memory.
        minutes: time budget, to which the schedule bends; none where 0.
        steps: steps that the run has at most; no limit where 0. A run needs this or `minutes`.
        lr: peak learning rate of AdamW.
        warmup: steps until the peak is reached.
        weight_decay: of AdamW, on matrices alone.
        clip: largest norm of the gradient.
        ema: decay of the moving average of the weights, which is what a run gives. A run from a
            random start begins with shorter averages and reaches `(n + 1) / (n + 10)` at step `n`.
        loss: `bands` (half of it `snr`, half the same band by band, see `Objective`), `snr` (see
            `snr_loss`) or `mae` (the paper's, see `mae_loss`).
        absent: weight of the loss of sources that are absent from an example (not with `mae`).
        highs: how many times bands above 2 kHz count (with `bands`) for the sources `highs_of`.
        highs_of: these sources.
        focus: how many times the loss of the sources `focus_of` counts.
        focus_of: these sources.
        seed: of the weights and of the examples.
        bf16: compute in bfloat16 where the network allows it.
        start: a `.safetensors` file of weights to start from, or nothing; those of a smaller preset
            are grown, see `grow`.
        teacher: weights of a better network, whose estimates are targets beside the sources; a
            preset or a `.safetensors` file, or nothing (not with `mae`), see `Objective`.
        teaching: share of the loss that is counted against the teacher's estimates.
        frozen_norms: batch norms keep the statistics of `start`, so that what is trained is what
            will be used: with those of a batch, what an example is worth hangs on its neighbours.
        narrow: share of examples whose sides are taken away, wholly or in part, from everything or
            from the vocals alone, as old records and centred voices have it; see `widths`. A
            teacher hears them as they were.
        songs: how many times real songs count when a track is drawn, see `MixingConfig.weighted`;
            below 1 where they are so few that a network would learn their voices by heart.
        backings: share of examples whose music is real, and only its vocals are known apart.
    """

    preset: str = "paper_small"
    sources: tuple[str, ...] = ()
    frames: int = 64
    batch_size: int = 4
    accumulate: int = 1
    minutes: float = 0.0
    steps: int = 0
    lr: float = 1e-3
    warmup: int = 50
    weight_decay: float = 1e-2
    clip: float = 1.0
    ema: float = 0.995
    loss: str = "bands"
    absent: float = 0.1
    highs: float = 1.0
    highs_of: tuple[str, ...] = ("vocals",)
    focus: float = 1.0
    focus_of: tuple[str, ...] = ("vocals",)
    seed: int = 0
    bf16: bool = True
    start: str = ""
    teacher: str = ""
    teaching: float = 0.5
    frozen_norms: bool = False
    narrow: float = 0.0
    songs: float = 1.0
    backings: float = 0.35

    def __post_init__(self) -> None:
        factor = 2 ** get_config(self.preset).n_enc
        if self.frames < factor or self.frames % factor:
            raise ValueError(f"frames={self.frames}; choose a multiple of {factor}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss={self.loss!r}; choose one of {', '.join(LOSSES)}")
        for field in ("sources", "highs_of", "focus_of"):
            names = tuple(getattr(self, field))
            object.__setattr__(self, field, names)
            if unknown := set(names) - set(SOURCES):
                raise ValueError(
                    f"{field} names {', '.join(sorted(unknown))}; choose from {', '.join(SOURCES)}"
                )
        if self.accumulate < 1 or self.batch_size < 1 or self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size={self.batch_size} cannot be cut into accumulate={self.accumulate} "
                f"equal parts; choose a multiple"
            )
        for field in ("teaching", "narrow", "backings"):
            if not 0 <= getattr(self, field) <= 1:
                raise ValueError(f"{field}={getattr(self, field)}; choose a share from 0 to 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema={self.ema}; choose a decay from 0 to less than 1")
        for field in ("lr", "clip", "focus"):
            if not 0 < getattr(self, field) < inf:
                raise ValueError(f"{field}={getattr(self, field)}; choose more than 0")
        least = ("minutes", "steps", "warmup", "weight_decay", "absent", "highs", "seed", "songs")
        for field in least:
            if not 0 <= getattr(self, field) < inf:
                raise ValueError(f"{field}={getattr(self, field)}; choose 0 or more")
        if self.seed >= 2**64:  # more no generator of torch takes
            raise ValueError(f"seed={self.seed}; choose less than 2**64")
        if self.teacher and self.loss == "mae":
            raise ValueError("a teacher gives spectra, which mae does not compare; choose bands")
        if self.frozen_norms and not self.start:
            raise ValueError("frozen_norms keeps the statistics of a start; give start, too")

    @property
    def segment_length(self) -> int:
        """Samples of an example: what fills `frames` frames to the end."""
        return (self.frames - 1) * get_config(self.preset).hop_size

    def progress(self, step: int, seconds: float) -> float:
        """How much of the run is over, from 0 to 1: by steps or by time, whichever is further."""
        by_time = seconds / (60 * self.minutes) if self.minutes else 0.0
        by_steps = step / self.steps if self.steps else 0.0
        return min(1.0, max(by_steps, by_time))

    def learning_rate(self, step: int, seconds: float) -> float:
        """Linear warm-up, then half a cosine down to a hundredth."""
        fall = 0.01 + 0.99 * (1 + cos(pi * self.progress(step, seconds))) / 2
        return self.lr * min(1.0, (step + 1) / max(1, self.warmup)) * fall

    def counts(self, sources: Sequence[str]) -> list[float]:
        """How many times the loss of each of these sources counts.

        >>> TrainConfig(focus=2.0).counts(("vocals", "drums"))
        [2.0, 1.0]
        """
        return [self.focus if source in self.focus_of else 1.0 for source in sources]

    def widths(self, number: int, sources: Sequence[str]) -> list[float]:
        """What the sides of example `number` are multiplied with, 1 leaving them: `[S + 1]`.

        One for each of these sources and one for whatever else is in the mixture. Two of five
        narrow examples are narrow as a whole, and of each kind every second is mono.
        """
        rng = np.random.default_rng([self.seed, number, 1])
        chance, whole, mono, width = rng.random(4)
        if chance >= self.narrow:
            return [1.0] * (len(sources) + 1)
        width = 0.0 if mono < 0.5 else float(width) / 2
        return [width if whole < 0.4 or s == "vocals" else 1.0 for s in (*sources, "")]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str, name: str = "the config") -> TrainConfig:
        """The config that `to_json` wrote; options that it lacks have their defaults.

        Args:
            text: of the JSON.
            name: of where it comes from, for what is said of it.

        Raises:
            ValueError: if it is no config of a run, or has options that are unknown here.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{name} holds no config of a run: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{name} holds no config of a run, which is a JSON object")
        if unknown := values.keys() - {field.name for field in fields(TrainConfig)}:
            raise ValueError(
                f"{name} has options that are unknown here: {', '.join(sorted(unknown))}; it is of "
                f"no run, or of one of a newer version: use that"
            )
        try:
            return TrainConfig(**values)
        except TypeError as error:
            raise ValueError(f"{name} has a value of another kind: {error}") from error
