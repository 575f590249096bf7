"""The mean of the weights of two runs of one network, as a file to be scored and released.

    python -m moises_light.training.average runs/NAME/model.safetensors other.safetensors \\
        mean.safetensors --corpus corpus

Where the first went on from the other, the mean often keeps most of what it learnt and little of
what it forgot. Batch norms are estimated anew, from examples as the first run drew them, but where
the run had frozen them, so that both have the same.

Source: Izmailov and others 2018, Averaging weights leads to wider optima and better generalization;
Wortsman and others 2022, Robust fine-tuning of zero-shot models.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moises_light import weights
from moises_light.model import MoisesLight
from moises_light.terminal import exit_code
from moises_light.training.config import TrainConfig
from moises_light.training.history import UNTOLD, unscored
from moises_light.training.loop import calibrated, calibration_examples


def mean_of(
    first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """`share` of the first state dict and the rest of the second; counters are the first's."""
    return {
        key: torch.lerp(second[key], x, share) if x.is_floating_point() else x
        for key, x in first.items()
    }


def same_norms(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether the batch norms of two state dicts have the same statistics."""
    statistics = [key for key in first if key.endswith(("running_mean", "running_var"))]
    return all(torch.equal(first[key], second[key]) for key in statistics)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m moises_light.training.average")
    parser.add_argument("first", type=Path, help="model.safetensors of a run, whose card is kept")
    parser.add_argument("second", type=Path, help="other weights of the same network")
    parser.add_argument("out", type=Path, help=".safetensors file to write")
    parser.add_argument("--corpus", type=Path, default=Path("corpus"))
    parser.add_argument(
        "--share", type=float, default=0.5, help="of the first (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    args = parser.parse_args(arguments)
    if not 0 < args.share < 1:
        raise ValueError(f"--share {args.share:g}; choose more than 0 and less than 1")
    weights.check_name(args.out)
    first, second = weights.load(args.first), weights.load(args.second)
    if first.config != second.config:
        raise ValueError(
            f"{args.first} and {args.second} are of different networks, which have no mean; "
            f"give two of one"
        )
    card = first.metadata["card"]
    if "run" not in card:
        raise ValueError(f"{args.first} has no card of a run; give the model.safetensors of one")
    model = MoisesLight(**first.config)
    model.load_state_dict(mean_of(first.state_dict, second.state_dict, args.share))
    told = {
        **unscored(card),
        "averaged": f"{args.share:g} of these weights and {1 - args.share:g} of "
        f"{_name(second.metadata['card'])}",
    }
    if not same_norms(first.state_dict, second.state_dict):
        from moises_light.training.mixing import dataset_of

        config = TrainConfig.from_json(json.dumps(card["run"]), str(args.first))
        model = calibrated(model, config, dataset_of(config, args.corpus), args.device)
        told["norms_anew"] = calibration_examples(config)
    metadata = {"preset": first.metadata["preset"], "card": told}
    weights.save(model, args.out, metadata, torch.float16)
    print(args.out)
    return 0


def _name(card: Mapping[str, Any]) -> str:
    if "run" not in card:
        return UNTOLD
    return f"those of the run with seed {card['seed']} and {card['steps']:,} steps" + (
        ", averaged as told there" if "averaged" in card else ""
    )


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
