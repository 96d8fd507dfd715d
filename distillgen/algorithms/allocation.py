"""The allocation of a budget of questions for the teacher: how many to each domain, by the gap between
student and teacher, and which records of a domain.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from itertools import accumulate

NO_GAIN = 1e-9  # smaller gains are rounding errors


def factors(ratios: Sequence[Mapping[str, float]], *, alpha: float = 0.5) -> dict[str, float]:
    """Return the share of each domain, from estimates of the gap over time (DDK, Liu et al. 2024, section
    3.2).

    An estimate holds, by domain, the student's perplexity divided by the teacher's. The first shares r are
    the softmax of the first estimate; each further estimate makes them alpha psi / sum psi + (1 - alpha) / N,
    where psi = r exp(ratio). The shares sum to 1; from the second estimate on, none is below (1 - alpha) / N.
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


def apportion(budget: int, shares: Mapping[str, float], available: Mapping[str, int]) -> dict[str, int]:
    """Return the number of records of each domain, by largest remainders: within one record of its share of
    `budget`.

    `available` counts the records of each domain; what a domain lacks goes to the others in proportion to
    their shares.
    """
    counts = dict.fromkeys(shares, 0)
    rest, open_domains = min(budget, sum(available[name] for name in shares)), list(shares)
    while open_domains:
        total = sum(shares[name] for name in open_domains)
        due = {
            name: rest * (shares[name] / total if total else 1 / len(open_domains)) for name in open_domains
        }
        if not (full := [name for name in open_domains if due[name] >= available[name]]):
            break
        counts |= {name: available[name] for name in full}
        rest -= sum(available[name] for name in full)
        open_domains = [name for name in open_domains if name not in full]
    counts |= {name: int(due[name]) for name in open_domains}
    rest -= sum(counts[name] for name in open_domains)
    for name in sorted(open_domains, key=lambda name: counts[name] - due[name])[:rest]:
        counts[name] += 1
    return counts


def equilibrium(gains: Sequence[float], wrong: float) -> list[float]:
    """Return the probability of each record in the best draw against an adversary, who chooses the `wrong`
    records that the teacher answers wrongly (Robust Active Distillation, Baykal et al. 2023): the q that
    maximises, over q, the minimum over sets of wrong records of sum q g [right].

    With the gains g sorted in descending order and H_k the sum of 1 / g over the first k, k* maximises (k -
    wrong) / H_k, the value of the game; q is 1 / (g H_k*) for the first k*, and 0 for the others. With
    `wrong` 0 the record of the largest gain has probability 1. Records without gain have probability 0,
    unless no record has a gain. If all records with a gain may be wrong, the game has no value, and these
    records are equally likely.
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
    """Return the probabilities with every positive one raised to at least 1 / N, the probability in a uniform
    draw.

    If the adversary can spoil every record of which the student is unsure, the equilibrium gives nearly all
    probability to records of which it is sure, and the teacher would never be asked about the others.
    """
    least, raised = 1 / max(1, len(chances)), list(chances)
    for _ in chances:
        low = [0 < probability <= least for probability in raised]
        above = sum(probability for probability, is_low in zip(raised, low, strict=True) if not is_low)
        rest = (1 - least * sum(low)) / above if above else 0.0
        raised = [
            least if is_low else probability * rest for probability, is_low in zip(raised, low, strict=True)
        ]
        if all(not probability or probability >= least - 1e-15 for probability in raised):
            break
    return raised


def drawn(chances: Sequence[float], gains: Sequence[float], count: int, chance: random.Random) -> list[int]:
    """Draw `count` records without replacement, weighted by their probabilities, by exponential waiting times
    (Efraimidis and Spirakis 2006); records with probability 0 come last, in descending order of their gain.
    Return their indices.
    """
    lots = [chance.expovariate(1.0) for _ in chances]
    waits = [
        lot / probability if probability else math.inf for lot, probability in zip(lots, chances, strict=True)
    ]
    return sorted(range(len(chances)), key=lambda i: (waits[i], -gains[i], lots[i]))[:count]
