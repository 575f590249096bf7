"""The subcommands `train` and `evaluate` of the command line."""

from __future__ import annotations

import argparse
import inspect
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from moises_light.config import DEFAULT_PRESET
from moises_light.model import PRECISIONS
from moises_light.terminal import (
    at_least,
    end_as_ctrl_c,
    exit_code,
    is_out_of_memory,
    one_line,
    say,
    tell,
)
from moises_light.training.config import TrainConfig
from moises_light.training.corpus import SPLITS


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--corpus", type=Path, default=Path("corpus"), help="default: %(default)s")
    parser.add_argument("--folder", type=Path, required=True, help="of the run; an old one goes on")
    parser.add_argument(
        "--device", default="cpu", choices=("cpu", "cuda", "mps"), help="default: %(default)s"
    )
    parser.add_argument(
        "--workers",
        type=at_least(0),
        default=1,
        help="processes that draw examples (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=at_least(0), default=0, help="threads of torch; its choice if 0"
    )
    parser.add_argument(
        "--save-minutes",
        type=float,
        default=5.0,
        help="between two saved states (default: %(default)s)",
    )
    parser.add_argument(
        "--log-steps", type=at_least(1), default=10, help="that a line of the log sums up"
    )
    parser.add_argument(
        "--tensorboard", action="store_true", help="also log to the run's folder for TensorBoard"
    )
    parser.add_argument(
        "--export",
        action="store_true",
        help="take no step: write model.safetensors from the last state that the run in --folder "
        "saved, also while it goes on; the options of a run are those it was started with",
    )
    meanings = _meanings()
    for field in fields(TrainConfig):
        kind: dict[str, Any] = {"type": type(field.default)}
        if isinstance(field.default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        elif isinstance(field.default, tuple):
            kind = {"nargs": "*"}
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            default=field.default,
            help=f"{meanings.get(field.name, '')} (default: {field.default})",
            **kind,
        )


def _meanings() -> dict[str, str]:
    """What each field of a run means, from the docstring of `TrainConfig`."""
    text = inspect.cleandoc(TrainConfig.__doc__ or "")  # as Python 3.13 does on its own
    arguments = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", text, re.MULTILINE)
    return {name: " ".join(text.split()).rstrip(".") for name, text in arguments}


@end_as_ctrl_c()  # a run that is told to end keeps what it learnt
def train(args: argparse.Namespace) -> int:
    from moises_light.training import loop
    from moises_light.training.mixing import dataset_of

    given = {field.name: getattr(args, field.name) for field in fields(TrainConfig)}
    config = loop.saved_config(args.folder) if args.export else TrainConfig(**given)
    dataset = dataset_of(config, args.corpus)
    if args.threads:
        torch.set_num_threads(args.threads)
    # shares of attention below 1e-38 are zero anyway, and CPUs are slow with them
    torch.set_flush_denormal(True)
    # all examples have one shape: cuDNN may try its kernels once and keep the fastest
    torch.backends.cudnn.benchmark = args.device == "cuda"
    if args.export:
        tell(str(loop.export(args.folder, dataset, device=args.device)))
        return 0
    first = loop.current_rank() == 0
    track = tensorboard(args.folder) if args.tensorboard and first else _print
    with _plain_errors():
        path = loop.train(
            config,
            dataset,
            args.folder,
            device=args.device,
            workers=args.workers,
            save_minutes=args.save_minutes,
            log_steps=args.log_steps,
            commit=_commit(),
            on_log=track,
        )
    if first:
        tell(str(path))
    return 0


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Errors of a run that a page of torch's own, or another command's advice, would hide."""
    try:
        yield
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            less = "give a larger --accumulate, or a smaller --batch-size"
            raise ValueError(one_line(error, less)) from error
        if isinstance(error, ValueError | OSError) and "in DataLoader worker" in str(error):
            last = str(error).strip().splitlines()[-1]  # above it lies the worker's traceback
            raise ValueError(last.removeprefix(f"{type(error).__name__}: ")) from error
        raise


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "material", type=Path, help="songs as MUSDB18-HQ, MUSDB18 or MoisesDB has, or a corpus"
    )
    parser.add_argument(
        "--preset",
        default=DEFAULT_PRESET,
        help="preset, or a .safetensors file (default: %(default)s)",
    )
    parser.add_argument("--checkpoints", type=Path, default=None, help="folder of the weights")
    parser.add_argument(
        "--estimates",
        type=Path,
        help="score this folder of stems instead: SONG/vocals.wav and so on, SONG being the way "
        "to the song from MATERIAL, written 'A - B' for A/B",
    )
    parser.add_argument(
        "--split", choices=SPLITS, default="heldout", help="of a corpus (default: %(default)s)"
    )
    parser.add_argument("--mono", action="store_true", help="fold every track to mono first")
    parser.add_argument(
        "--widen-mono",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let the network hear mono with made-up sides (default: it does)",
    )
    parser.add_argument(
        "--overlap", type=float, default=0.25, help="share of a segment (default: %(default)s)"
    )
    parser.add_argument("--segment", type=float, default=6.0, help="seconds (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    parser.add_argument(
        "--precision",
        default="float32",
        choices=PRECISIONS,
        help="of the network's transformers (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=at_least(0), default=0, help="threads of torch; its choice if 0"
    )
    parser.add_argument(
        "--bss-eval",
        action="store_true",
        help="also BSSEval v4 (needs the package museval and the program ffmpeg; takes minutes)",
    )
    parser.add_argument(
        "--rows",
        type=Path,
        help="also write every score to this file as it comes, a line of JSON each",
    )


def evaluate(args: argparse.Namespace) -> int:
    from moises_light.model import MoisesLight
    from moises_light.separation import Separator
    from moises_light.training import evaluate as scores

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.estimates is not None and not args.estimates.is_dir():
        raise ValueError(f"there is no folder {args.estimates}; give one of SONG/vocals.wav files")
    if args.estimates is not None and args.mono:
        raise ValueError(
            "--mono folds the tracks, not the estimates; give it without --estimates, "
            "or mono tracks and their stems"
        )
    separator = None
    if args.estimates is None:
        model = MoisesLight.from_pretrained(args.preset, args.checkpoints)
        model.set_precision(args.precision)
        separator = Separator(
            model,
            segment=args.segment,
            overlap=args.overlap,
            device=args.device,
            widen_mono=args.widen_mono,
        )
    if any((args.material / split / "index.jsonl").is_file() for split in SPLITS):
        tracks = scores.corpus_tracks(args.material, args.split, args.estimates)
    else:
        tracks = scores.song_folders(args.material, args.estimates)
    if args.mono:
        tracks = scores.in_mono(tracks)
    if args.rows:  # a wrong folder is told before the work, not after it
        args.rows.parent.mkdir(parents=True, exist_ok=True)
        args.rows.open("a").close()
    fresh = True  # earlier rows make way for the first new one, and for no wrong folder

    def on_track(name: str, rows: list[dict[str, Any]]) -> None:
        nonlocal fresh
        told = ", ".join(f"{row['source']} {row['sdr']:.2f} dB" for row in rows)
        say(f"{name}: {told or 'no source to score'}")
        if args.rows:
            if fresh:
                args.rows.write_text("")
            fresh = False
            scores.append_rows(rows, args.rows)

    rows = scores.evaluate(tracks, separator, args.estimates, args.bss_eval, on_track)
    say(f"scored: {args.estimates or args.preset}")
    for line in scores.table(scores.summary(rows)).splitlines():
        tell(line)
    return 0


def _print(row: dict[str, Any]) -> None:
    hidden = ("lr", "skipped")
    tell("  ".join(f"{k} {v}" for k, v in row.items() if k not in hidden))


def tensorboard(folder: Path) -> Callable[[dict[str, Any]], None]:
    """Print every line of the log, and write its numbers for TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("--tensorboard needs the package tensorboard; install it first") from None
    writer = SummaryWriter(str(folder / "tensorboard"))

    def log(row: dict[str, Any]) -> None:
        _print(row)
        for key, value in row.items():
            if key != "step":
                writer.add_scalar(f"train/{key}", value, row["step"])
        writer.flush()

    return log


def _commit() -> str:
    """Commit of the code, where it lies in a checkout; changes since are told by `-dirty`."""
    here = Path(__file__)

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", *command],
            cwd=here.parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return done.stdout.strip()

    try:
        # installed below somebody's repository, it is no part of that
        git("ls-files", "--error-unmatch", here.name)
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/*.py")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}-dirty" if changed else commit


def main() -> int:
    """`python -m moises_light.training.cli`, what `torchrun` starts."""
    parser = argparse.ArgumentParser(prog="moises-light train")
    add_train_arguments(parser)
    return train(parser.parse_args())


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
