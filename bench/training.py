"""How fast a training step is: ours and the reference, interleaved in one process, same weights.

Both take the loss on the waveform, so that both do the same work; a third row is our own loop's
objective, which needs no inverse STFT, in bfloat16.

    python -m bench.training [--threads N] [--runs N] [--preset NAME]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from bench.reference import load_reference
from moises_light import MoisesLight, configs
from moises_light.terminal import at_least
from moises_light.training.losses import Objective
from moises_light.weights import from_reference


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=at_least(1), default=torch.get_num_threads())
    parser.add_argument("--runs", type=at_least(1), default=5)
    parser.add_argument("--preset", default="paper_small", choices=list(configs))
    parser.add_argument("--examples", type=at_least(1), default=2)
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    reference, reference_configs = load_reference()
    theirs = reference(**reference_configs[args.preset]).train()
    ours = MoisesLight(**configs[args.preset]).train()
    ours.load_state_dict(from_reference(theirs.state_dict()))
    length = 127 * 1024
    sources = 0.1 * torch.randn(args.examples, 4, 2, length)
    mixture = sources.sum(1)
    objective = Objective(ours, "snr", bf16=True)

    def waveform(model: torch.nn.Module, bf16: bool) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            estimate = model(mixture)
        return (estimate.float() - sources).abs().mean()

    kinds = {
        "reference, float32": (theirs, lambda: waveform(theirs, False)),
        "ours, float32": (ours, lambda: waveform(ours, False)),
        "reference, bfloat16": (theirs, lambda: waveform(theirs, True)),
        "ours, bfloat16": (ours, lambda: waveform(ours, True)),
        "ours, the loop's objective": (ours, lambda: objective(mixture, sources).mean()),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for run in range(args.runs + 1):
        for kind, (model, loss) in kinds.items():
            begun = time.perf_counter()
            loss().backward()
            if run:  # the first one warms up
                seconds[kind].append(time.perf_counter() - begun)
            model.zero_grad()
    first = seconds["reference, float32"]
    print(
        f"{args.preset}, {args.examples} examples of {length / 44100:.1f} s, {args.threads} threads"
    )
    print("| step | seconds | of the reference's |\n|---|---|---|")
    for kind, times in seconds.items():
        share = median(t / f for t, f in zip(times, first, strict=True))
        print(f"| {kind} | {median(times):.2f} | {share:.2f} |", flush=True)


if __name__ == "__main__":
    main()
