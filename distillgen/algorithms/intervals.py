"""How sure a share is, a mean of shares, and a difference between two on the same items: intervals that keep
their level for few items and where all are right, and a permutation test.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import product
from statistics import NormalDist, fmean
from typing import NamedTuple

RESAMPLES = 2000
EXACT, WILSON = "Clopper-Pearson (exact) of shares", "Wilson of means, by their variance"
PAIRED, UNPAIRED = "Agresti-Min of paired differences", "Newcombe of differences"


class Interval(NamedTuple):
    """Where a figure lies with the confidence of its level, and how that was computed."""

    low: float
    high: float
    method: str


def interval(values: Sequence[float], *, level: float = 0.95) -> Interval | None:
    """The interval of the mean of values between 0 and 1: of a share, whose values are all 0 or 1, the exact one;
    of a mean of shares, such as several samples give for each item, Wilson's. Of no values None.
    """
    if not values:
        return None
    if all(value in (0, 1) for value in values):
        right = sum(map(bool, values))
        return exact_interval(right, len(values), level=level)
    mean = fmean(values)
    variance = sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)
    return wilson_interval(mean, variance, len(values), level=level)


def exact_interval(right: int, of: int, *, level: float = 0.95) -> Interval:
    """The interval that contains the true share at least as often as its level says (Clopper and Pearson 1934)."""
    each = (1 + level) / 2
    return Interval(lower_bound(right, of, level=each), 1 - lower_bound(of - right, of, level=each), EXACT)


def lower_bound(right: int, of: int, *, level: float = 0.95) -> float:
    """The exact one-sided bound that the true share exceeds with this confidence: where `right` or more of `of`
    have the chance 1 - `level`.
    """
    low, high = 0.0, right / of
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _at_least(right, of, middle) < 1 - level else (low, middle)
    return low


def _at_least(right: int, of: int, share: float) -> float:
    """The chance of `right` or more of `of`, for a `share` below right / of, where each term is below the last."""
    if share <= 0:
        return float(right == 0)
    ways = math.lgamma(of + 1) - math.lgamma(right + 1) - math.lgamma(of - right + 1)
    term = math.exp(ways + right * math.log(share) + (of - right) * math.log1p(-share))
    total, odds = 0.0, share / (1 - share)
    while right <= of and term > total * 1e-16:
        total, term, right = total + term, term * odds * (of - right) / (right + 1), right + 1
    return total


def wilson_interval(mean: float, variance: float, of: int, *, level: float = 0.95) -> Interval:
    """Wilson's interval (1927) of a mean of values between 0 and 1, for as many items as would have given a share
    this error: n divided by the design effect, their variance over that of a share, and corrected for the variance
    being an estimate (as Korn and Graubard do, 1998). Items that are all alike count as a share's.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    of_a_share = mean * (1 - mean)
    effect = min(1.0, variance / of_a_share) if variance > 0 and of_a_share > 0 else 1.0
    size = of / effect * (z / _student(z, of - 1)) ** 2
    middle = (mean + z * z / 2 / size) / (1 + z * z / size)
    around = z / (1 + z * z / size) * math.sqrt(of_a_share / size + (z / 2 / size) ** 2)
    return Interval(max(0.0, middle - around), min(1.0, middle + around), WILSON)


def _student(z: float, freedom: int) -> float:
    """Student's quantile for a normal one (Abramowitz and Stegun 26.7.5): 1 % off with 3 degrees of freedom."""
    if freedom < 1:
        return z
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def difference_interval(differences: Sequence[float], *, level: float = 0.95) -> Interval:
    """The interval of a mean of differences between -1 and 1: Student's, with half an observation more at either end
    and one at 0 (Agresti and Min 2005), so that it has a width where all items are tied.
    """
    of = len(differences) + 2
    mean = sum(differences) / of
    squares = sum((each - mean) ** 2 for each in differences) + 1 + 2 * mean**2
    around = _student(NormalDist().inv_cdf((1 + level) / 2), len(differences) - 1) * math.sqrt(squares) / of
    return Interval(max(-1.0, mean - around), min(1.0, mean + around), PAIRED)


def unpaired(first: float, own: Interval, second: float, others: Interval) -> Interval:
    """The interval of the difference of two figures, from those of each (Newcombe 1998, method 10)."""
    low = first - second - math.hypot(first - own.low, others.high - second)
    high = first - second + math.hypot(own.high - first, second - others.low)
    return Interval(low, high, UNPAIRED)


def paired(first: Sequence[float], second: Sequence[float]) -> dict[str, float | str]:
    """By how much `first` is above `second` on the same items: the mean difference, its interval, and the two-sided
    p of a paired permutation test, in which each difference may as well have the other sign: over all signs where
    these are few, else over a sample, in which the observed ones count. It is never 0, and 1 where all are tied.
    """
    differences = [one - other for one, other in zip(first, second, strict=True)]
    unequal = [each for each in differences if each]
    least = abs(sum(unequal)) - 1e-12
    if 2 ** len(unequal) <= RESAMPLES:
        flips = [*product((1, -1), repeat=len(unequal))]
        p = fmean(
            abs(sum(s * each for s, each in zip(signs, unequal, strict=True))) >= least for signs in flips
        )
    else:
        chance, as_far = random.Random(0), 0
        for _ in range(RESAMPLES):
            signs = chance.getrandbits(len(unequal))
            as_far += abs(sum(each if signs >> i & 1 else -each for i, each in enumerate(unequal))) >= least
        p = (as_far + 1) / (RESAMPLES + 1)
    return {"difference": fmean(differences), **difference_interval(differences)._asdict(), "p": p}
