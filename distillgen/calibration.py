"""From probabilities to a decision: the precision-recall curve, the threshold that reaches a target, and the error of the
probabilities themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

Scored: TypeAlias = Sequence[tuple[float, bool]]
"""A probability each, and whether the thing was valid."""


class Point(NamedTuple):
    """What is kept where a probability above `threshold` is: the share of the valid, how much of it is valid, how much it is."""

    threshold: float
    recall: float
    precision: float
    kept: float


def curve(scored: Scored) -> list[Point]:
    """Every way to cut, from keeping all to keeping what scores highest; `scored` must hold something valid."""
    valid, hits, points = sum(label for _, label in scored), 0, []
    falling = sorted(scored, reverse=True)
    all_of_it = 0.0 if falling[-1][0] > 0 else -1.0
    for kept, ((score, label), (below, _)) in enumerate(pairwise([*falling, (all_of_it, False)]), 1):
        hits += label
        if below < score:  # equal ones are kept or dropped together
            points.append(Point(below, hits / valid, hits / kept, kept / len(falling)))
    return points[::-1]


def reach(points: Sequence[Point], *, recall: float | None = None, precision: float | None = None) -> Point | None:
    """The first point, as the threshold rises, at which recall has come down to its target, or precision up to its own.

    None where no threshold gives that precision; the last point where recall stays above its target.
    """
    if recall is not None:
        return next((point for point in points if point.recall <= recall), points[-1])
    return next((point for point in points if precision is not None and point.precision >= precision), None)


def realised(scored: Scored, threshold: float) -> dict[str, float | None]:
    """Recall, precision and share of what is kept at a threshold; None where there is nothing to divide by."""
    labels = [label for probability, label in scored if probability > threshold]
    valid = sum(label for _, label in scored)
    return {
        "recall": sum(labels) / valid if valid else None,
        "precision": sum(labels) / len(labels) if labels else None,
        "kept": len(labels) / len(scored) if scored else None,
    }


def calibration_error(scored: Scored, bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3): by how much probabilities miss the share that is valid, on
    average over the records, in bins of equal width.
    """
    off = [0.0] * bins
    for probability, label in scored:
        off[min(int(probability * bins), bins - 1)] += probability - label
    return sum(map(abs, off)) / len(scored)
