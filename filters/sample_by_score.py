"""Random draws among the best (Knowledge Card, Feng et al. 2023, section 2.2: top-k factuality sampling)."""

import random
from collections.abc import Sequence

from distillgen import FieldName, Filter, NumberName, Record
from distillgen.flow.filter import siblings
from distillgen.flow.whole_set import number_of


def sample_by_score(
    *, by: NumberName, per: list[FieldName], n: int, best: int | None = None, seed: int = 0
) -> Filter:
    """Drop all but `n` records of a group, drawn among its best with chances in proportion to a score. Costs
    nothing.

    A group holds adjacent records with equal fields `per`. The draw is without replacement among the `best`
    (default: 2 n) records by the score `by`: the score of an earlier filter, or a field with a number.
    Measures the rank by score and the rank in the draw, from 1.

    Options:
        by: the score of an earlier filter, or a field with a number
        per: fields whose values the records of a group share
        n: records drawn from each group
        best: how many of the highest scores are drawn from; default: twice `n`
        seed: the seed of the draw
    """
    among = 2 * n if best is None else best
    if not 0 < n <= among:
        raise ValueError("'n' must be at least 1 and at most 'best'")

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        scores = [score(record) for record in records]
        ranked = sorted(range(len(records)), key=lambda i: -scores[i])
        lots = {i: lot(records[i], scores[i]) for i in ranked[:among]}
        drawn = [*sorted(lots, key=lots.__getitem__), *ranked[among:]]
        return [{"rank": ranked.index(i) + 1, "draw": drawn.index(i) + 1} for i in range(len(records))]

    def score(record: Record) -> float:
        return number_of(record, by) or 0.0

    def lot(record: Record, weight: float) -> float:
        """Return the waiting time of a record; the lowest times win the draw.

        Exponential waiting times give weighted draws without replacement (Efraimidis and Spirakis 2006).
        """
        return random.Random(f"{seed}:{record.id}").expovariate(1.0) / max(weight, 1e-12)

    def decide(number: dict[str, float]) -> str | None:
        if number["rank"] > among:
            return f"not among the {among} with the highest {by}: place {number['rank']:.0f}"
        return None if number["draw"] <= n else f"not drawn among the {among} with the highest {by}"

    return Filter(measure, decide, together=siblings(per))
