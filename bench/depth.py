"""What each block of the bottleneck is worth: `python -m bench.depth WEIGHTS ... [--corpus DIR]`.

Prints how much the loss `bands` rises where a block of two transformers adds nothing, on examples
of the held-out split. A block near zero is computed for nothing.
"""

from __future__ import annotations

from moises_light.terminal import at_least, run_main

if __name__ == "__main__":  # above the imports: what is not installed is one line
    raise SystemExit(run_main("bench.depth"))

import argparse
from collections.abc import Sequence
from pathlib import Path

from moises_light import weights
from moises_light.training.config import TrainConfig
from moises_light.training.mixing import MixtureDataset, draw_batch
from moises_light.training.prune import loss, without_block


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.depth")
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--corpus", type=Path, default=Path("corpus"))
    parser.add_argument("--examples", type=at_least(1), default=6, help="of two seconds each")
    options = parser.parse_args(arguments)
    length = TrainConfig(frames=88).segment_length
    dataset = MixtureDataset(options.corpus, "heldout", length, seed=0)
    print("| weights | loss | rise without block 0, 1, ... |\n|---|---|---|")
    for path in options.weights:
        model = weights.load_pretrained(path).eval()
        examples = [
            draw_batch(dataset, [number], model.sources) for number in range(options.examples)
        ]
        whole = loss(model, examples)
        blocks = range(model.config.n_rope)
        rises = [loss(without_block(model, block), examples) - whole for block in blocks]
        told = ", ".join(f"{rise:.3f}" for rise in rises)
        print(f"| {path} | {whole:.3f} | {told} |", flush=True)
    return 0
