"""Figures over several samples of each answer: pass@k and majority@k."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean


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
