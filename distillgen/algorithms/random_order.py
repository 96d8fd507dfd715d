"""Random samples and permutations of numbers that need little memory."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Callable, Iterator, Sequence


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


def keyed_permutation(count: int, key: str) -> Callable[[int], int]:
    """Return a permutation of the numbers below `count` that depends on the key, without a table of them.

    It is a Feistel network of six rounds over the next power of four. A number that leaves the range is
    encrypted again until it is inside (cycle walking; Black and Rogaway 2002).
    """
    half = max(1, (max(1, count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1

    def scrambled(round_number: int, right: int) -> int:
        text = f"{key}/{round_number}/{right}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest()) & mask

    def permuted(i: int) -> int:
        while True:
            left, right = i >> half, i & mask
            for round_number in range(6):
                left, right = right, left ^ scrambled(round_number, right)
            i = left << half | right
            if i < count:
                return i

    return permuted
