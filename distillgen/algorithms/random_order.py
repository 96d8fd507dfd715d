"""Random samples and permutations of numbers that need little memory."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence


def ordered_sample(count: int, total: int, chance: random.Random) -> Iterator[int]:
    """Yield `count` random numbers below `total`, in order (Knuth's algorithm S)."""
    for i in range(total):
        if chance.random() * (total - i) < count:
            count -= 1
            yield i


def cyclic_permutation(count: int, chance: random.Random) -> Sequence[int]:
    """Return a random permutation of one cycle: no number keeps its place (Sattolo's algorithm)."""
    others = array("Q", range(count))
    for i in range(count - 1, 0, -1):
        j = chance.randrange(i)
        others[i], others[j] = others[j], others[i]
    return others
