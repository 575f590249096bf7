"""A page of pictures of tracks: `python -m bench.pictures CORPUS OUT.png [--split S] [NAME ...]`.

A row for each source: spectrogram of the first half minute, 30 Hz to 20 kHz on a logarithmic axis,
80 dB from black to white, with the row's level and tags.
"""

from __future__ import annotations

from moises_light.terminal import run_main

if __name__ == "__main__":  # above the imports: what is not installed is one line
    raise SystemExit(run_main("bench.pictures"))

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import signal

from moises_light.config import SOURCES
from moises_light.training.corpus import SAMPLE_RATE, SPLITS, Corpus, Track

WIDTH, HEIGHT, SECONDS = 900, 150, 30


def spectrogram(audio: np.ndarray) -> np.ndarray:
    """Picture of `[C, L]` audio, `[HEIGHT, WIDTH]` from 0 to 1, high frequencies on top."""
    hop = max(256, audio.shape[1] // WIDTH)
    f, _, bins = signal.stft(
        audio.mean(axis=0), SAMPLE_RATE, nperseg=4096, noverlap=4096 - min(hop, 4095)
    )
    level = 20 * np.log10(np.abs(bins) + 1e-7)
    rows = np.searchsorted(f, np.geomspace(30, 20000, HEIGHT)).clip(0, len(f) - 1)[::-1]
    columns = np.linspace(0, level.shape[1] - 1, WIDTH).astype(int)
    return ((level[rows][:, columns] + 110) / 80).clip(0, 1)


def picture(corpus: Corpus, track: Track) -> np.ndarray:
    """All sources of one track, one below the other, RGB `[4 HEIGHT, WIDTH, 3]`."""
    rows = []
    for source in SOURCES:
        frames = min(track.frames, SECONDS * SAMPLE_RATE)
        shade = spectrogram(corpus.read(track, source, 0, frames))
        image = Image.fromarray(
            (255 * np.stack([shade**0.7, shade**1.5, shade**3], axis=-1)).astype(np.uint8)
        )
        level = f"{track.level[source]:.0f} dB" if source in track.rows else "silent"
        text = f"{track.name}  {source}  {level}  {' '.join(track.tags)}"
        ImageDraw.Draw(image).text((4, 2), text, fill="white")
        rows.append(np.array(image))
    return np.concatenate(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.pictures")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("names", nargs="*", help="tracks; the first two without any")
    parser.add_argument("--split", default="train", choices=SPLITS)
    options = parser.parse_args(arguments)
    corpus = Corpus(options.corpus, options.split)
    tracks = [t for t in corpus.tracks if t.name in options.names] or corpus.tracks[:2]
    page = np.concatenate([picture(corpus, track) for track in tracks])
    Image.fromarray(page).save(options.out)
    return 0
