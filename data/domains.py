"""Planted domains: what makes a class is the same in all, and hidden by an offset of each."""

import math
import random
from collections.abc import Iterator
from typing import Any


def domains(
    *,
    seed: int,
    sources: int = 30,
    rows: int = 48,
    new: int = 10,
    support: int = 24,
    test: int = 200,
    experts: int = 3,
    width: int = 16,
    spread: float = 2.0,
) -> Iterator[dict[str, Any]]:
    """Yield `x` of `width` numbers, `gold`, `label`, `domain`, `other`, `expert`, `role` and `split`.

    A direction u is drawn. In a domain with the offset b, x is z + b · u; the class is whether z · u > 0. z
    has variance 1, and b the deviation `spread`: a row alone does not tell its class, and its domain does.

    The `sources` have `rows` rows with a label, role source. Each `new` domain has `support` rows without a
    label, role support, and `test` rows, role asked. `expert` is the number of the expert that learns from a
    source domain. `other` is another new domain, which may adapt to the row: a control.
    """
    chance = random.Random(seed)
    direction = [chance.gauss(0, 1) for _ in range(width)]
    length = math.sqrt(sum(number**2 for number in direction))
    for domain in range(sources + new):
        offset, place = chance.gauss(0, spread), domain - sources
        name, other = (f"s{domain}", None) if place < 0 else (f"n{place}", f"n{(place + 1) % new}")
        expert = domain * experts // sources if place < 0 else None
        for number in range(rows if place < 0 else support + test):
            role = "source" if place < 0 else "support" if number < support else "asked"
            z = [chance.gauss(0, 1) for _ in range(width)]
            along = sum(a * b for a, b in zip(z, direction, strict=True)) / length
            gold = "above" if along > 0 else "below"
            yield {
                "x": [a + offset * b / length for a, b in zip(z, direction, strict=True)],
                "gold": gold,
                "label": gold if role == "source" else None,
                "domain": name,
                "other": other,
                "expert": expert,
                "role": role,
                "split": "test" if role == "asked" else "train",
            }
