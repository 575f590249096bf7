"""How well a network separates: SDR and SI-SDR over whole tracks, beside two floors.

The floors are what costs nothing: silence (0 dB by definition) and the mixture itself as the
estimate of every source.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moises_light.config import SOURCES
from moises_light.metrics import energy_at_silence, sdr, si_sdr
from moises_light.separation import Separator
from moises_light.training.corpus import BACKING, SAMPLE_RATE, Corpus
from moises_light.training.songs import by_loss, find_songs, load, read_mixture, read_song, refuse

QUIET = -60.0
"""Level in dB under which a source counts as absent from a track: its SDR would mean nothing."""

LONGER = 0.1
"""Seconds by which an estimate may differ from its track in length; encoders pad by less."""

ACCOMPANIMENT = "accompaniment"
"""Everything but the vocals. Its estimate is the mixture less that of the vocals."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredTrack:
    """A track whose sources are known: mixture `[C, L]`, sources `[C, L]` by name."""

    name: str
    mixture: Tensor
    sources: dict[str, Tensor]


def song_folders(folder: Path, estimates: Path | None = None) -> Iterator[ScoredTrack]:
    """Songs as MUSDB18-HQ, MUSDB18 and MoisesDB have them, see `songs`.

    `mixture.*` is used where it is there, else the sum. A song without one of the sources has
    silence in its place.

    Args:
        folder: of the songs.
        estimates: folder that must hold stems of each of them.

    Raises:
        ValueError: where no song is found, a file is damaged or cannot be read, or estimates are
            missing.
    """
    found = find_songs(folder)
    _expect(estimates, [song.name for _, song in found])
    for path, song in found:
        sources = {s: torch.from_numpy(x) for s, x in read_song(path, song, refuse).items()}
        length = max(x.shape[-1] for x in sources.values())
        mixture = sum(sources.values(), torch.zeros(2, length))
        whole = read_mixture(path, song, refuse)
        if whole is not None:
            mixture = fit(torch.from_numpy(whole), length)
        yield ScoredTrack(song.name, mixture, sources)


def _expect(estimates: Path | None, names: Iterable[str]) -> None:
    """Say before the work which tracks have no estimates: others' means are over other tracks."""
    if estimates is None:
        return
    missing = [n for n in names if not any(_stem(estimates / n, s) for s in SOURCES)]
    if missing:
        raise ValueError(
            f"{estimates} holds no stem of {', '.join(map(repr, missing[:3]))}"
            f"{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}; "
            f"give files such as {missing[0]}/vocals.wav"
        )


def fit(audio: Tensor, length: int) -> Tensor:
    """Cut, or end in silence, to `length` samples: `[C, L] -> [C, length]`."""
    return torch.nn.functional.pad(audio, (0, length - audio.shape[-1]))


def _stem(folder: Path, source: str) -> Path | None:
    """The file of a source, one without loss where there are several."""
    paths = [p for p in sorted(folder.glob(f"{source}.*")) if p.stem == source]
    return next(iter(by_loss(paths)), None)


def corpus_tracks(
    folder: Path, split: str = "heldout", estimates: Path | None = None
) -> Iterator[ScoredTrack]:
    """Tracks of a corpus that speak for all sources, whole; `estimates` as in `song_folders`.

    So do those with a backing: for the vocals, and for the rest in one.
    """
    corpus = Corpus(folder, split)
    tracks = [t for t in corpus.tracks if len(t.present) == len(SOURCES) or BACKING in t.rows]
    _expect(estimates, [track.name for track in tracks])
    for track in tracks:
        rows = {s: torch.from_numpy(corpus.read(track, s, 0, track.frames)) for s in track.rows}
        mixture = sum(rows.values(), torch.zeros(2, track.frames))
        rows.pop(BACKING, None)  # no network has an estimate of it but through the accompaniment
        yield ScoredTrack(track.name, mixture, rows)


def in_mono(tracks: Iterable[ScoredTrack]) -> Iterator[ScoredTrack]:
    """The same tracks as old records and microphones give them: both channels are their mean."""

    def fold(audio: Tensor) -> Tensor:
        return audio.mean(0, keepdim=True).repeat(len(audio), 1)

    for track in tracks:
        sources = {source: fold(x) for source, x in track.sources.items()}
        yield ScoredTrack(track.name, fold(track.mixture), sources)


def evaluate(
    tracks: Iterable[ScoredTrack],
    separator: Separator | None,
    estimates: Path | None = None,
    bss_eval: bool = False,
    on_track: Callable[[str, list[dict[str, Any]]], object] = lambda name, rows: None,
) -> list[dict[str, Any]]:
    """Score every track.

    Args:
        tracks: to score.
        separator: of the network, or None where `estimates` are given.
        estimates: folder of stems by somebody else, `<track>/<source>.wav`. Sources that it lacks
            in a track are told and not scored.
        bss_eval: also give the SDR of BSSEval v4, median over frames of a second; takes minutes a
            track, the package `museval` and the programs ffmpeg and ffprobe.
        on_track: called with the name of each track that is done, and its rows.

    Returns:
        a row for each track and source, and for the accompaniment where the vocals are scored:
        `track`, `source`, `sdr`, `si_sdr`, `mixture_sdr`,
        `at_silence` (see `energy_at_silence`; None where the source never rests), and `bss_sdr` if
        asked for (None where museval has no value for any frame or the estimate is silence; not of
        the accompaniment), in dB. Sources that are absent from a track have no row.

    Raises:
        ValueError: if `estimates` holds no stem of a track: a mean over the others would compare
            with nothing. If an estimate is not as long as its track, a stem is damaged or cannot
            be read, the network has another sample rate than tracks are read at, or what BSSEval
            needs is not there.
    """
    rows: list[dict[str, Any]] = []
    if separator is not None and separator.sample_rate != SAMPLE_RATE:
        raise ValueError(
            f"the network is for {separator.sample_rate} Hz, tracks are read at {SAMPLE_RATE} Hz; "
            f"separate them yourself and give the stems as estimates"
        )
    if bss_eval:
        _import_museval()
    for track in tracks:
        if separator is not None:
            stems = separator(track.mixture)
            found = dict(zip(separator.sources, stems, strict=True))
        else:
            assert estimates is not None
            paths = {s: p for s in SOURCES if (p := _stem(estimates / track.name, s))}
            found = {s: torch.from_numpy(load(p, refuse)) for s, p in paths.items()}
            _expect(estimates, [] if found else [track.name])
            _check_lengths(track, found)
        pairs = {
            source: (reference, fit(found[source], reference.shape[-1]))
            for source, reference in track.sources.items()
            if _level(reference) >= QUIET and source in found
        }
        for source, reference in track.sources.items():
            if estimates is not None and source not in found and _level(reference) >= QUIET:
                _log.warning("%s: no estimate of %s, not scored", track.name, source)
        medians = _bss_eval(pairs) if bss_eval and pairs else {}
        if "vocals" in pairs:
            reference, estimate = (track.mixture - vocals for vocals in pairs["vocals"])
            if _level(reference) >= QUIET:
                pairs[ACCOMPANIMENT] = (reference, estimate)
        scored = [
            {
                "track": track.name,
                "source": source,
                "sdr": round(float(sdr(reference, estimate)), 3),
                "si_sdr": round(float(si_sdr(reference, estimate)), 3),
                "mixture_sdr": round(float(sdr(reference, track.mixture)), 3),
                "at_silence": energy_at_silence(reference, estimate, track.mixture),
                **({"bss_sdr": medians[source]} if source in medians else {}),
            }
            for source, (reference, estimate) in pairs.items()
        ]
        rows += scored
        on_track(track.name, scored)
    return rows


def _check_lengths(track: ScoredTrack, estimates: dict[str, Tensor]) -> None:
    """Refuse an estimate of another length: of another song, or of a part of this one."""
    whole = track.mixture.shape[-1] / SAMPLE_RATE
    for source, estimate in estimates.items():
        seconds = estimate.shape[-1] / SAMPLE_RATE
        if abs(seconds - whole) > LONGER:
            raise ValueError(
                f"{track.name}: the estimate of {source} lasts {seconds:.2f} s, the track "
                f"{whole:.2f} s; give one of the whole track"
            )


def _level(audio: Tensor) -> float:
    return 10 * float(torch.log10(audio.square().mean() + 1e-12))


def _import_museval() -> Any:
    try:
        import museval
    except (ImportError, RuntimeError) as error:  # it raises where ffmpeg is missing
        raise ValueError(
            f"BSSEval needs the package museval and the program ffmpeg ({error}); "
            f"install both, or leave --bss-eval out"
        ) from None
    return museval


def _bss_eval(pairs: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float | None]:
    """SDR of BSSEval v4 for each source: the median over frames of one second, in dB.

    None where no frame has a value: museval gives NaN for all frames in which a source is silent,
    and refuses an estimate that is silent throughout. One source has no part in another's SDR.
    """
    museval = _import_museval()
    silent = dict.fromkeys(s for s, (_, estimate) in pairs.items() if not estimate.any())
    pairs = {source: pair for source, pair in pairs.items() if source not in silent}
    if not pairs:
        return silent
    references, estimates = (
        torch.stack([pair[k].T for pair in pairs.values()]).double().numpy() for k in (0, 1)
    )
    frames = museval.evaluate(references, estimates, win=SAMPLE_RATE, hop=SAMPLE_RATE)[0]
    valued = [frame[~np.isnan(frame)] for frame in np.asarray(frames)]
    middles = [round(float(np.median(x)), 3) if len(x) else None for x in valued]
    return {**silent, **dict(zip(pairs, middles, strict=True))}


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Over tracks, for each source: `{"vocals": {"tracks": ..., "sdr": ..., "mixture_sdr": ...}}`.

    The number of tracks, and the mean of everything but `bss_sdr`, whose custom is the median.
    """
    result: dict[str, dict[str, float]] = {}
    for source in (*SOURCES, ACCOMPANIMENT):
        for key in ("sdr", "si_sdr", "mixture_sdr", "at_silence", "bss_sdr"):
            values = [r[key] for r in rows if r["source"] == source and r.get(key) is not None]
            if values:
                middle = median if key == "bss_sdr" else mean
                row = result.setdefault(source, {"tracks": len(values)})
                row[key] = round(middle(values), 2)
    return result


def table(result: dict[str, dict[str, float]]) -> str:
    """The summary as a table for a terminal or a page of Markdown."""
    columns = {
        "sdr": "SDR",
        "si_sdr": "SI-SDR",
        "bss_sdr": "BSSEval v4 SDR",
        "": "floor: silence",
        "mixture_sdr": "floor: the mixture",
        "at_silence": "left over where it rests",
    }
    columns = {k: v for k, v in columns.items() if not k or any(k in r for r in result.values())}
    head = ["source", "tracks", *columns.values()]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for source, row in result.items():
        values = {"": 0.0, **row}
        cells = [f"{values[key]:.2f} dB" if key in values else "-" for key in columns]
        lines.append(" | ".join([f"| {source}", f"{row['tracks']}", *cells]) + " |")
    return "\n".join(lines)


def append_rows(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
