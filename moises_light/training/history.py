"""What the weights of a run had learnt before it began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moises_light import weights
from moises_light.config import configs

KEPT = (
    *("steps", "examples", "seconds", "device", "seed", "commit", "run"),
    *("lowest_bands", "removed", "pruned", "grafted", "averaged", "put_back", "norms_anew"),
)
"""What is told of an earlier run, where its card has it."""

UNTOLD = "weights of which no card tells how they were trained"
"""What is said of weights without a run in their card."""


def kept(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a card tells of its run alone: nothing of its past, and no scores."""
    return {key: card[key] for key in KEPT if key in card}


def unscored(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card of weights made of those of a card: its runs, but no scores."""
    return {**kept(card), "earlier_runs": earlier_runs(card)}


def earlier_runs(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs whose weights the run of that card went on from, oldest first.

    A card that tells its past is believed; else its start is looked up, and that one's, and so on.
    Weights whose card tells nothing are there as a run of which nothing is told.

    Raises:
        ValueError: if the weights that it started from are gone, for then nobody could tell.
    """
    if "earlier_runs" in card:
        return list(card["earlier_runs"])
    return runs_within(card["run"]["start"]) if "run" in card else []


def runs_within(start: str) -> list[dict[str, Any]]:
    """The runs that made the weights of a file or preset, oldest first; none where none is named.

    Raises:
        ValueError: if it cannot be read.
    """
    if not start:
        return []
    card = weights.load(weights.find(start) if start in configs else start).metadata["card"]
    return [*earlier_runs(card), kept(card)]
