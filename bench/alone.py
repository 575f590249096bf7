"""What is left of a source that plays alone: `python -m bench.alone WEIGHTS ... [--corpus DIR]`.

Nothing is easier to separate than a source with nothing beside it, so what a network loses here it
can never give, whatever plays along. A row for each source, a column for each band of the loss
`bands`: the SDR in dB, and behind it the largest mask. A mask far below one is a ceiling: no
feature of the network speaks for that source in that band.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from moises_light import weights
from moises_light.config import SOURCES
from moises_light.model import MoisesLight
from moises_light.terminal import at_least, exit_code
from moises_light.training.config import TrainConfig
from moises_light.training.corpus import SAMPLE_RATE, Corpus
from moises_light.training.losses import EDGES, Objective, band_energies

LENGTH = TrainConfig(frames=256).segment_length
"""Samples of an excerpt, six seconds in whole frames."""

FAINT = 1e-4
"""Share of its energy that a source must have in a band to be scored there."""


def loudest(corpus: Corpus, source: str) -> Iterator[Tensor]:
    """The six seconds of each track in which a source is loudest: `[C, L]`."""
    for track in corpus.tracks:
        if source not in track.rows or track.frames < LENGTH:
            continue
        audio = torch.from_numpy(corpus.read(track, source, 0, track.frames))
        step = SAMPLE_RATE // 2
        energy = functional.avg_pool1d(audio.square().mean(0, keepdim=True), LENGTH, step)
        first = int(energy.argmax()) * step
        yield audio[:, first : first + LENGTH]


@torch.no_grad()
def alone(model: MoisesLight, source: str, audio: Tensor) -> tuple[Tensor, Tensor]:
    """SDR in dB and largest mask of a source in each band, where it is all that plays.

    Args:
        model: the network, in `eval`.
        source: its name.
        audio: `[C, L]`.

    Shape: `[N]` each; the SDR is NaN where the source is faint.
    """
    objective = Objective(model, "bands", bf16=False)
    spectrum = objective.spectrum(audio[None])
    masks = model.estimate_masks(spectrum)[:, model.sources.index(source)]
    error, target = (
        band_energies(x, objective.bands)[0] for x in (masks * spectrum - spectrum, spectrum)
    )
    sdr = 10 * torch.log10(target / error)
    highest = masks.amax((0, 1, 2, 4))
    largest = torch.stack([highest[band.bool()].max() for band in objective.bands.T])
    return sdr.where(target > FAINT * target.sum(), torch.nan), largest


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.alone")
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--corpus", type=Path, default=Path("corpus"))
    parser.add_argument(
        "--tracks", type=at_least(1), default=6, help="of the held-out split, a source"
    )
    options = parser.parse_args(arguments)
    corpus = Corpus(options.corpus, "heldout")
    columns = [f"to {edge:g} Hz" for edge in EDGES] + ["above"]
    excerpts = {s: list(islice(loudest(corpus, s), options.tracks)) for s in SOURCES}
    missing = [source for source, found in excerpts.items() if not found]
    if missing:
        raise ValueError(
            f"no {LENGTH / SAMPLE_RATE:.0f} s of {', '.join(missing)} among --tracks "
            f"{options.tracks} of {options.corpus}; render held-out bands, or give more tracks"
        )
    print(f"| weights | source | {' | '.join(columns)} |\n|---" + "|---" * (len(columns) + 1) + "|")
    for path in options.weights:
        model = weights.load_pretrained(path)
        for source in model.sources:
            scores = [alone(model, source, audio) for audio in excerpts[source]]
            sdr, largest = (torch.stack(x) for x in zip(*scores, strict=True))
            cells = [
                "-" if mean.isnan() else f"{mean:.1f} ({top:.2f})"
                for mean, top in zip(sdr.nanmean(0), largest.amax(0), strict=True)
            ]
            print(f"| {path} | {source} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
