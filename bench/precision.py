"""What bfloat16 gains and costs here: `python -m bench.precision [SONG] [--presets NAME ...]`.

Both precisions of the same weights take turns in one process, segment by segment of six seconds
from all over the song. Prints seconds a segment (median), the median of the ratios, and how many dB
below each stem the difference lies, over all segments together.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from moises_light import MoisesLight, audio
from moises_light.terminal import at_least, exit_code
from moises_light.weights import available

SECONDS = 6.0
"""Length of a segment, as separation takes them."""


def segments(song: Path, count: int) -> list[Tensor]:
    """Evenly spread over the song, `[1, 2, l]` each."""
    whole = audio.load(song)
    length = min(round(SECONDS * 44100), whole.shape[-1])
    starts = [round(k * (whole.shape[-1] - length) / max(1, count - 1)) for k in range(count)]
    return [whole[None, :, start : start + length] for start in starts]


@torch.inference_mode()
def compare(
    model: MoisesLight, pieces: Sequence[Tensor]
) -> tuple[list[float], list[float], list[float]]:
    """Seconds in float32 and in bfloat16, by segment, and the distance of each source in dB."""
    seconds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    energy, error = (torch.zeros(len(model.sources)) for _ in range(2))
    for number, piece in enumerate([pieces[0], *pieces]):  # the first one warms up
        given = {}
        for precision, times in seconds.items():
            model.set_precision(precision)
            begun = time.perf_counter()
            given[precision] = model(piece)[0]
            times.append(time.perf_counter() - begun)
        if number:
            energy += given["float32"].square().sum((1, 2))
            error += (given["float32"] - given["bfloat16"]).square().sum((1, 2))
    distance = 10 * torch.log10(energy / error.clamp(min=1e-20))
    return seconds["float32"][1:], seconds["bfloat16"][1:], distance.tolist()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.precision")
    parser.add_argument("song", type=Path, nargs="?", default=Path("examples/francium.mp3"))
    parser.add_argument("--presets", nargs="*", help="default: all with weights")
    parser.add_argument("--segments", type=at_least(1), default=8)
    parser.add_argument("--threads", type=at_least(1), default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    pieces = segments(options.song, options.segments)
    print("| preset | float32 | bfloat16 | ratio | difference below the stems, in dB |")
    print("|---|---|---|---|---|")
    for preset in options.presets or available():
        model = MoisesLight.from_pretrained(preset)
        plain, fast, distance = compare(model, pieces)
        ratio = median(b / a for a, b in zip(plain, fast, strict=True))
        told = ", ".join(f"{s} {x:.1f}" for s, x in zip(model.sources, distance, strict=True))
        print(
            f"| `{preset}` | {median(plain):.2f} s | {median(fast):.2f} s | {ratio:.2f} | {told} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
