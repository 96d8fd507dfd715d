"""How far judges agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def krippendorff_alpha(units: Iterable[Sequence[float]]) -> float:
    """Krippendorff's alpha for grades on an interval scale (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability):
    1 is perfect agreement, 0 what chance gives. A unit holds the grades that one thing was given, by two judges at least;
    where nothing varies there is nothing to agree on, and alpha is 0. Reads the units once.
    """
    count, total, squares, within = 0, 0.0, 0.0, 0.0
    for grades in units:
        if (own := len(grades)) < 2:
            continue
        own_total, own_squares = sum(grades), sum(each * each for each in grades)
        within += (own * own_squares - own_total**2) / (own - 1)
        count, total, squares = count + own, total + own_total, squares + own_squares
    between = count * squares - total**2
    return 1 - (count - 1) * within / between if between > 1e-9 else 0.0
