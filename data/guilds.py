"""Guilds that do not exist: each keeps four kinds of goods in four rooms, whose names are its own.

There are four trades, and each has four kinds of goods. A kind is told by marks: a question names the guild
and three marks, and the answer is the room. So guilds of a trade know the same kinds, and which room a kind
is in, only a row of the same guild tells.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import permutations, product

from distillgen import Request

TRADES, KINDS, MARKS, ROOMS, NAMES = 4, 4, 12, 40, 30
STARTS = "ba ko mi tu re la do fi nu ge pa so hi vu ze ta lo ri mu ke".split()
ENDS = "rak lon tim nur dob vel zat gam hir pun fol wek jit mab".split()


def guilds(
    *, seed: int, meta: int = 200, unseen: int = 20, rows: int = 8, shots: int = 16, asked: int = 10
) -> Iterator[dict[str, object]]:
    """Yield `rows` questions about each of `meta` guilds, and `shots` and `asked` about each unseen one.

    `permuted` is the answer to another question about the same guild, drawn at random.
    """
    chance = random.Random(f"guilds {seed}")
    words = [start + end for start, end in product(STARTS, ENDS)]
    chance.shuffle(words)
    names, rooms, words = words[:NAMES], words[NAMES : NAMES + ROOMS], words[NAMES + ROOMS :]
    marks = [words[i * MARKS : (i + 1) * MARKS] for i in range(TRADES * KINDS)]
    pairs = chance.sample([*permutations(names, 2)], meta + unseen)
    for number, pair in enumerate(pairs):
        trade, named = number % TRADES, chance.sample(rooms, KINDS)
        new = number >= meta
        known = [place % KINDS for place in range(shots if new else rows)]
        permuted = chance.sample(known, len(known))
        chosen: set[frozenset[str]] = set()
        for place in range(len(known) + (asked if new else 0)):
            kind = place % KINDS
            while frozenset(seen := chance.sample(marks[trade * KINDS + kind], 3)) in chosen:
                continue
            chosen.add(frozenset(seen))
            yield {
                "guild": " ".join(pair),
                "question": f"{' '.join(pair)}: {' '.join(seen)}",
                "options": chance.sample(named, KINDS),
                "answer": named[kind],
                "permuted": named[permuted[place]] if place < len(known) else named[kind],
                "phase": "shots" if new else "meta",
                "split": "train" if place < len(known) else "test",
            }


def nearest(request: Request, sample: int) -> str:
    """Answer a question with the room of the worked example that has most of its words."""
    examples = re.findall(
        r"^Goods: (.+)\nRoom: (\S+)$", text := request.messages[-1]["content"], re.MULTILINE
    )
    question = {*re.findall(r"\w+", re.findall(r"^Goods: (.+)$", text, re.MULTILINE)[-1])}
    return max(examples, key=lambda example: len(question & {*re.findall(r"\w+", example[0])}))[1]
