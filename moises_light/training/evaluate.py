"""How well a network separates: SDR and SI-SDR over whole tracks, beside two floors.

The floors are what costs nothing: silence (0 dB by definition) and the mixture itself as the
estimate of every source.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from moises_light import audio
from moises_light.config import SOURCES
from moises_light.metrics import sdr, si_sdr
from moises_light.separation import Separator
from moises_light.training.corpus import Corpus

QUIET = -60.0
"""Level in dB under which a source counts as absent from a track: its SDR would mean nothing."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredTrack:
    """A track whose sources are known: mixture `[C, L]`, sources `[C, L]` by name."""

    name: str
    mixture: Tensor
    sources: dict[str, Tensor]


def song_folders(folder: Path) -> Iterator[ScoredTrack]:
    """Songs as MUSDB18-HQ has them: a folder each, one file a source.

    `mixture.*` is used where it is there, else the sum. A song without one of the sources has
    silence in its place. Raises `ValueError` where no song is found.
    """
    paths = sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    paths = [p for p in paths if any(_stem(p, source) for source in SOURCES)] or (
        [folder] if any(_stem(folder, source) for source in SOURCES) else []
    )
    if not paths:
        raise ValueError(f"{folder} holds no song folder with files such as vocals.wav")
    for path in paths:
        sources = {s: audio.load(file) for s in SOURCES if (file := _stem(path, s))}
        length = max(x.shape[-1] for x in sources.values())
        sources = {
            s: torch.nn.functional.pad(x, (0, length - x.shape[-1])) for s, x in sources.items()
        }
        whole = _stem(path, "mixture")
        mixture = sum(sources.values(), torch.zeros(2, length))
        if whole:
            mixture = audio.load(whole)[:, :length]
            mixture = torch.nn.functional.pad(mixture, (0, length - mixture.shape[-1]))
        yield ScoredTrack(path.name, mixture, sources)


def _stem(folder: Path, source: str) -> Path | None:
    return next(iter(sorted(folder.glob(f"{source}.*"))), None)


def corpus_tracks(folder: Path, split: str = "heldout") -> Iterator[ScoredTrack]:
    """Tracks of a corpus, whole."""
    corpus = Corpus(folder, split)
    for track in corpus.tracks:
        if len(track.present) < len(SOURCES):
            continue
        sources = {s: torch.from_numpy(corpus.read(track, s, 0, track.frames)) for s in track.rows}
        yield ScoredTrack(track.name, sum(sources.values(), torch.zeros(2, track.frames)), sources)


def evaluate(
    tracks: Iterable[ScoredTrack], separator: Separator | None, estimates: Path | None = None
) -> list[dict[str, Any]]:
    """Score every track.

    Args:
        tracks: to score.
        separator: of the network, or None where `estimates` are given.
        estimates: folder of stems by somebody else, `<track>/<source>.wav`.

    Returns:
        a row for each track and source: `track`, `source`, `sdr`, `si_sdr`, `mixture_sdr` in dB.
        Sources that are absent from a track have no row.
    """
    rows = []
    for track in tracks:
        if separator is not None:
            stems = separator(track.mixture)
            found = dict(zip(separator.sources, stems, strict=True))
        else:
            assert estimates is not None
            found = {s: audio.load(p) for s in SOURCES if (p := _stem(estimates / track.name, s))}
        for source, reference in track.sources.items():
            level = 10 * float(torch.log10(reference.square().mean() + 1e-12))
            if level < QUIET or source not in found:
                continue
            estimate = found[source][:, : reference.shape[-1]]
            estimate = torch.nn.functional.pad(
                estimate, (0, reference.shape[-1] - estimate.shape[-1])
            )
            rows.append(
                {
                    "track": track.name,
                    "source": source,
                    "sdr": round(float(sdr(reference, estimate)), 3),
                    "si_sdr": round(float(si_sdr(reference, estimate)), 3),
                    "mixture_sdr": round(float(sdr(reference, track.mixture)), 3),
                }
            )
        _log.info("%s done", track.name)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean over tracks, for each source: `{"vocals": {"sdr": ..., "mixture_sdr": ...}}`."""
    result: dict[str, dict[str, float]] = {}
    for source in SOURCES:
        of_source = [row for row in rows if row["source"] == source]
        if of_source:
            result[source] = {
                key: round(mean(row[key] for row in of_source), 2)
                for key in ("sdr", "si_sdr", "mixture_sdr")
            }
    return result


def table(result: dict[str, dict[str, float]]) -> str:
    """The summary as a table for a terminal or a page of Markdown."""
    lines = [
        "| source | SDR | SI-SDR | floor: silence | floor: the mixture |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {source} | {row['sdr']:.2f} dB | {row['si_sdr']:.2f} dB "
        f"| 0 dB | {row['mixture_sdr']:.2f} dB |"
        for source, row in result.items()
    ]
    return "\n".join(lines)


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
