"""Languages that do not exist: one grammar, a vocabulary for each, and a few words that all of them have."""

import random
from collections.abc import Iterator
from itertools import product
from typing import Any

CLASSES, WORDS = 10, 4  # of words, and words of a class in a language
SYLLABLES = [a + b for a, b in product("bdfgklmnprstvz", "aeiou")]


class World:
    """The grammar and the vocabularies: a pure function of the seed and the number of languages."""

    def __init__(self, seed: int, languages: int) -> None:
        chance = random.Random(f"tongues/{seed}")
        words = iter(chance.sample([a + b for a, b in product(SYLLABLES, repeat=2)], 1000))
        self.next = [chance.sample(range(CLASSES), 2) for _ in range(CLASSES)]
        self.common = [next(words) for _ in range(CLASSES)]
        self.words = [[[next(words) for _ in range(WORDS)] for _ in range(CLASSES)] for _ in range(languages)]
        self.often = [[[chance.random() ** 3 + 0.05 for _ in row] for row in tongue] for tongue in self.words]

    def text(self, chance: random.Random, tongue: int, length: int, common: float) -> tuple[list[str], int]:
        """Return a text, and the class of its last word, which is a word of the language alone."""
        words, place = list[str](), chance.randrange(CLASSES)
        for left in range(length, 0, -1):
            place = self.next[place][chance.random() > 0.8]
            if left > 1 and chance.random() < common:
                words.append(self.common[place])
            else:
                words += chance.choices(self.words[tongue][place], self.often[tongue][place])
        return words, place


def tongues(
    *,
    seed: int,
    languages: int = 6,
    texts: int = 1000,
    tasks: int = 1000,
    test: int = 100,
    length: int = 16,
    common: float = 0.2,
) -> Iterator[dict[str, Any]]:
    """Yield texts of each `language`, and tasks in the first two: to name the common word of the class that
    the last word is of.

    A row has a `prompt` and its `completion`; `kind` is text or task, and `split` train or test. Only the
    first language has tasks to learn from, and both have tasks for the test. The share `common` of the words
    of a text is the same in all languages.
    """
    world, chance = World(seed, languages), random.Random(f"tongues/{seed}/texts")
    for number, split in ((texts, "train"), (test, "test")):
        for tongue, _ in product(range(languages), range(number)):
            words, _ = world.text(chance, tongue, length, common)
            row = {"prompt": " ".join(words[:4]), "completion": " ".join(["", *words[4:], "."])}
            yield {"language": f"l{tongue}", "kind": "text", **row, "split": split}
    for tongue, number, split in ((0, tasks, "train"), (0, test, "test"), (1, test, "test")):
        for _ in range(number):
            words, place = world.text(chance, tongue, length, common)
            row = {"prompt": " ".join([*words, "."]), "completion": f" {world.common[place]}"}
            yield {"language": f"l{tongue}", "kind": "task", **row, "split": split}
