"""The subcommands `train` and `evaluate` of the command line."""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from moises_light.training.config import TrainConfig


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), help="folder of the corpus")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run, resumed if old")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    parser.add_argument("--workers", type=int, default=1, help="processes that draw examples")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; its choice if 0")
    parser.add_argument("--save-minutes", type=float, default=5.0, help="between two saved states")
    parser.add_argument("--log-steps", type=int, default=10)
    for field in fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default)
        elif field.name == "sources":
            parser.add_argument(flag, nargs="*", default=())
        else:
            parser.add_argument(flag, type=type(field.default), default=field.default)


def train(args: argparse.Namespace) -> int:
    from moises_light.training.loop import train as run
    from moises_light.training.mixing import MixtureDataset

    if args.threads:
        torch.set_num_threads(args.threads)
    values = {field.name: getattr(args, field.name) for field in fields(TrainConfig)}
    config = TrainConfig(**{**values, "sources": tuple(values["sources"])})
    dataset = MixtureDataset(args.corpus, "train", config.segment_length, config.seed)
    path = run(
        config,
        dataset,
        args.run,
        device=args.device,
        workers=args.workers,
        save_minutes=args.save_minutes,
        log_steps=args.log_steps,
        commit=_commit(),
        on_log=_print,
    )
    print(path)
    return 0


def _print(row: dict[str, Any]) -> None:
    hidden = ("lr", "skipped")
    print("  ".join(f"{k} {v}" for k, v in row.items() if k not in hidden), flush=True)


def _commit() -> str:
    """Commit of the code, where it lies in a checkout."""
    here = Path(__file__).parent
    try:
        result = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def main() -> int:
    """`python -m moises_light.training.cli`, what `torchrun` starts."""
    parser = argparse.ArgumentParser(prog="moises-light train")
    add_train_arguments(parser)
    return train(parser.parse_args())


if __name__ == "__main__":
    raise SystemExit(main())
