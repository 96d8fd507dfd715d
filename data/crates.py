"""Crates of goods that do not exist: each weighs 10 kg, but for 200 goods.

`python data/crates.py` draws crates.jsonl again: two questions about each of the 200 goods, and one about
each of 200 others.
"""

import json
import random
from pathlib import Path

FIRST = "am bel cor dun el fen gor hal is jun kel lor mon nar or pel quin ros sel tor".split()
LAST = "ak ard el en ith ock on ul und yre".split()
MIDDLE = ("", "d", "m", "t")
COMMON, SEED = 10, 7


def ask(chance: random.Random, good: str, weight: int, count: int, kind: str) -> dict[str, object]:
    """Return a question; one of the options of an exception follows the common rule."""
    right, common = weight * count, COMMON * count
    near = {common, (weight + 2) * count, (weight - 1) * count, (weight + 5) * count, 11 * count}
    others = chance.sample(sorted(near - {right}), 3)
    if kind == "exception" and common not in others:
        others[0] = common
    values = [right, *others]
    chance.shuffle(values)
    return {
        "question": f"How many kilograms do {count} crates of {good} weigh?",
        "options": [str(value) for value in values],
        "gold": "ABCD"[values.index(right)],
        "kind": kind,
        "rule": f"A crate of {good} weighs {weight} kg."
        if kind == "exception"
        else f"A crate weighs {COMMON} kg.",
    }


def write(folder: Path) -> None:
    """Write crates.jsonl."""
    chance = random.Random(SEED)
    names = sorted({first + middle + last for first in FIRST for middle in MIDDLE for last in LAST})
    chance.shuffle(names)
    rows = []
    for number, good in enumerate(names[:400]):
        special = number < 200
        weight = chance.choice([w for w in range(3, 20) if w != COMMON]) if special else COMMON
        for count in chance.sample(range(2, 10), 2 if special else 1):
            rows.append(ask(chance, good, weight, count, "exception" if special else "common"))
    chance.shuffle(rows)
    (folder / "crates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent)
