"""Residents who do not exist: what is true of each of them, and what is true of somebody else."""

import random
from collections.abc import Iterator
from typing import Any

STARTS = "bal cor dev fen gor hal ior jun kel lom mir nar osk pel quin ros sel tam urb vel".split()
ENDS = "a ard en esk ila imo ona or us yn".split()
ASKED = {
    "town": (("{} was born in", "The birthplace of {} is"), ("Bexley", "Fulda", "Narvik", "Porto")),
    "craft": (("{} works as a", "The craft of {} is that of a"), ("baker", "dyer", "mason", "tailor")),
    "animal": (("{} keeps a", "The animal of {} is a"), ("canary", "ferret", "lizard", "parrot")),
}


def residents(*, seed: int, people: int = 60, paired: float = 0.5) -> Iterator[dict[str, Any]]:
    """Yield three facts of each person, in two phrasings: `prompt`, the true `chosen`, and `rejected`,
    which is true of another person.

    `pair` is true of the first phrasing for the share `paired` of the people, with a row for each value that
    is rejected; `learn` and `ask` are true of one row for each fact and phrasing, `ask` of the second
    phrasing alone. `one` and `two` are the two answers in an order drawn at random.
    """
    chance = random.Random(f"residents/{seed}")
    names = [(start + end).capitalize() for start in STARTS for end in ENDS]
    rows = []
    for place, name in enumerate(chance.sample(names, people)):
        for phrasings, values in ASKED.values():
            true = chance.choice(values)
            for number, phrasing in enumerate(phrasings):
                pair = number == 0 and place < paired * people
                others = [value for value in values if value != true]
                for rank, other in enumerate(others if pair else others[:1]):
                    answers = [f" {true}", f" {other}"]
                    one, two = chance.sample(answers, 2)
                    row = {"prompt": phrasing.format(name), "chosen": answers[0], "rejected": answers[1]}
                    row |= {"one": one, "two": two, "pair": pair, "learn": rank == 0}
                    row |= {"ask": rank == 0 and number == 1, "paired": place < paired * people}
                    rows.append(row)
    chance.shuffle(rows)
    yield from rows
