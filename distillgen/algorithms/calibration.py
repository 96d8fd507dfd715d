"""From probabilities to a decision: the precision-recall curve, the threshold that reaches a target, and the error of the
probabilities themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

from distillgen.algorithms.intervals import exact_interval, lower_bound

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


def reach(
    scored: Scored, *, recall: float | None = None, precision: float | None = None, confidence: float
) -> Point | None:
    """The first point, as the threshold rises, at which recall has come down to its target: on new records it is as often
    below as above. Or at which the exact lower bound of precision has come up to its own, with this confidence: the first
    at which precision itself has would be a lucky one.

    None where no threshold assures that precision; the last point where recall stays above its target.
    """
    points = curve(scored)
    if recall is not None:
        return next((point for point in points if point.recall <= recall), points[-1])
    return next(
        (p for p in points if precision is not None and assured(p, len(scored), confidence) >= precision),
        None,
    )


def assured(point: Point, rows: int, confidence: float) -> float:
    """The precision that a point exceeds with this confidence, of a curve over so many rows."""
    kept = round(point.kept * rows)
    return lower_bound(round(point.precision * kept), kept, level=confidence)


def realised(scored: Scored, threshold: float) -> dict[str, Any]:
    """Recall, precision and share of what is kept at a threshold, and the 95 % interval of each; None where there is nothing to
    divide by.
    """
    labels = [label for probability, label in scored if probability > threshold]
    valid, hits = sum(label for _, label in scored), sum(labels)
    counts = {"recall": (hits, valid), "precision": (hits, len(labels)), "kept": (len(labels), len(scored))}
    return {
        **{name: part / of if of else None for name, (part, of) in counts.items()},
        "intervals": {name: exact_interval(part, of)._asdict() for name, (part, of) in counts.items() if of},
    }


def calibration_error(scored: Scored, bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3): by how much probabilities miss the share that is valid, on
    average over the records, in bins of equal width.
    """
    off = [0.0] * bins
    for probability, label in scored:
        off[min(int(probability * bins), bins - 1)] += probability - label
    return sum(map(abs, off)) / len(scored)
