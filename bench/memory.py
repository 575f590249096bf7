"""Peak memory over the length of a song: `python -m bench.memory`.

A song is written to a file, then read, separated and written as flac stems as the command line does
it, each length in a fresh process. What a process holds before the song begins (Python, torch, the
network) is told apart from what the song adds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moises_light import MoisesLight, configs
from moises_light.audio import StemWriter, Writer, stream
from moises_light.separation import Separator
from moises_light.terminal import at_least

TINY = replace(configs["paper_small"], G=8, n_rope=1, n_split_enc=1, freq_dim=512)


class Fake(nn.Module):
    """Four sources by arithmetic: shows the memory of everything but a network."""

    sources = TINY.sources
    sample_rate = TINY.sample_rate
    audio_channels = TINY.audio_channels

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack([mixture * share for share in (0.4, 0.3, 0.2, 0.1)], dim=1)


def network(name: str) -> Any:
    """`fake`, `tiny` or a preset; random weights, which take the memory of trained ones."""
    if name == "fake":
        return Fake()
    return MoisesLight(**(TINY if name == "tiny" else configs[name])).eval()


def peak() -> float:
    """The most memory that this process has held, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike getrusage, it starts anew with the process
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def song(seconds: int, rate: int) -> Iterator[Tensor]:
    """Noise that swells and fades, a second at a time."""
    generator = torch.Generator().manual_seed(0)
    for second in range(seconds):
        yield torch.randn(2, rate, generator=generator) * (0.02 + 0.08 * (second % 7) / 7)


def measure(name: str, minutes: float, batch_size: int) -> dict[str, float]:
    """Separate a song of so many minutes in this process."""
    model = network(name)
    separator = Separator(model, batch_size=batch_size)
    rate = separator.sample_rate
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "song.flac")
        with Writer(path, rate) as writer:
            for second in song(round(minutes * 60), rate):
                writer.write(second)
        before, start, first = peak(), time.perf_counter(), 0.0
        with StemWriter(Path(folder, "stems"), separator.sources, "flac", rate) as stems:
            for block in separator.blocks(stream(path, rate)):
                first = first or time.perf_counter() - start
                stems.write(block)
        seconds = time.perf_counter() - start
    return {
        "minutes": minutes,
        "before_mib": before,
        "peak_mib": peak(),
        "seconds": seconds,
        "first_block_seconds": first,
    }


def in_a_fresh_process(name: str, minutes: float, batch_size: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.memory", "--one", "--model", name]
    command += ["--batch-size", str(batch_size), "--minutes", str(minutes)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument(
        "--model", default="tiny", choices=["fake", "tiny", *configs], help="default: tiny"
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10], help="default: 1 10")
    parser.add_argument("--batch-size", type=at_least(1), default=1, help="default: 1")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.model, options.minutes[0], options.batch_size)))
        return
    print(f"{options.model}, segments of 6 s, batches of {options.batch_size}, MiB")
    print(f"{'minutes':>8} {'before':>8} {'peak':>8} {'song':>8} {'seconds':>8} {'first':>8}")
    for minutes in options.minutes:
        row = in_a_fresh_process(options.model, minutes, options.batch_size)
        print(
            f"{row['minutes']:8g} {row['before_mib']:8.0f} {row['peak_mib']:8.0f} "
            f"{row['peak_mib'] - row['before_mib']:8.0f} {row['seconds']:8.1f} "
            f"{row['first_block_seconds']:8.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
