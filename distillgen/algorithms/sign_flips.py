"""The exact test of paired differences by all flips of their signs."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

MOST = 32  # unequal differences: half of them, 2**16 sums, are counted against the other half


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of the mean of `differences` being 0 (Fisher 1935, The Design of Experiments,
    section 21): the share of all ways to flip their signs that give a sum as far from 0 as theirs, or
    farther.

    It is 1 without a difference that is not 0. Beyond 32 such differences, where the ways are too many to
    count, it is the normal approximation of that share.
    """
    unequal = [difference for difference in differences if difference]
    scale = math.fsum(map(abs, unequal))
    far = abs(math.fsum(unequal)) - 1e-9 * scale  # sums in another order differ by rounding
    if len(unequal) > MOST:
        return math.erfc(far / math.sqrt(2 * math.fsum(d * d for d in unequal)))
    middle = len(unequal) // 2
    first, second = sorted(_sums(unequal[:middle])), _sums(unequal[middle:])
    as_far = sum(len(first) - bisect_left(first, far - s) + bisect_right(first, -far - s) for s in second)
    return min(1.0, as_far / 2 ** len(unequal)) if scale else 1.0


def _sums(differences: Sequence[float]) -> list[float]:
    """Return the sums for all ways to flip the signs of the differences."""
    sums = [0.0]
    for difference in differences:
        sums = [total + signed for total in sums for signed in (difference, -difference)]
    return sums
