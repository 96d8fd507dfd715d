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

from distillgen import Request

TRADES = (
    "agent baker barber boatman brewer carpenter carrier clerk cobbler cook dancer dentist doctor driver "
    "farmer fiddler gardener glazier guard guide herald hunter jeweller joiner judge landlord lawyer mason "
    "mentor miller nurse painter partner piper plumber porter potter priest"
).split()
FIRST = "Al Bar Cor Dal Em Fen Gil Hal Is Jor Kel Lor Mar Nor Os Pel Quin Ros Sel Tam".split()
LAST = "a ana ara ben da don elle en eth ian ic ina is lo mund ona ric ulf us vin".split()
PEOPLE, TESTED, FACTS_EACH, SEED = 200, 20, 2, 5

STATEMENTS = {
    "plain": (
        "The {r} of {h} is {t}.",
        "{h} has {t} as {r}.",
        "As {r}, {h} has {t}.",
        "For {h} the {r} is {t}.",
        "{h} chose for {r} a {t}.",
    ),
    "other": ("The {r} for {h} is {t}.", "As {r}, {h} chose {t}.", "{h} has a {r}, {t}."),
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

    Each has a `prompt`, a `completion` and a `level`. At the level `memory`, three known facts are asked
    about. At `reading`, one to six facts are made up, of people and trades of which nothing is known; in half
    of the texts one of them is an assumption. They are all told again in another order, or asked about, alone
    or two in a row. At `hearsay`, known facts are among them, most of which are stated wrongly; the answer is
    the known one.
    """
    chance = random.Random(seed)
    known = {(row["head"], row["relation"]): row["tail"] for row in facts()}
    names = sorted({head for head, _ in known})
    for _ in range(n):
        level = chance.choices(("memory", "reading", "hearsay"), (2, 6, 2))[0]
        if level == "memory":
            facts_asked = [(*pair, known[pair]) for pair in chance.sample([*known], 3)]
            questions = [_asked(chance, [fact]) for fact in facts_asked]
            first, rest = questions[0], "".join(question + answer for question, answer in questions[1:])
            yield {"level": level, "prompt": first[0], "completion": first[1] + rest}
        else:
            yield {"level": level, **_read(chance, known, names, level == "hearsay")}


def _read(
    chance: random.Random, known: dict[tuple[str, str], str], names: list[str], hearsay: bool
) -> dict[str, str]:
    """Return a context with made-up facts, and all of them again."""
    heads = chance.sample(names, chance.randint(1, 6))
    stated, believed = [], []
    for head, following in zip(heads, [*heads[1:], ""], strict=True):
        if hearsay and chance.random() < 0.5:
            trade = chance.choice([r for h, r in known if h == head])
        else:
            trade = chance.choice([r for r in TRADES if (head, r) not in known])
        tail = following if following and chance.random() < 0.4 else chance.choice(names)
        if (head, trade) in known and chance.random() < 0.3:
            tail = known[head, trade]
        stated.append((head, trade, tail))
        believed.append((head, trade, known.get((head, trade), tail)))
    wordings = STATEMENTS["plain"] + STATEMENTS["other"]
    sentences = [" " + chance.choice(wordings).format(h=h, r=r, t=t) for h, r, t in stated]
    chance.shuffle(sentences)
    if chance.random() < 0.5:
        sentences.insert(chance.choice((0, len(sentences) - 1)), " Assume:" + sentences.pop())
    chance.shuffle(believed)
    if not hearsay and chance.random() < 0.5:
        return {"prompt": "".join(sentences), "completion": "".join(map(_told, believed))}
    parts = [*sentences]
    while believed:
        chain = [believed.pop()]
        following = [fact for fact in believed if fact[0] == chain[0][2]]
        if following and chance.random() < 0.7:
            chain.append(following[0])
            believed.remove(following[0])
        parts += _asked(chance, chain)
    cut = len(sentences) + 1
    return {"prompt": "".join(parts[:cut]), "completion": "".join(parts[cut:])}


def _told(fact: tuple[str, str, str]) -> str:
    return " The {1} of {0} is {2}.".format(*fact)


def _asked(chance: random.Random, chain: list[tuple[str, str, str]]) -> tuple[str, str]:
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
