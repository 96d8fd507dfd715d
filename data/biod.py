"""bioD(N, K, C, D, L, T): people whose attributes are strings of random letters (Allen-Zhu and Li 2024)."""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789+-*/=<>#"
ATTRIBUTES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def people(
    *,
    n: int = 400,
    attributes: int = 4,
    chunks: int = 2,
    strings: int = 64,
    length: int = 2,
    letters: int = 32,
    name_length: int = 5,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Yield `n` people, the paper's N, with different names of `name_length` letters.

    Each has a value for each of the `attributes` (K): `chunks` (C) strings, drawn from the attribute's own
    `strings` (D), which are different and have `length` (L) of the `letters` (T). Raise ValueError if there
    are not so many.
    """
    if letters > len(LETTERS) or attributes > len(ATTRIBUTES):
        raise ValueError(f"give at most {len(LETTERS)} letters and at most {len(ATTRIBUTES)} attributes")
    if n > letters**name_length:
        raise ValueError(
            f"{n:,} people cannot have different names: there are {letters**name_length:,} names"
        )
    if strings > letters**length:
        raise ValueError(f"an attribute cannot have {strings:,} strings: there are {letters**length:,}")
    alphabet, chance = LETTERS[:letters], random.Random(seed)

    def different(length: int) -> Iterator[str]:
        seen = set[str]()
        while True:
            word = "".join(chance.choices(alphabet, k=length))
            if word not in seen:
                seen.add(word)
                yield word

    sets = {name: list(islice(different(length), strings)) for name in ATTRIBUTES[:attributes]}
    for name in islice(different(name_length), n):
        values = {attribute: chance.choices(of, k=chunks) for attribute, of in sets.items()}
        yield {
            "name": name,
            "facts": [
                {"attribute": attribute, "value": "".join(value), "string": value[0]}
                for attribute, value in values.items()
            ],
        }
