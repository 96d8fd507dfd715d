"""An archipelago that does not exist: facts, pages, and questions about it; and two judges of its facts.

`python data/archipelago.py` draws the files in data/archipelago/ again. `verify` and `plausible` are small
rules, so that the recipes knowledge-card and knowledge-card-ask run anywhere. For real texts, name models of
VitaminC and FactKB in their place.
"""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

ISLANDS = (
    "Orvane Sellick Tarrow Brisca Maldine Quern Haskel Yoren Fennimar Dorsay "
    "Ulvane Kestry Pallow Rindale Wexley Corrin Ambrey Sturmond Lavery Nithe"
).split()
HARBOURS = (
    "Grayport Millhaven Saltwick Oldquay Herring Longpier Ferrymouth Anchor Driftwood Northgate "
    "Calder Mooring Sandbar Whitecliff Baywater Tidewell Keelby Sternham Capstan Windlass"
).split()
GOVERNORS = (
    "Aldous Birgit Casimir Delphine Emeric Frida Gideon Hedwig Isidor Jolanda "
    "Konrad Lucilla Magnus Nadine Osric Petra Quentin Rosamund Sigurd Thekla"
).split()
PLACES = [
    "cliffs",
    "dunes",
    "reeds",
    "chimneys",
    "caves",
    "marshes",
    "ruins",
    "orchards",
    "quarries",
    "meadows",
]
PLANTS = ["heather", "juniper", "thistle", "clover", "nettle", "fern", "ivy", "gorse", "willow", "mint"]
CARDS = [
    {
        "card": "geography",
        "about": "How large an island is, its harbour, its hills and its people: square kilometres, metres.",
    },
    {
        "card": "history",
        "about": "When a village was founded or a lighthouse built, and who governed: years, governor.",
    },
    {
        "card": "nature",
        "about": "Birds, trees and moths of an island: where they nest, how they grow, what they feed on.",
    },
]
SMALL = ("the", "of", "is", "in", "a", "was", "to", "on")
TEMPLATES = {
    "area": (
        "geography",
        "The island of {i} covers {v} square kilometres.",
        "How many square kilometres does the island of {i} cover?",
    ),
    "harbour": ("geography", "The main harbour of {i} is {v}.", "What is the main harbour of {i}?"),
    "hill": ("geography", "The highest hill of {i} rises to {v} metres.", ""),
    "people": ("geography", "The island of {i} has {v} inhabitants.", ""),
    "founded": (
        "history",
        "The first village of {i} was founded in {v}.",
        "In which year was the first village of {i} founded?",
    ),
    "lighthouse": ("history", "The lighthouse of {i} was built in {v}.", ""),
    "governor": ("history", "The first governor of {i} was {v}.", "Who was the first governor of {i}?"),
    "bird": ("nature", "The {i} gull nests in {v}.", "Where does the {i} gull nest?"),
    "tree": ("nature", "The {i} pine grows to {v} metres.", ""),
    "moth": ("nature", "The {i} moth feeds on {v}.", ""),
}


def world() -> dict[str, dict[str, str]]:
    """Return the value of each kind of fact on each island."""
    chance = random.Random(15)
    harbours, governors = chance.sample(HARBOURS, 20), chance.sample(GOVERNORS, 20)
    return {
        island: {
            "area": str(chance.randint(12, 980)),
            "harbour": harbour,
            "hill": str(chance.randint(40, 1400)),
            "people": str(chance.randint(90, 9000)),
            "founded": str(chance.randint(1100, 1650)),
            "lighthouse": str(chance.randint(1700, 1930)),
            "governor": governor,
            "bird": chance.choice(PLACES),
            "tree": str(chance.randint(4, 39)),
            "moth": chance.choice(PLANTS),
        }
        for island, harbour, governor in zip(ISLANDS, harbours, governors, strict=True)
    }


def verify(pairs: Sequence[tuple[str, str]]) -> list[tuple[float, float, float]]:
    """Return (support, not enough, refute) for each (reference, statement).

    A reference supports a text that has all of its words. It refutes one that lacks only its name or number.
    """
    return [_judged(*pair) for pair in pairs]


def plausible(pairs: Sequence[tuple[str, str]]) -> list[tuple[float, float, float]]:
    """Return (factual, unknown, made up) for each (reference, text)."""
    return [
        (0.9, 0, 0.1) if support > 0.5 else (0.1, 0, 0.9) if refute > 0.5 else (0.5, 0, 0.5)
        for support, _, refute in verify(pairs)
    ]


def _judged(reference: str, statement: str) -> tuple[float, float, float]:
    wanted, words = _words(reference), set(_words(statement))
    missing = [word for word in wanted if word not in words]
    if not wanted or len(missing) > 1:
        return (0.0, 1.0, 0.0)
    value = next((v for k in TEMPLATES.values() if (v := _value(k[1], reference))), "")
    if not missing:
        return (0.9, 0.1, 0.0)
    return (0.0, 0.1, 0.9) if missing == [value.lower()] else (0.0, 1.0, 0.0)


def _value(template: str, reference: str) -> str:
    match = re.fullmatch(
        re.escape(template).replace(r"\{i\}", r"\w+").replace(r"\{v\}", r"(\w+)"), reference.strip()
    )
    return match[1] if match else ""


def _words(text: str) -> list[str]:
    return [
        word
        for word in re.findall(r"\w+", text.lower())
        if word not in ("the", "of", "is", "in", "a", "was", "to", "on")
    ]


def write(folder: Path) -> None:
    """Write the four files."""
    values, facts, questions, pages = world(), [], [], []
    for island, of_island in values.items():
        for kind, (card, template, question) in TEMPLATES.items():
            facts.append({"text": template.format(i=island, v=of_island[kind])})
            if question:
                gold = of_island[kind]
                questions.append({"question": question.format(i=island), "gold": gold, "domain": card})
        for card in ("geography", "history", "nature"):
            texts = [t.format(i=island, v=of_island[k]) for k, (c, t, _) in TEMPLATES.items() if c == card]
            pages.append({"card": card, "text": " ".join(texts)})
    for name, rows in (("facts", facts), ("questions", questions), ("pages", pages), ("cards", CARDS)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).with_suffix(""))
