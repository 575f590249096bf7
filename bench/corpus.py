"""Numbers of a corpus: `python -m bench.corpus CORPUS`.

Level and spectrum of every source by kind of track, what examples hold and what they cost, and the
SDR of the mixture as the estimate in the held-out split.
"""

from __future__ import annotations

from moises_light.terminal import at_least, run_main

if __name__ == "__main__":  # above the imports: what is not installed is one line
    raise SystemExit(run_main("bench.corpus"))

import argparse
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from moises_light.config import SOURCES
from moises_light.training.corpus import KINDS, SAMPLE_RATE, Corpus, Track
from moises_light.training.mixing import MixtureDataset

EDGES = (30, 60, 120, 250, 500, 1000, 2000, 4000, 8000, 11500)
FRAME = 8192


def spectrum(audio: np.ndarray) -> np.ndarray:
    """Mean power of `[C, L]` in each band of `EDGES`, in dB below the loudest band."""
    middle = audio.mean(axis=0)
    frames = middle[: len(middle) // FRAME * FRAME].reshape(-1, FRAME) * np.hanning(FRAME)
    power = np.square(np.abs(np.fft.rfft(frames))).mean(axis=0)
    f = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE)
    bands = [
        10 * np.log10(power[(f >= low) & (f < high)].mean() + 1e-12)
        for low, high in pairwise(EDGES)
    ]
    return np.array(bands) - max(bands)


def kind_row(corpus: Corpus, tracks: Sequence[Track], source: str) -> str:
    spectra = [spectrum(corpus.read(t, source, 0, t.frames)) for t in tracks]
    levels = [t.level[source] for t in tracks]
    bands = "".join(f"{value:>6.0f}" for value in np.median(spectra, axis=0))
    return f"{np.mean(levels):>7.1f} ±{np.std(levels):>4.1f}{bands}"


def floors(corpus: Corpus, source: str) -> list[float]:
    """SDR in dB of the mixture as the estimate, for each track in which the source plays."""
    found = []
    for track in corpus.tracks:
        if source in track.rows:
            audio = corpus.audio(track).astype(np.float32)
            own = audio[track.rows.index(source)]
            rest = audio.sum(axis=0) - own
            found.append(float(10 * np.log10(np.square(own).sum() / np.square(rest).sum())))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.corpus")
    parser.add_argument("corpus", type=Path)
    parser.add_argument(
        "--tracks", type=at_least(1), default=40, help="tracks of each kind to measure"
    )
    parser.add_argument("--draws", type=at_least(1), default=200)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    # a split that is missing is told before the work
    train, heldout = (Corpus(options.corpus, split) for split in ("train", "heldout"))
    print(f"{'':<14}{'level':>14}" + "".join(f"{edge:>6}" for edge in EDGES[:-1]))
    for source in SOURCES:
        for kind in KINDS:
            some = [t for t in train.tracks if t.kind == kind and source in t.rows]
            if some:
                row = kind_row(train, some[-options.tracks :], source)
                print(f"{source + ' ' + kind:<14}{row}", flush=True)
    for seconds in (3, 6):
        dataset = MixtureDataset(train, segment_length=seconds * SAMPLE_RATE, seed=1)
        began = time.process_time()
        sources = [dataset.draw(index)[1] for index in range(options.draws)]
        cost = (time.process_time() - began) / options.draws
        power = np.stack([s.square().mean((1, 2)).numpy() for s in sources])
        known = ~np.isnan(power)  # before a backing only the vocals are
        held = (power > 1e-8).sum(0) / known.sum(0)
        shares = ", ".join(f"{s} {h:.0%}" for s, h in zip(SOURCES, held, strict=True))
        print(f"{seconds} s: {1000 * cost:.0f} ms of one core a draw; holds {shares}", flush=True)
    for source in SOURCES:
        values = floors(heldout, source)
        print(f"heldout {source}: {len(values)} tracks, mixture's SDR {np.mean(values):.1f} dB")
    return 0
