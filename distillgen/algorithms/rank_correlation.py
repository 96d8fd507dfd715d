"""Kendall's rank correlation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Return tau-b (Kendall 1945): 1 for the same order, -1 for the opposite one; ties count for neither.

    0 if all numbers of a list are equal.
    """
    agree, of_first, of_second = 0, 0, 0
    for (a, b), (c, d) in combinations(zip(first, second, strict=True), 2):
        x, y = (a > c) - (a < c), (b > d) - (b < d)
        agree, of_first, of_second = agree + x * y, of_first + x * x, of_second + y * y
    return agree / math.sqrt(of_first * of_second) if of_first and of_second else 0.0
