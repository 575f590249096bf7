"""How far weights have come, in a minute: `python -m bench.heldout WEIGHTS ... [--corpus DIR]`.

For runs to be compared while they go on, between two evaluations of whole tracks (which these
numbers do not replace): the loss `bands` of each source and its SDR in each band, on excerpts of
two seconds, or as long as `--frames` says (263 are what separation hears at once). They are the
same for all weights: examples drawn from the held-out split as training draws its own, and pieces
of the tracks of the splits `backed` and `in_key`, whose drums, bass and other are known as a sum
alone, here *accompaniment*.
"""

from __future__ import annotations

from moises_light.terminal import at_least, run_main

if __name__ == "__main__":  # above the imports: what is not installed is one line
    raise SystemExit(run_main("bench.heldout"))

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from moises_light import weights
from moises_light.config import SOURCES
from moises_light.model import MoisesLight
from moises_light.training.config import TrainConfig
from moises_light.training.corpus import BACKED_SPLITS
from moises_light.training.evaluate import ACCOMPANIMENT, corpus_tracks
from moises_light.training.loop import objective_of
from moises_light.training.losses import (
    EDGES,
    WHISPER,
    band_energies,
    join,
    known_apart,
    loss_bands,
    narrowed,
)
from moises_light.training.mixing import MixtureDataset, draw_batch, select

RUN = TrainConfig(frames=88, bf16=False, absent=0.3, highs=3.0, highs_of=("vocals", "other"))
"""How long an excerpt is and how the loss counts: as in the runs behind our own weights."""

LENGTH = RUN.segment_length
"""Samples of an excerpt, two seconds in whole frames."""

COLUMNS = (*EDGES, 14700.0)
"""Where one column's band ends and the next begins, in Hz: the loss's, and where paper_* end."""

Batch = tuple[Tensor, Tensor]
"""Mixture `[B, C, L]` and sources `[B, S, C, L]`, NaN where they are known as a sum alone."""


def drawn(
    corpus: Path, examples: int, length: int = LENGTH, batch_size: int = 4
) -> Iterator[Batch]:
    """Examples of the held-out split, mixed and altered as in training."""
    dataset = MixtureDataset(corpus, "heldout", length, seed=5)
    for first in range(0, examples, batch_size):
        yield draw_batch(dataset, range(first, min(first + batch_size, examples)), SOURCES)


def pieces(corpus: Path, each: int, length: int = LENGTH, split: str = "backed") -> Iterator[Batch]:
    """Pieces of every track of a split, as they are, evenly spread: a batch a track."""
    for track in corpus_tracks(corpus, split):
        whole = track.mixture.shape[-1]
        firsts = [int((0.1 + 0.88 * k / each) * whole) for k in range(each)]
        cuts = [slice(first, first + length) for first in firsts if first + length <= whole]
        unknown = torch.full_like(track.mixture, torch.nan)
        sources = torch.stack([track.sources.get(source, unknown) for source in SOURCES])
        if cuts:
            yield (
                torch.stack([track.mixture[:, cut] for cut in cuts]),
                torch.stack([sources[..., cut] for cut in cuts]),
            )


def in_mono(batches: Iterable[Batch], voice_alone: bool) -> Iterator[Batch]:
    """The same in mono, or with the vocals alone in mono, as they often stand in the middle."""
    for mixture, sources in batches:
        widths = torch.zeros(len(sources), len(SOURCES) + 1)
        if voice_alone:
            widths += 1.0
            widths[:, SOURCES.index("vocals")] = 0.0
        yield narrowed(mixture, sources, widths)


@torch.no_grad()
def score(model: MoisesLight, batches: Sequence[Batch]) -> dict[str, tuple[float, list[float]]]:
    """Loss of each source, and its SDR in dB in each band up to where the network's range ends.

    Sources that are known as a sum alone are one row, `accompaniment`, and the loss of that sum
    counts once. SDRs are of all excerpts together: of energies as shares of the mixture's in that
    band and excerpt, or the loudest excerpt would decide.

    Raises:
        ValueError: if sources are known apart in some excerpts and in others are not.
    """
    c = model.config
    objective = objective_of(model, RUN)
    bands = loss_bands(c.freq_dim, c.sample_rate / c.n_fft, COLUMNS)
    losses, errors, wanted, apart = [], [], [], []
    for mixture, sources in batches:
        targets, together = known_apart(mixture, select(sources, model.sources))
        mixed = objective.spectrum(mixture)
        estimate = join(model.estimate_masks(mixed) * mixed[:, None], together)
        target = objective.spectrum(targets)
        losses.append(objective.shared_out(objective.distance(estimate, target, mixed), together))
        heard = band_energies(mixed, bands)
        heard = (heard + WHISPER * heard.sum(-1, keepdim=True))[:, None]
        errors.append((band_energies(estimate - target, bands) / heard).sum(0))
        wanted.append((band_energies(target, bands) / heard).sum(0))
        apart.append(~together)
    known = torch.cat(apart)
    if not (known == known[0]).all():
        raise ValueError("sources are known apart in some excerpts only; give sets of one kind")
    loss = torch.cat(losses).mean(0).tolist()
    sdr = 10 * torch.log10(torch.stack(wanted).sum(0) / torch.stack(errors).sum(0))
    within = int(bands.any(0).sum())
    rows: dict[str, tuple[float, list[float]]] = {}
    for i, source in enumerate(model.sources):
        if known[0, i]:
            rows[source] = loss[i], sdr[i, :within].tolist()
        elif len(model.sources) == len(SOURCES):  # fewer cannot tell the sum
            so_far = rows.get(ACCOMPANIMENT, (0.0, []))[0]
            rows[ACCOMPANIMENT] = so_far + loss[i], sdr[i, :within].tolist()
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.heldout")
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--corpus", type=Path, default=Path("corpus"))
    parser.add_argument("--examples", type=at_least(1), default=48, help="of the held-out split")
    parser.add_argument(
        "--pieces", type=at_least(0), default=4, help="of each track of `backed`, `in_key`"
    )
    parser.add_argument("--frames", type=int, default=RUN.frames, help="STFT frames of an excerpt")
    parser.add_argument(
        "--width",
        choices=("as it is", "mono", "mono voice"),
        default="as it is",
        help="of the excerpts, or of their vocals alone",
    )
    options = parser.parse_args(arguments)
    length = replace(RUN, frames=options.frames).segment_length
    sets = {"held out": list(drawn(options.corpus, options.examples, length))}
    for split in BACKED_SPLITS if options.pieces else ():
        if (options.corpus / split).is_dir():
            sets[split] = list(pieces(options.corpus, options.pieces, length, split))
    if options.width != "as it is":
        alone = options.width == "mono voice"
        sets = {
            f"{name}, {options.width}": list(in_mono(batches, alone))
            for name, batches in sets.items()
        }
    columns = [f"to {edge:g} Hz" for edge in COLUMNS] + ["above"]
    print(f"| weights | set | source | loss | {' | '.join(columns)} |")
    print("|---" * (4 + len(columns)) + "|")
    for path in options.weights:
        model = weights.load_pretrained(path).eval()
        for name, batches in sets.items():
            rows = score(model, batches)
            for source, (loss, sdr) in rows.items():
                cells = [f"{x:.2f}" for x in sdr] + ["-"] * (len(columns) - len(sdr))
                print(f"| {path} | {name} | {source} | {loss:.3f} | {' | '.join(cells)} |")
            mean = sum(loss for loss, _ in rows.values()) / len(model.sources)
            print(f"| {path} | {name} | mean | {mean:.3f} |{' |' * len(columns)}", flush=True)
    return 0
