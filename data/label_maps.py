"""Tasks that exist only in their demonstrations: each maps four fruits to four colours at random.

There are 256 such maps. A quarter of them is held out: no training row has such a map. A row shows 16 pairs
of a map, and asks: a training row about each fruit once, a test row about one. One guess of four is right.
All texts begin with a space: a tokenizer of words keeps a word without it apart.
"""

import itertools
import random
from collections.abc import Iterator

FRUITS = ("kiwi", "plum", "lime", "fig")
COLOURS = ("red", "blue", "green", "gold")
PAIRS = 16


def label_maps(*, rows: int = 12000, tested: int = 512, seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield training rows, then `tested` test rows.

    `demos` are the pairs that are shown; `prompt` is a fruit, and `completion` its colour, in a training row
    with the other fruits and theirs. `text` is all of that. In `other` each colour is drawn at random.
    """
    chance = random.Random(seed)
    maps = [*itertools.product(COLOURS, repeat=len(FRUITS))]
    chance.shuffle(maps)
    held_out, known = maps[: len(maps) // 4], maps[len(maps) // 4 :]
    for number in range(rows + tested):
        split = "train" if number < rows else "test"
        colours = chance.choice(known if split == "train" else held_out)
        pair = {fruit: f" {fruit} {colour}" for fruit, colour in zip(FRUITS, colours, strict=True)}
        fruits = chance.choices(FRUITS, k=PAIRS)
        query = "".join(
            pair[fruit] for fruit in chance.sample(FRUITS, len(FRUITS) if split == "train" else 1)
        )
        prompt, completion = query[: query.index(" ", 1)], query[query.index(" ", 1) :]
        demos = "".join(pair[fruit] for fruit in fruits)
        yield {
            "task": " ".join(colours),
            "demos": demos,
            "other": "".join(f" {fruit} {chance.choice(COLOURS)}" for fruit in fruits),
            "prompt": prompt,
            "completion": completion,
            "text": demos + query,
            "split": split,
        }
