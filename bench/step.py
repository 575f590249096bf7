"""A training step on this device: `python -m bench.step --device cuda [--compile]`.

Prints seconds and memory of forward and backward pass, as the loop takes them. With `--compile` it
compiles the step, compares its gradients with those of the plain one, then runs both interleaved
and prints the ratio; a compiled step whose gradients differ must not be used, however fast it is.
`--attention` keeps CUDA to one kind of attention, to find out whether that is what differs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import median

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from moises_light.model import MoisesLight
from moises_light.separation import device_of
from moises_light.terminal import at_least, exit_code
from moises_light.training.config import TrainConfig
from moises_light.training.loop import batch_norms, objective_of

KINDS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "any": nullcontext,
    "flash": lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION),
    "efficient": lambda: sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION),
    "cudnn": lambda: sdpa_kernel(SDPBackend.CUDNN_ATTENTION),
    "math": lambda: sdpa_kernel(SDPBackend.MATH),
}
"""Kinds of attention: where torch has several, it must use this one."""


def step_of(
    model: MoisesLight,
    frames: int,
    examples: int,
    bf16: bool,
    attention: Callable[[], AbstractContextManager[None]] = nullcontext,
    compiled: bool = False,
    backend: str = "inductor",
) -> Callable[[], Tensor]:
    """A function that takes a step on noise and returns all gradients as one vector."""
    device = next(model.parameters()).device
    config = TrainConfig(bf16=bf16, absent=0.3, highs=3.0, highs_of=("vocals", "other"))
    objective = objective_of(model, config)
    generator = torch.Generator().manual_seed(0)
    shape = (examples, 4, 2, (frames - 1) * model.config.hop_size)
    sources = (0.05 * torch.randn(shape, generator=generator)).to(device)
    mixture = sources.sum(1)
    if compiled:
        objective.compile(backend=backend)

    def step() -> Tensor:
        model.zero_grad()
        with attention():
            objective(mixture, sources).mean().backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return torch.cat(gradients)

    return step


def seconds_of(step: Callable[[], Tensor], device: str) -> float:
    begun = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.step", description=__doc__)
    parser.add_argument("--preset", default="paper_large", help="preset, or a .safetensors file")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--examples", type=at_least(1), default=12)
    parser.add_argument("--frames", type=int, default=192)
    parser.add_argument("--runs", type=at_least(1), default=7)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--attention", default="any", choices=KINDS)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args(arguments)
    torch.backends.cudnn.benchmark = options.device == "cuda"
    model = MoisesLight.from_pretrained(options.preset).to(device_of(options.device)).train()
    for norm in batch_norms(model):
        norm.eval()
    given = (model, options.frames, options.examples, options.bf16, KINDS[options.attention])
    steps = {"plain": step_of(*given)}
    if options.compile:
        steps["compiled"] = step_of(*given, compiled=True)
        begun = time.perf_counter()
        gradients = {kind: step() for kind, step in steps.items()}
        print(f"first steps, compiler included: {time.perf_counter() - begun:.0f} s")
        error = (gradients["compiled"] - gradients["plain"]).norm() / gradients["plain"].norm()
        print(f"gradients of the compiled step differ by {float(error):.2g} of their length")
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for run in range(options.runs + 1):
        for kind, step in steps.items():
            taken = seconds_of(step, options.device)
            if run:  # the first one warms up
                seconds[kind].append(taken)
    for kind, values in seconds.items():
        ratio = median(values) / median(seconds["plain"])
        print(f"{kind}: {median(values):.3f} s, {ratio:.2f} of the plain step's time")
    if options.device == "cuda":
        print(f"memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
