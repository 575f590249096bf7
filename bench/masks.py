"""Masks as pictures: `python -m bench.masks SONG OUT.jpg [--weights FILE ...] [--start S]`.

A column for each file of weights, a row for the mixture and for each source: the share of each bin
that the network gave to the stem, black is nothing and white is all, from 30 Hz to 22 kHz on a
logarithmic axis. Shows what a loss taught, and what it did not.
"""

from __future__ import annotations

from moises_light.terminal import run_main

if __name__ == "__main__":  # above the imports: what is not installed is one line
    raise SystemExit(run_main("bench.masks"))

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from moises_light import audio, weights
from moises_light.separation import Separator
from moises_light.ui.plots import levels, power, shares

WIDTH, HEIGHT = 480, 180


def column(model_file: Path, mixture: torch.Tensor) -> Image.Image:
    """The mixture and the masks of one network, one below the other."""
    model = weights.load_pretrained(model_file)
    separator = Separator(model)
    stems = separator(mixture)
    config = model.config
    whole = power(mixture.T[:, None].numpy(), config)
    masks = shares(power(stems.permute(2, 0, 1).numpy(), config), whole)
    spectrum = levels(whole[0], float(whole.max()))
    rows = {f"{model_file}: mixture, 80 dB": spectrum}
    for source, mask in zip(separator.sources, masks, strict=True):
        rows[source] = mask.mul(255).byte().numpy()
    page = Image.new("L", (WIDTH, HEIGHT * len(rows)))
    for number, (title, shade) in enumerate(rows.items()):
        # low frequencies come first and belong at the bottom
        panel = Image.fromarray(np.ascontiguousarray(shade[::-1])).resize((WIDTH, HEIGHT))
        draw = ImageDraw.Draw(panel)
        draw.rectangle((0, 0, 8 + draw.textlength(title), 13), fill=0)
        draw.text((4, 1), title, fill=255)
        page.paste(panel, (0, number * HEIGHT))
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.masks")
    parser.add_argument("song", type=Path, help="that no training has seen")
    parser.add_argument("out", type=Path, help="picture to write, .png or .jpg")
    parser.add_argument(
        "--weights", type=Path, nargs="+", default=[Path("checkpoints/paper_small.safetensors")]
    )
    parser.add_argument("--start", type=float, default=0.0, help="seconds to leave out")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the part")
    options = parser.parse_args(arguments)
    mixture = audio.load(options.song, start=options.start, seconds=options.seconds)
    columns = [column(path, mixture) for path in options.weights]
    page = Image.new("L", (WIDTH * len(columns), columns[0].height))
    for number, picture in enumerate(columns):
        page.paste(picture, (number * WIDTH, 0))
    page.save(options.out, quality=85)
    return 0
