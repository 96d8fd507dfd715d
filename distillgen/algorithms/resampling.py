"""Intervals and tests of figures of a whole set, such as a macro-F1, by random subsets of its rows.

A figure is a function of sums over cells of the set: a row adds the value of each cell that it is in. A set
of rows is a whole number, whose bits say which rows are in it. So the sum of a cell over a subset takes one
`&` and one count of bits, for thousands of rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import NamedTuple, TypeAlias

RESAMPLES = 2000

Sums: TypeAlias = Sequence[float]
"""The sum over each cell, in the order of the cells."""

_DIGITS, _BITS = bytes.maketrans(b"\0\1", b"01"), bytes.maketrans(b"01", b"\0\1")


class Cell(NamedTuple):
    """Rows of a set that add the same value."""

    rows: int
    """The numbers of the rows, as bits."""
    value: float = 1.0


def rows_of(selectors: Sequence[bool]) -> int:
    """Return the rows whose selector is true, as bits."""
    return int(bytes(selectors)[::-1].translate(_DIGITS), 2) if selectors else 0


def in_order(rows: int, size: int) -> bytes:
    """Return for each row of `size` whether it is in `rows`: 1 or 0."""
    return format(rows, f"0{size}b").encode()[::-1].translate(_BITS)


def sums(cells: Iterable[Cell], rows: int) -> list[float]:
    """Return the sum over each cell of the rows that are in `rows`."""
    return [value * (cell & rows).bit_count() for cell, value in cells]


def exchange_p(size: int, difference: Callable[[int], float]) -> float:
    """Return the two-sided p of a paired permutation test, which exchanges the answers of two models.

    `difference` takes the rows, of `size`, whose answers are exchanged. They are exchanged in all ways if
    these are at most RESAMPLES, or else in RESAMPLES random ways, to which the observed one is added. So p is
    never 0.
    """
    least = abs(difference(0)) - 1e-12
    if 2**size <= RESAMPLES:
        return fmean(abs(difference(rows)) >= least for rows in range(2**size))
    as_far = sum(abs(difference(rows)) >= least for rows in subsets(size))
    return (as_far + 1) / (RESAMPLES + 1)


def subsets(size: int) -> Iterable[int]:
    """Yield RESAMPLES random sets of rows, in which each row is with a probability of one half."""
    chance = random.Random(0)
    return (chance.getrandbits(size) for _ in range(RESAMPLES))


def bootstrap(size: int, figure: Callable[[int], float]) -> list[float]:
    """Return a figure of RESAMPLES random subsets, the same ones for all figures of `size` rows: the
    double-or-nothing bootstrap (Owen and Eckles 2012).

    The rows of a subset count twice, and the others do not count: as in Efron's bootstrap, the weight of a
    row has mean 1 and variance 1.
    """
    return [figure(rows or (1 << size) - 1) for rows in subsets(size)]


def bootstrap_interval(
    estimate: float, values: Sequence[float], *, level: float = 0.95
) -> tuple[float, float]:
    """Return the interval of a figure, of which `estimate` is the value of all rows and `values` are those of
    `bootstrap`.

    The percentiles are moved by twice the bias, the mean of the values less the estimate: the estimate is as
    far above the truth as the values are above it. An expected calibration error has such a bias.
    """
    ordered = sorted(values)
    outside = (1 - level) / 2 * (len(ordered) - 1)
    bias = 2 * (fmean(ordered) - estimate)
    return ordered[round(outside)] - bias, ordered[round(len(ordered) - 1 - outside)] - bias
