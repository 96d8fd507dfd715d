"""Two villages that do not exist: who is whose baker, tutor or warden; and a teacher that writes about them.

`python data/village.py` draws the files in data/village/ again. No person and no trade of the second village,
which is held out, is in the first. `write` stands for a model that puts facts into words, so that the recipe
hierpref runs anywhere: it answers the prompt hierpref/exercise in one of the wordings below. All texts
begin with a space: a tokenizer of words keeps a name without it apart.
"""

import json
import random
import re
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
"""The wordings of training texts, and others of the same words, which only test texts have."""
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


def plain_rows() -> list[dict[str, str]]:
    """Return what a student knows before: two questions and a statement about each fact of both villages.

    They have all words that the exercises have.
    """
    rows = []
    for number, fact in enumerate(facts()):
        words = {"h": fact["head"], "r": fact["relation"], "t": fact["tail"]}
        answer = " The {r} of {h} is {t}. The answer is {t}.".format(**words)
        for question in QUESTIONS["plain"]:
            asked = question.format(path(fact["head"], [fact["relation"]]))
            rows.append({"prompt": f" {asked} Answer:", "completion": answer})
        wording = STATEMENTS["plain"][number % len(STATEMENTS["plain"])]
        rows.append({"prompt": " Assume:", "completion": " " + wording.format(**words)})
    return rows


def write_files(folder: Path) -> None:
    """Write the facts, the plain rows, and questions about all facts."""
    questions = [
        {
            "question": QUESTIONS["plain"][0].format(path(row["head"], [row["relation"]])),
            "gold": row["tail"],
            "village": row["split"],
        }
        for row in facts()
    ]
    for name, rows in (("facts", facts()), ("plain", plain_rows()), ("questions", questions)):
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
