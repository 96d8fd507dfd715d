"""Confidence intervals of shares, of means of shares and of differences, and a permutation test.

The intervals keep their level for few items, and for shares of 0 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import compress
from statistics import NormalDist, fmean
from typing import NamedTuple

from distillgen.algorithms.resampling import exchange_p, in_order

EXACT, WILSON = "Clopper-Pearson (exact) of shares", "Wilson of means, by their variance"
PAIRED, UNPAIRED = "Agresti-Min of paired differences", "Newcombe of differences"


class Interval(NamedTuple):
    """A confidence interval, and the method that computed it."""

    low: float
    high: float
    method: str


def interval(values: Sequence[float], *, level: float = 0.95) -> Interval | None:
    """Return the interval of the mean of values between 0 and 1; None if there are no values.

    If all values are 0 or 1, it is the exact interval of a share; or else Wilson's interval of a mean of
    shares, such as the share of an item's samples that pass.
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
    """Return the interval whose coverage is at least its level (Clopper and Pearson 1934)."""
    one_sided = (1 + level) / 2
    return Interval(
        lower_bound(right, of, level=one_sided), 1 - lower_bound(of - right, of, level=one_sided), EXACT
    )


def lower_bound(right: int, of: int, *, level: float = 0.95) -> float:
    """Return the exact lower bound of a share with this confidence: the share for which `right` or more of
    `of` have the probability 1 - `level`.
    """
    low, high = 0.0, right / of
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _at_least(right, of, middle) < 1 - level else (low, middle)
    return low


def _at_least(right: int, of: int, share: float) -> float:
    """Return the binomial probability of `right` or more of `of`.

    `share` must be at most right / of, so that each term of the sum is smaller than the one before.
    """
    if share <= 0:
        return float(right == 0)
    ways = math.lgamma(of + 1) - math.lgamma(right + 1) - math.lgamma(of - right + 1)
    term = math.exp(ways + right * math.log(share) + (of - right) * math.log1p(-share))
    total, odds = 0.0, share / (1 - share)
    while right <= of and term > total * 1e-16:
        total, term, right = total + term, term * odds * (of - right) / (right + 1), right + 1
    return total


def wilson_interval(mean: float, variance: float, of: int, *, level: float = 0.95) -> Interval:
    """Return Wilson's interval (1927) of a mean of `of` values between 0 and 1 with this sample variance.

    It uses the effective sample size (Korn and Graubard 1998): `of` divided by the design effect, which is
    the variance divided by that of a share, mean (1 - mean), with a correction by Student's quantile because
    the variance is an estimate. With a variance of 0 the design effect is 1.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    of_a_share = mean * (1 - mean)
    effect = min(1.0, variance / of_a_share) if variance > 0 and of_a_share > 0 else 1.0
    size = of / effect * (z / _student(z, of - 1)) ** 2
    middle = (mean + z * z / 2 / size) / (1 + z * z / size)
    around = z / (1 + z * z / size) * math.sqrt(of_a_share / size + (z / 2 / size) ** 2)
    return Interval(max(0.0, middle - around), min(1.0, middle + around), WILSON)


def _student(z: float, freedom: int) -> float:
    """Return the quantile of Student's distribution for the normal quantile `z` (Abramowitz and Stegun
    26.7.5).

    The error is 1 % with 3 degrees of freedom, and smaller with more.
    """
    if freedom < 1:
        return z
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def difference_interval(differences: Sequence[float], *, level: float = 0.95) -> Interval:
    """Return the interval of a mean of differences between -1 and 1 (Agresti and Min 2005).

    It is Student's interval with half an observation added at -1 and at 1, and one at 0, so that its width is
    positive even if all differences are 0.
    """
    of = len(differences) + 2
    mean = sum(differences) / of
    squares = sum((difference - mean) ** 2 for difference in differences) + 1 + 2 * mean**2
    around = _student(NormalDist().inv_cdf((1 + level) / 2), len(differences) - 1) * math.sqrt(squares) / of
    return Interval(max(-1.0, mean - around), min(1.0, mean + around), PAIRED)


def unpaired(first: float, first_interval: Interval, second: float, second_interval: Interval) -> Interval:
    """Return the interval of `first` - `second` from the interval of each (Newcombe 1998, method 10)."""
    low = first - second - math.hypot(first - first_interval.low, second_interval.high - second)
    high = first - second + math.hypot(first_interval.high - first, second - second_interval.low)
    return Interval(low, high, UNPAIRED)


def paired(first: Sequence[float], second: Sequence[float]) -> dict[str, float | str]:
    """Return the mean of `first` - `second` on the same items, its interval, and the two-sided p of a
    sign-flip test.

    The paired permutation test flips the sign of each difference, as `exchange_p` says; p is 1 if all
    differences are 0.
    """
    differences = [one - other for one, other in zip(first, second, strict=True)]
    unequal = [difference for difference in differences if difference]
    total = math.fsum(unequal)

    def with_flips(rows: int) -> float:
        return total - 2 * math.fsum(compress(unequal, in_order(rows, len(unequal))))

    p = exchange_p(len(unequal), with_flips)
    return {"difference": fmean(differences), **difference_interval(differences)._asdict(), "p": p}
