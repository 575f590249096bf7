"""How fast ours and the reference separate: interleaved in one process, the same weights.

python -m bench.speed [--threads N] [--runs N] [--presets NAME ...]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from bench.reference import load_reference
from moises_light import MoisesLight, configs
from moises_light.terminal import at_least
from moises_light.weights import from_reference


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=at_least(1), default=torch.get_num_threads())
    parser.add_argument("--runs", type=at_least(1), default=7)
    parser.add_argument("--seconds", type=float, default=6.0, help="of audio")
    parser.add_argument("--presets", nargs="*", default=list(configs))
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    reference, reference_configs = load_reference()
    x = 0.1 * torch.randn(1, 2, round(args.seconds * 44100))
    print(f"{args.seconds:g} s of stereo audio, {args.threads} threads, median of {args.runs} runs")
    print(
        "| preset | reference | ours | ratio | largest difference / peak |\n|---|---|---|---|---|"
    )
    for preset in args.presets:
        torch.manual_seed(0)
        theirs = reference(**reference_configs[preset]).eval()
        ours = MoisesLight(**configs[preset])
        ours.load_state_dict(from_reference(theirs.state_dict()))
        ours.eval()
        seconds: tuple[list[float], list[float]] = ([], [])
        with torch.inference_mode():
            outputs = [theirs(x), ours(x)]  # warm up
            for _ in range(args.runs):
                for model, times in zip((theirs, ours), seconds, strict=True):
                    begun = time.perf_counter()
                    model(x)
                    times.append(time.perf_counter() - begun)
        difference = (outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max()
        a, b = median(seconds[0]), median(seconds[1])
        ratio = median(r / o for r, o in zip(*seconds, strict=True))
        print(
            f"| `{preset}` | {a:.2f} s | {b:.2f} s | x{ratio:.2f} | {difference:.1e} |", flush=True
        )


if __name__ == "__main__":
    main()
