"""Agreement of judges."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def krippendorff_alpha(units: Iterable[Sequence[float]]) -> float:
    """Return Krippendorff's alpha of grades on an interval scale (Krippendorff 2011, Computing Krippendorff's
    Alpha-Reliability).

    1 is perfect agreement, 0 the agreement by chance. A unit holds the grades of one item; units with fewer
    than two grades do not count. If all grades are equal, alpha is undefined, and the result is 0. The units
    are read once.
    """
    count, total, squares, within = 0, 0.0, 0.0, 0.0
    for grades in units:
        if (size := len(grades)) < 2:
            continue
        unit_total, unit_squares = sum(grades), sum(grade * grade for grade in grades)
        within += (size * unit_squares - unit_total**2) / (size - 1)
        count, total, squares = count + size, total + unit_total, squares + unit_squares
    between = count * squares - total**2
    return 1 - (count - 1) * within / between if between > 1e-9 else 0.0
