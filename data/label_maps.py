"""Tasks that exist only in their demonstrations: each maps four fruits to four colours at random.

There are 256 such maps. A quarter of them is held out: no training row has such a map. A row shows 16 pairs of
a map, and asks about one more; by chance, one answer of four is right.
"""

import itertools
import random
from collections.abc import Iterator

FRUITS = ("kiwi", "plum", "lime", "fig")
COLOURS = ("red", "blue", "green", "gold")
SHOWN = 16


def label_maps(*, rows: int = 12000, tested: int = 512, seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield training rows, then `tested` test rows.

    `demos` and `prompt` with `completion` are the pairs that are shown and the one that is asked; `text` is
    all of them; in `other` the colours that are shown are drawn at random, pair by pair.
    """
    chance = random.Random(seed)
    maps = [*itertools.product(COLOURS, repeat=len(FRUITS))]
    chance.shuffle(maps)
    held_out, known = maps[: len(maps) // 4], maps[len(maps) // 4 :]
    for number in range(rows + tested):
        split = "train" if number < rows else "test"
        colours = chance.choice(known if split == "train" else held_out)
        colour_of = dict(zip(FRUITS, colours, strict=True))
        shown, fruit = chance.choices(FRUITS, k=SHOWN), chance.choice(FRUITS)
        demos = "".join(f" {name} {colour_of[name]}" for name in shown)
        yield {
            "task": " ".join(colours),
            "demos": demos,
            "other": "".join(f" {name} {chance.choice(COLOURS)}" for name in shown),
            "prompt": f" {fruit}",
            "completion": f" {colour_of[fruit]}",
            "text": f"{demos} {fruit} {colour_of[fruit]}",
            "split": split,
        }
