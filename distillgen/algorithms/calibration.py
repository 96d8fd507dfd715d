"""Precision-recall curve of a classifier, the threshold that reaches a target, and calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

from distillgen.algorithms.intervals import exact_interval, lower_bound

Scored: TypeAlias = Sequence[tuple[float, bool]]
"""For each record a probability from 0 to 1, and whether the record is valid."""


class Point(NamedTuple):
    """A point of the precision-recall curve: figures of the records with a probability above `threshold`."""

    threshold: float
    recall: float
    precision: float
    kept: float
    """The share of all records with a probability above the threshold."""


def curve(scored: Scored) -> list[Point]:
    """Return the points of all thresholds in ascending order; `scored` must hold a valid record."""
    valid, hits, points = sum(label for _, label in scored), 0, []
    falling = sorted(scored, reverse=True)
    all_of_it = 0.0 if falling[-1][0] > 0 else -1.0
    for kept, ((score, label), (below, _)) in enumerate(pairwise([*falling, (all_of_it, False)]), 1):
        hits += label
        if below < score:  # records of equal probability are kept or dropped together
            points.append(Point(below, hits / valid, hits / kept, kept / len(falling)))
    return points[::-1]


def reach(
    scored: Scored, *, recall: float | None = None, precision: float | None = None, confidence: float
) -> Point | None:
    """Return the point with the lowest threshold that reaches a target.

    With `recall`, it is the first point at which recall falls to its target, or the last point if recall
    stays above: on new records recall is as likely below the target as above. With `precision`, it is the
    first point at which the exact lower bound of precision, with this `confidence`, is at least the target,
    or None if no point reaches
    it: the first point whose estimate reaches it would be chosen for its luck.
    """
    points = curve(scored)
    if recall is not None:
        return next((point for point in points if point.recall <= recall), points[-1])
    return next(
        (p for p in points if precision is not None and assured(p, len(scored), confidence) >= precision),
        None,
    )


def assured(point: Point, rows: int, confidence: float) -> float:
    """Return the lower confidence bound of the precision at a point of a curve over so many rows."""
    kept = round(point.kept * rows)
    return lower_bound(round(point.precision * kept), kept, level=confidence)


def realised(scored: Scored, threshold: float) -> dict[str, Any]:
    """Return recall, precision and share kept at a threshold, with 95 % intervals; None for 0 of 0."""
    labels = [label for probability, label in scored if probability > threshold]
    valid, hits = sum(label for _, label in scored), sum(labels)
    counts = {"recall": (hits, valid), "precision": (hits, len(labels)), "kept": (len(labels), len(scored))}
    return {
        **{name: part / of if of else None for name, (part, of) in counts.items()},
        "intervals": {name: exact_interval(part, of)._asdict() for name, (part, of) in counts.items() if of},
    }


def calibration_error(scored: Scored, bins: int = 10) -> float:
    """Return the expected calibration error (Guo et al. 2017, equation 3), from 0 to 1: the mean difference
    between the probabilities and the share of valid records, over `bins` of equal width.
    """
    off = [0.0] * bins
    for probability, label in scored:
        off[min(int(probability * bins), bins - 1)] += probability - label
    return sum(map(abs, off)) / len(scored)
