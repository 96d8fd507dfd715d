"""How sure a mean is, and a difference between two: the bootstrap and a permutation test, both from a fixed seed."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

RESAMPLES = 2000


def interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean (Efron 1979), over items; of no values, (nan, nan)."""
    if not values:
        return math.nan, math.nan
    chance = random.Random(0)
    means = sorted(fmean(chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
    outside = int(RESAMPLES * (1 - level) / 2)
    return means[outside], means[-1 - outside]


def paired(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """By how much `first` is above `second` on the same items: the mean difference, its interval, and the two-sided p of a
    paired permutation test, in which each difference may as well have the other sign.
    """
    differences = [one - other for one, other in zip(first, second, strict=True)]
    seen, chance = abs(sum(differences)), random.Random(0)
    unequal = [each for each in differences if each]
    as_far = 0
    for _ in range(RESAMPLES):
        signs = chance.getrandbits(max(1, len(unequal)))
        flipped = sum(each if signs >> i & 1 else -each for i, each in enumerate(unequal))
        as_far += abs(flipped) >= seen - 1e-12
    low, high = interval(differences)
    return {"difference": fmean(differences), "low": low, "high": high, "p": (as_far + 1) / (RESAMPLES + 1)}


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The chance that one of `k` samples passes, of which `passed` of `samples` did (Chen et al. 2021, equation 1)."""
    return 1 - math.comb(samples - passed, k) / math.comb(samples, k)


def majority_at_k(k: int, said: Sequence[str | None], passed: Sequence[bool]) -> float:
    """How often the answer that most of `k` samples give passes (Wang et al. 2022, self-consistency): the mean over the runs of
    `k` samples in a row, in a circle, so that each sample counts alike; a tie goes to what was said first, None is no vote.
    """
    circle, elected = [*zip(said, passed, strict=True)] * 2, []
    for start in range(len(said)):
        row = circle[start : start + k]
        votes = Counter(answer for answer, _ in row if answer is not None)
        elected.append(bool(votes) and dict(reversed(row))[votes.most_common(1)[0][0]])
    return fmean(elected)
