"""Figures over several samples of each answer: pass@k and majority@k."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return the probability that at least one of `k` samples passes, drawn from `samples` of which `passed`
    pass (Chen et al. 2021, Codex, equation 1).
    """
    return 1 - math.comb(samples - passed, k) / math.comb(samples, k)


def majority_at_k(k: int, answers: Sequence[str | None], passed: Sequence[bool]) -> float:
    """Return how often the most frequent answer of `k` samples passes (Wang et al. 2022, Self-Consistency),
    from 0 to 1.

    It is the mean over all runs of `k` successive samples in a circle, so that every sample counts equally
    often. In a tie the earlier answer wins; None is no vote.
    """
    circle, elected = [*zip(answers, passed, strict=True)] * 2, []
    for start in range(len(answers)):
        row = circle[start : start + k]
        votes = Counter(answer for answer, _ in row if answer is not None)
        elected.append(bool(votes) and dict(reversed(row))[votes.most_common(1)[0][0]])
    return fmean(elected)
