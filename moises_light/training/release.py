"""From a run to a checkpoint: score the weights, write them with their card.

    python -m moises_light.training.release runs/NAME/model.safetensors \\
        --validation FOLDER_OF_SONGS --corpus corpus --notes "..."

writes `checkpoints/<preset>.safetensors` and the card `checkpoints/<preset>.md`, with the scores of
the checkpoint that it replaces beside its own, where both are of the same tracks.

A checkpoint can be scored again, for instance on a set that joined since:

    python -m moises_light.training.release checkpoints/paper_small.safetensors \\
        --validation FOLDER_OF_SONGS --corpus corpus --sets backed
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from moises_light import weights
from moises_light.config import configs
from moises_light.model import MoisesLight
from moises_light.separation import Separator
from moises_light.terminal import exit_code
from moises_light.training import evaluate
from moises_light.training.config import TrainConfig
from moises_light.training.corpus import BACKED_SPLITS, ROWS, Corpus, hours, licences_of
from moises_light.training.history import UNTOLD, earlier_runs

SETS = {
    "validation": "whole songs that no training has heard",
    "backed": "singers before real music, takes and music that no training has heard",
    "in_key": "the same singers and music, every phrase moved into the key of what plays behind it",
    "rendered": "the held-out split of the corpus: instruments, singers and seeds of its own",
}

Scores = dict[str, dict[str, dict[str, float]]]


KEYS = ("sdr", "mixture_sdr", "at_silence", "tracks")
"""What a card has of each source of each set."""


def score(
    model: MoisesLight,
    validation: Path,
    corpus: Path,
    segment: float,
    device: str = "cpu",
    sets: Collection[str] = (),
) -> Scores:
    """Score the network on sets of `SETS`: `{set: {source: {"sdr": ..., "mixture_sdr": ...}}}`.

    Without `sets` it is all of them, but for `backed` and `in_key` where the corpus has none.

    Raises:
        ValueError: if there are no songs, or the corpus lacks a split.
    """
    separator = Separator(model, segment=segment, device=device)
    splits = {"backed": "backed", "in_key": "in_key", "rendered": "heldout"}
    may_lack = [name for name in BACKED_SPLITS if not (corpus / name).is_dir()]
    wanted = list(sets) or [name for name in SETS if name not in may_lack]
    for split in (splits[name] for name in wanted if name in splits):
        Corpus(corpus, split)  # what is missing is told before the work
    tracks = {name: evaluate.corpus_tracks(corpus, split) for name, split in splits.items()}
    tracks["validation"] = evaluate.song_folders(validation)
    return {name: evaluate.summary(evaluate.evaluate(tracks[name], separator)) for name in wanted}


def make_card(card: Mapping[str, Any], scores: Scores, corpus: Path, notes: str) -> dict[str, Any]:
    """The card of a run, with its scores, its data and their licences."""
    tracks = Corpus(corpus, "train").tracks
    licences = licences_of(corpus, {name for track in tracks for name in track.material})
    return {
        **card,
        "earlier_runs": earlier_runs(card),
        **_by_key(scores),
        "hours": {s: round(hours(tracks, s), 2) for s in ROWS},
        "licences": sorted({row[-1] for found in licences.values() for row in found}),
        "unlicensed": sorted(name for name, found in licences.items() if not found),
        "notes": notes,
    }


def scored_again(card: Mapping[str, Any], scores: Scores, notes: str | None) -> dict[str, Any]:
    """A card of before with other scores of these sets, and other notes if they are given."""
    new = _by_key(scores)
    return {
        **card,
        **{key: {**card.get(key, {}), **new[key]} for key in KEYS},
        **({} if notes is None else {"notes": notes}),
    }


def _by_key(scores: Scores) -> dict[str, dict[str, dict[str, float]]]:
    return {
        key: {
            name: {source: row[key] for source, row in rows.items() if key in row}
            for name, rows in scores.items()
        }
        for key in KEYS
    }


def card_text(preset: str, card: Mapping[str, Any]) -> str:
    """The card as a page of Markdown."""
    previous = card.get("previous")
    lines = [
        f"# `{preset}`",
        "",
        "Trained by this project from random weights. Signal-to-distortion ratio over whole "
        "tracks, in dB (Sound Demixing Challenge 2023), mean over the tracks in which the source "
        "plays. "
        "Two floors cost nothing: silence has 0 dB, the mixture itself has what its column says. "
        "Left over: energy of the stem relative to the mixture in seconds in which the source "
        "rests; lower is better.",
        "",
    ]
    for name, what in SETS.items():
        if name not in card["sdr"]:
            continue
        tracks = _tracks_text(card.get("tracks", {}).get(name))
        lines += [
            f"## {name.replace('_', ' ').capitalize()}: {what}{tracks}",
            "",
            "| source | SDR | silence | the mixture | previous checkpoint | left over |",
            "|---|---|---|---|---|---|",
        ]
        before = {}
        if previous is not None and _same_tracks(card, previous, name):
            before = previous["sdr"][name]
        for source, value in card["sdr"][name].items():
            lines.append(
                f"| {source} | {value:.2f} | 0 | {card['mixture_sdr'][name][source]:.2f} "
                f"| {_number(before.get(source))} "
                f"| {_number(card['at_silence'][name].get(source))} |"
            )
        lines.append("")
    hours_text = ", ".join(f"{row} {value:.1f}" for row, value in card["hours"].items() if value)
    lines += [
        "## Training",
        "",
        *(f"- first {_run_text(run)}" for run in card.get("earlier_runs", ())),
        f"- {_run_text(card)}",
        f"- hours in which a source plays in the corpus: {hours_text}",
        *_licence_lines(card),
        "- stored in half precision",
        "",
        "## Limits",
        "",
        card["notes"],
        "",
    ]
    return "\n".join(lines)


def _same_tracks(card: Mapping[str, Any], previous: Mapping[str, Any], name: str) -> bool:
    """Whether both were scored on the same tracks: what the mixture itself scores tells them.

    Older cards have no score of the accompaniment.
    """
    ours, theirs = (c.get("mixture_sdr", {}).get(name, {}) for c in (card, previous))
    if theirs.keys() | {evaluate.ACCOMPANIMENT} != ours.keys() | {evaluate.ACCOMPANIMENT}:
        return False
    return all(abs(ours[s] - theirs[s]) < 0.005 for s in ours.keys() & theirs.keys())


def _run_text(card: Mapping[str, Any]) -> str:
    if "run" not in card:
        return UNTOLD
    run = card["run"]
    size = (
        f"`{run['preset']}`, {card['steps']:,} steps of {run['batch_size']} examples of "
        f"{run['frames']} frames, {_time_text(card)}"
    )
    return _joined("; ", [size, _training_text(card), *_changes(card)])


def _training_text(card: Mapping[str, Any]) -> str:
    """What a run minimised, on which examples, and how."""
    run = card["run"]
    # older cards know no such weight, and then only that of vocals
    highs, highs_of = run.get("highs", 1.0), run.get("highs_of", ("vocals",))
    focus, focus_of = run.get("focus", 1.0), run.get("focus_of", ())
    weights_told = [
        f"absent sources weigh {run['absent']:g}",
        f"the highs of {' and '.join(highs_of)} {highs:g}" if highs != 1.0 else "",
        f"{' and '.join(focus_of)} {focus:g}" if focus != 1.0 else "",
    ]
    usual = TrainConfig.backings  # older cards name none
    backings = run.get("backings", usual)
    told = [
        f"loss `{run['loss']}` ({_joined(', ', weights_told)})",
        _teacher_text(run) if run.get("teacher") else "",
        f"{run['narrow']:.0%} of the examples narrow or mono" if run.get("narrow") else "",
        f"real songs count {run['songs']:g} times" if run.get("songs", 1.0) != 1.0 else "",
        f"{backings:.0%} of the examples before backings" if backings != usual else "",
        f"AdamW with a peak of {run['lr']:g}",
        f"moving average {run['ema']:g}",
        "batch norms frozen" if run.get("frozen_norms") else "",
        f"seed {run['seed']}",
        f"commit `{card['commit']}`",
    ]
    return _joined(", ", told)


def _changes(card: Mapping[str, Any]) -> list[str]:
    """What became of the weights after their run."""
    return [
        f"then its lowest {card['lowest_bands']} bands alone" if "lowest_bands" in card else "",
        f"then without {_blocks_text(card['removed'])}" if "removed" in card else "",
        f"then pruned to `G={card['pruned']}`" if "pruned" in card else "",
        f"then grafted: {card['grafted']}" if "grafted" in card else "",
        f"then averaged: {card['averaged']}" if "averaged" in card else "",
        f"then put back into `{card['put_back']}`, whose bands above them stay"
        if "put_back" in card
        else "",
        f"then batch norms estimated anew from {card['norms_anew']} examples"
        if "norms_anew" in card
        else "",
    ]


def _joined(between: str, texts: Iterable[str]) -> str:
    return between.join(filter(None, texts))


def _teacher_text(run: Mapping[str, Any]) -> str:
    return f"{run['teaching']:g} of it against the estimates of `{Path(run['teacher']).stem}`"


def _time_text(card: Mapping[str, Any]) -> str:
    """How long a run took, and on what, where that was no CPU."""
    seconds, device = card["seconds"], card.get("device", "cpu")
    told = f"{seconds / 3600:.1f} hours" if seconds >= 1800 else f"{seconds / 60:.1f} minutes"
    return told if device == "cpu" else f"{told} on {device}"


def _tracks_text(tracks: Mapping[str, int] | None) -> str:
    """How many tracks a mean is over, where the card knows."""
    if not tracks:
        return ""
    least, most = min(tracks.values()), max(tracks.values())
    return f" ({least if least == most else f'{least} to {most}'} track{'s' * (most > 1)})"


def _blocks_text(removed: Sequence[int]) -> str:
    numbers = ", ".join(map(str, sorted(removed)))
    return f"block{'s' if len(removed) > 1 else ''} {numbers} of its transformers"


def _licence_lines(card: Mapping[str, Any]) -> Iterator[str]:
    if card["licences"]:
        yield (
            f"- licences of the material: {', '.join(card['licences'])}; every source by name, "
            f"author and licence: for the weights of this project `docs/corpus.md`, for a corpus "
            f"of your own `python -m moises_light.training.corpus FOLDER`"
        )
    if unknown := card.get("unlicensed", ()):
        told = ", ".join(unknown[:5]) + (" and more" if len(unknown) > 5 else "")
        yield f"- material of which no licence is known: {len(unknown)} ({told})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m moises_light.training.release")
    parser.add_argument("model", type=Path, help="model.safetensors of a run")
    parser.add_argument("--validation", type=Path, required=True, help="folder of song folders")
    parser.add_argument("--corpus", type=Path, default=Path("corpus"))
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--segment", type=float, default=6.0, help="seconds")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    parser.add_argument(
        "--sets", nargs="+", choices=SETS, default=(), help="to score on; by default all"
    )
    parser.add_argument("--notes", help="what the weights cannot do; a card of before has some")
    args = parser.parse_args()
    found = weights.load(args.model)
    preset, card = found.metadata["preset"], found.metadata["card"]
    if preset not in configs:
        raise ValueError(f"{args.model} is no preset's network; choose one of {', '.join(configs)}")
    again = "sdr" in card
    if args.notes is None and not again:
        raise ValueError(f"{args.model} has no notes yet; say by --notes what it cannot do")
    target = args.checkpoints / f"{preset}.safetensors"
    model = weights.load_pretrained(args.model)
    scores = score(model, args.validation, args.corpus, args.segment, args.device, args.sets)
    if again:
        card = scored_again(card, scores, args.notes)
    else:
        card = make_card(card, scores, args.corpus, args.notes)
        if target.is_file():
            before = weights.load(target).metadata["card"]
            card["previous"] = {key: before[key] for key in KEYS if key in before}
    text = card_text(preset, card)
    weights.save(model, target, {"preset": preset, "card": card}, torch.float16)
    target.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
