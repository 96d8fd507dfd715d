"""What the teacher is asked next: so much of each domain, by how far the student trails in it, and which records of one."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from itertools import accumulate


def factors(ratios: Sequence[Mapping[str, float]], *, alpha: float = 0.5) -> dict[str, float]:
    """The share of each domain after these estimates, each the student's perplexity over the teacher's by domain (DDK, Liu et
    al. 2024, section 3.2): softmax of the first one; with each further one r becomes alpha psi / sum psi + (1 - alpha) / N,
    where psi = r exp(ratio). The shares sum to 1, and from the second estimate on none is below (1 - alpha) / N.
    """
    if not ratios:
        return {}
    share = _softmax(ratios[0])
    for ratio in ratios[1:]:
        moved = _softmax({name: math.log(share[name]) + ratio[name] if share[name] else -math.inf for name in share})
        share = {name: alpha * moved[name] + (1 - alpha) / len(share) for name in share}
    return share


def _softmax(values: Mapping[str, float]) -> dict[str, float]:
    most = max(values.values())
    weights = {name: math.exp(value - most) for name, value in values.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def apportion(budget: int, shares: Mapping[str, float], there: Mapping[str, int]) -> dict[str, int]:
    """How many records of each domain: one after the other to the one that is furthest behind its share, while it has any."""
    counts = dict.fromkeys(shares, 0)
    for given in range(1, min(budget, sum(there[name] for name in shares)) + 1):
        behind = {name: share * given - counts[name] for name, share in shares.items() if counts[name] < there[name]}
        counts[max(behind, key=lambda name: behind[name])] += 1
    return counts


def equilibrium(gains: Sequence[float], wrong: float) -> list[float]:
    """The chance of each record in the best draw against an adversary that chooses which `wrong` of them the teacher answers
    wrongly (Robust Active Distillation, Baykal et al. 2023): max over q of min over wrong sets of sum q g [right].

    With gains sorted downwards and H_k the sum of the first k of 1 / g, k* maximises (k - wrong) / H_k, which is the game's
    value; q is 1 / (g H_k*) for the first k*. Without a wrong answer it is the largest gain. Where no draw is worth
    anything, because all may be wrong, every record has the same chance.
    """
    order = sorted(range(len(gains)), key=lambda i: -gains[i])
    costs = [1 / max(gains[i], 1e-12) for i in order]
    worth = [(k - wrong) / total for k, total in enumerate(accumulate(costs), 1)]
    if not worth or max(worth) <= 0:
        return [1 / len(gains) for _ in gains]
    best = worth.index(max(worth)) + 1
    chances, total = [0.0] * len(gains), sum(costs[:best])
    for i, cost in zip(order[:best], costs, strict=False):
        chances[i] = cost / total
    return chances


def drawn(chances: Sequence[float], gains: Sequence[float], count: int, chance: random.Random) -> list[int]:
    """`count` records without replacement, each by its chance, by exponential waiting times (Efraimidis and Spirakis 2006);
    those without a chance follow by their gain.
    """
    lots = [chance.expovariate(1.0) for _ in chances]
    waits = [lot / own if own else math.inf for lot, own in zip(lots, chances, strict=True)]
    return sorted(range(len(chances)), key=lambda i: (waits[i], -gains[i], lots[i]))[:count]
