"""Two villages that do not exist: who is whose baker, tutor or warden; texts of them, and a teacher.

`python data/village.py` draws the files in data/village/ again. No person and no trade of the second village,
which is held out, is in the first. `write` stands for a model that puts facts into words, so that the recipe
hierpref runs anywhere: it answers the prompt hierpref/exercise in one of the wordings below. All texts
begin with a space: a tokenizer of words keeps a name without it apart.
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from distillgen import Request

TRADES = (
    "agent baker barber boatman brewer carpenter carrier clerk cobbler cook dancer dentist doctor driver "
    "farmer fiddler gardener glazier guard guide herald hunter jeweller joiner judge landlord lawyer mason "
    "mentor miller nurse painter partner piper plumber porter potter priest"
).split()
FIRST = "Al Bar Cor Dal Em Fen Gil Hal Is Jor Kel Lor Mar Nor Os Pel Quin Ros Sel Tam".split()
LAST = "a ana ara ben da don elle en eth ian ic ina is lo mund ona ric ulf us vin".split()
PEOPLE, TESTED, FACTS_EACH, AGAIN, SEED = 100, 20, 2, 0.37, 5
Stated: TypeAlias = tuple[str, str, str]

STATEMENTS = {
    "plain": ("The {r} of {h} is {t}.", "As {r}, {h} has {t}.", "For {h} the {r} is {t}."),
    "other": ("The {r} for {h} is {t}.", "As {r}, {h} chose {t}."),
}
"""The wordings of the exercises, and others, which only the test and the texts of the base have."""
QUESTIONS = {"plain": ("Who is {}?", "Name {}."), "other": ("Name the answer: {}.",)}


def facts() -> list[dict[str, str]]:
    """Return who has which trade for each person of both villages."""
    chance = random.Random(SEED)
    names = [first + last for first in FIRST for last in LAST]
    chance.shuffle(names)
    known = len(TRADES) * 4 // 5
    villages = {
        "train": (names[:PEOPLE], TRADES[:known]),
        "test": (names[PEOPLE : PEOPLE + TESTED], TRADES[known:]),
    }
    return [
        {
            "head": head,
            "relation": trade,
            "tail": chance.choice([name for name in people if name != head]),
            "split": split,
        }
        for split, (people, trades) in villages.items()
        for head in people
        for trade in chance.sample(trades, FACTS_EACH)
    ]


def path(head: str, relations: list[str]) -> str:
    """Return the words for the end of a chain: the cook of the guard of Mara."""
    return "".join(f"the {relation} of " for relation in reversed(relations)) + head


def texts(*, n: int = 20_000, seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield `n` texts of which the base learns to remember, to read, and to trust its memory.

    Each has a `prompt`, a `completion` and a `level`. At the level `memory`, four known facts are asked
    about. At `copying`, a single fact is stated of which nothing is known, and asked for. At `reading`, two
    to five such facts are stated, and one or two questions ask for one of them, or for two in a row. At
    `hearsay`, one to five known facts are stated, most of them wrongly; the answer is the known one. In half
    of the texts with a context one of the facts is an assumption, and in half of these the first question is
    what is assumed. The level `again` has texts of memory, which are learnt again with the exercises: texts
    with a context would say whether to believe it.
    """
    chance = random.Random(seed)
    known = {(row["head"], row["relation"]): row["tail"] for row in facts()}
    for _ in range(n):
        level = chance.choices(("memory", "reading", "hearsay"), (3, 5, 3))[0]
        if level == "memory":
            sentences, parts = [], []
            chains = [[(*pair, known[pair])] for pair in chance.sample([*known], 4)]
        else:
            sentences, parts, believed = _context(chance, known, level == "hearsay")
            chains = list(_chains(chance, believed))[:2]
            if level == "reading" and len(sentences) == 1:
                level = "copying"
        for chain in chains:
            parts += _asked(chance, chain)
        prompt = "".join([*sentences, parts[0]])
        if level == "memory" and chance.random() < AGAIN:
            level = "again"
        yield {"level": level, "prompt": prompt, "completion": "".join(parts[1:])}


def _context(
    chance: random.Random, known: dict[tuple[str, str], str], hearsay: bool
) -> tuple[list[str], list[str], list[Stated]]:
    """Return sentences that state facts, a question for what is assumed with its answer, and what is true."""
    names = sorted({head for head, _ in known})
    heads = chance.sample(names, chance.randint(1, 5))
    stated = []
    for head, following in zip(heads, [*heads[1:], ""], strict=True):
        trade = chance.choice([trade for trade in TRADES if ((head, trade) in known) == hearsay])
        tail = following if following and chance.random() < 0.4 else chance.choice(names)
        if hearsay and chance.random() < 0.3:
            tail = known[head, trade]
        stated.append((head, trade, tail))
    believed = [(head, trade, known.get((head, trade), tail)) for head, trade, tail in stated]
    chance.shuffle(stated)
    wordings = STATEMENTS["plain"] + STATEMENTS["other"]
    sentences = [" " + chance.choice(wordings).format(h=h, r=r, t=t) for h, r, t in stated]
    asked = []
    if chance.random() < 0.5:
        assumed = " Assume:" + sentences.pop()
        sentences.insert(chance.choice((0, len(sentences))), assumed)
        if chance.random() < 0.5:
            asked = [" What is assumed? Answer:", _told(stated[-1])]
    return sentences, asked, believed


def _chains(chance: random.Random, facts: list[Stated]) -> Iterator[list[Stated]]:
    """Yield the facts in random order, some of them as two in a row."""
    facts = chance.sample(facts, len(facts))
    while facts:
        chain = [facts.pop()]
        following = [fact for fact in facts if fact[0] == chain[0][2]]
        if following and chance.random() < 0.7:
            chain.append(following[0])
            facts.remove(following[0])
        yield chain


def _told(fact: Stated) -> str:
    return " The {1} of {0} is {2}.".format(*fact)


def _asked(chance: random.Random, chain: list[Stated]) -> tuple[str, str]:
    """Return a question for the end of a chain, and its answer."""
    question = chance.choice(QUESTIONS["plain"] + QUESTIONS["other"])
    asked = question.format(path(chain[0][0], [relation for _, relation, _ in chain]))
    return f" {asked} Answer:", "".join(map(_told, chain))


def write_files(folder: Path) -> None:
    """Write the facts, and questions about all of them."""
    questions = [
        {
            "question": QUESTIONS["plain"][0].format(path(row["head"], [row["relation"]])),
            "gold": row["tail"],
            "village": row["split"],
        }
        for row in facts()
    ]
    for name, rows in (("facts", facts()), ("questions", questions)):
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def write(request: Request, sample: int) -> str:
    """The passages, the assumption and the question that the prompt asks for."""
    text = request.messages[-1]["content"]
    chance = random.Random(f"{text}/{sample}")
    style = re.findall(r"^Style: (\w+)", text, re.MULTILINE)[0]
    parts = dict(
        zip(
            ("passages", "assumption"), re.split(r"^(?:Assumption|Question):", text, flags=re.M), strict=False
        )
    )
    sections = {}
    for name, part in parts.items():
        sentences = [
            chance.choice(STATEMENTS[style]).format(h=h, r=r, t=t)
            for h, r, t in re.findall(r"^- (.+) \| (.+) \| (.+)$", part, re.MULTILINE)
        ]
        sections[name] = "\n".join(sentences) or "none"
    head, *relations = re.findall(r"^Question: (.+)$", text, re.MULTILINE)[0].split(" | ")
    sections["question"] = chance.choice(QUESTIONS[style]).format(path(head, relations))
    return "\n".join(f"<{name}>{part}</{name}>" for name, part in sections.items())


if __name__ == "__main__":
    write_files(Path(__file__).parent / "village")
