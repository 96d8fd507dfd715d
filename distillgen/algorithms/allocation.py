"""What the teacher is asked next: so much of each domain, by how far the student trails in it, and which records of one."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from itertools import accumulate

NO_GAIN = 1e-9  # a gain that is but a rounding error


def factors(ratios: Sequence[Mapping[str, float]], *, alpha: float = 0.5) -> dict[str, float]:
    """The share of each domain after these estimates, each the student's perplexity over the teacher's by domain (DDK, Liu et
    al. 2024, section 3.2): softmax of the first one; with each further one r becomes alpha psi / sum psi + (1 - alpha) / N,
    where psi = r exp(ratio). The shares sum to 1, and from the second estimate on none is below (1 - alpha) / N.
    """
    if not ratios:
        return {}
    share = _softmax(ratios[0])
    for ratio in ratios[1:]:
        moved = _softmax(
            {name: math.log(share[name]) + ratio[name] if share[name] else -math.inf for name in share}
        )
        share = {name: alpha * moved[name] + (1 - alpha) / len(share) for name in share}
    return share


def _softmax(values: Mapping[str, float]) -> dict[str, float]:
    most = max(values.values())
    weights = {name: math.exp(value - most) for name, value in values.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def apportion(budget: int, shares: Mapping[str, float], there: Mapping[str, int]) -> dict[str, int]:
    """How many records of each domain: its share of the budget but for less than one (largest remainders); what a
    domain lacks goes to the others by their shares.
    """
    counts = dict.fromkeys(shares, 0)
    left, open_ones = min(budget, sum(there[name] for name in shares)), list(shares)
    while open_ones:
        total = sum(shares[name] for name in open_ones)
        due = {name: left * (shares[name] / total if total else 1 / len(open_ones)) for name in open_ones}
        if not (full := [name for name in open_ones if due[name] >= there[name]]):
            break
        counts |= {name: there[name] for name in full}
        left -= sum(there[name] for name in full)
        open_ones = [name for name in open_ones if name not in full]
    counts |= {name: int(due[name]) for name in open_ones}
    left -= sum(counts[name] for name in open_ones)
    for name in sorted(open_ones, key=lambda name: counts[name] - due[name])[:left]:
        counts[name] += 1
    return counts


def equilibrium(gains: Sequence[float], wrong: float) -> list[float]:
    """The chance of each record in the best draw against an adversary that chooses which `wrong` of them the teacher
    answers wrongly (Robust Active Distillation, Baykal et al. 2023): max over q of min over wrong sets of
    sum q g [right].

    With gains sorted downwards and H_k the sum of the first k of 1 / g, k* maximises (k - wrong) / H_k, which is the
    game's value; q is 1 / (g H_k*) for the first k*. Without a wrong answer it is the largest gain. A record without
    gain has no chance beside others. Where no draw is worth anything, because all that have a gain may be wrong,
    these have the same chance.
    """
    order = sorted((i for i, gain in enumerate(gains) if gain > NO_GAIN), key=lambda i: -gains[i]) or [
        *range(len(gains))
    ]
    costs = [1 / max(gains[i], NO_GAIN) for i in order]
    worth = [(k - wrong) / total for k, total in enumerate(accumulate(costs), 1)]
    chances = [0.0] * len(gains)
    if not worth or max(worth) <= 0:
        best, costs = len(order), [1.0] * len(order)
    else:
        best = worth.index(max(worth)) + 1
    total = sum(costs[:best])
    for i, cost in zip(order[:best], costs, strict=False):
        chances[i] = cost / total
    return chances


def with_unsure(chances: Sequence[float]) -> list[float]:
    """The same chances, of which none falls below that of a draw at random. Where the adversary can spoil every record
    of which the student is unsure, the equilibrium bets on sure ones alone, and would never ask about the others.
    """
    least, raised = 1 / max(1, len(chances)), list(chances)
    for _ in chances:
        low = [0 < own <= least for own in raised]
        above = sum(own for own, is_low in zip(raised, low, strict=True) if not is_low)
        rest = (1 - least * sum(low)) / above if above else 0.0
        raised = [least if is_low else own * rest for own, is_low in zip(raised, low, strict=True)]
        if all(not own or own >= least - 1e-15 for own in raised):
            break
    return raised


def drawn(chances: Sequence[float], gains: Sequence[float], count: int, chance: random.Random) -> list[int]:
    """`count` records without replacement, each by its chance, by exponential waiting times (Efraimidis and Spirakis 2006);
    those without a chance follow by their gain.
    """
    lots = [chance.expovariate(1.0) for _ in chances]
    waits = [lot / own if own else math.inf for lot, own in zip(lots, chances, strict=True)]
    return sorted(range(len(chances)), key=lambda i: (waits[i], -gains[i], lots[i]))[:count]
