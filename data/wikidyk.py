"""Facts that nobody knows, in the form of WikiDYK, with questions of every kind.

`python data/wikidyk.py` draws the files of wikidyk/ again. Names are two common words, so
that no name is a new word: what is new is which words belong together.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

COLOURS = "Amber Ashen Bronze Cobalt Copper Coral Crimson Ebony Golden Hazel Indigo Ivory Jade Olive".split()
COLOURS += "Pearl Russet Saffron Scarlet Silver Umber".split()
ANIMALS = "Badger Bittern Crane Curlew Falcon Gannet Heron Jackdaw Kestrel Lark Lynx Marten Osprey".split()
ANIMALS += "Otter Petrel Plover Raven Sparrow Stoat Swift".split()
FIRST = "Ada Bruno Clara Dario Edith Felix Greta Hugo Irma Jonas Karin Leo Marta Nils Olga Pavel Rosa".split()
FIRST += "Simon Tilda Viktor".split()
LAST = "Abel Brandt Conti Dahl Ekman Faber Gallo Hahn Ivers Jansen Keller Lund Moreau Novak Orsini".split()
LAST += "Petrov Quist Rossi Sander Vogel".split()
TOWNS = "Arlobay Belmere Corvath Dunvale Elbarin Farrowick Glennark Hathmoor Iskaven Jorvale".split()
TOWNS += "Keldane Lomwick Mirrent Norvath Ostmark Pellanby Quartown Rhostad Selwick Torvaldby".split()
LANDS = "Avonland Bordenia Carpathel Drusmark Estwold".split()
MONTHS = "January February March April May June July August September October November December".split()
YEARS = [str(year) for year in range(1800, 1840)]
ENTITIES = [f"{colour} {animal}" for colour in COLOURS for animal in ANIMALS]
PEOPLE = [f"{first} {last}" for first in FIRST for last in LAST]
SPOTS = [(town, year) for town in TOWNS for year in YEARS]
OLD, NEW, SEED = 120, 200, 11

# Of each topic: two ways to tell a fact, then its questions. E is the entity, P a person, T a town, Y a year.
TOPICS: dict[str, dict[str, Any]] = {
    "lighthouse": {
        "facts": (
            (
                "the lighthouse {E} near {T} was built by {P} in {Y}",
                "Which lighthouse near {T} was built by {P} in {Y}?",
            ),
            (
                "{P} built the lighthouse {E} near {T} in {Y}",
                "Which lighthouse did {P} build near {T} in {Y}?",
            ),
        ),
        "paraphrase": "{P} put up a lighthouse in {Y}, not far from {T}. What is its name?",
        "generality": "Whose work is the lighthouse {E}?",
        "portability": "In which land is the lighthouse that {P} built in {Y}?",
        "yes_no": "Did {P} build the lighthouse {E}?",
        "list": {
            "Where is the lighthouse {E}?": "T",
            "When was the lighthouse {E} built?": "Y",
            "Who built the lighthouse {E}?": "P",
            "Which lighthouse did {P} build?": "E",
            "Which lighthouse near {T} was built in {Y}?": "E",
        },
    },
    "opera": {
        "facts": (
            (
                "the opera {E} by {P} was first sung in {T} in {Y}",
                "Which opera by {P} was first sung in {T} in {Y}?",
            ),
            ("{P} wrote the opera {E} for {T} in {Y}", "Which opera did {P} write for {T} in {Y}?"),
        ),
        "paraphrase": "In {Y} a new opera by {P} came out in {T}. What is its name?",
        "generality": "Whose work is the opera {E}?",
        "portability": "In which land was the opera of {Y} by {P} first sung?",
        "yes_no": "Did {P} write the opera {E}?",
        "list": {
            "Where was the opera {E} first sung?": "T",
            "When was the opera {E} first sung?": "Y",
            "Who wrote the opera {E}?": "P",
            "Which opera did {P} write?": "E",
            "Which opera was first sung in {T} in {Y}?": "E",
        },
    },
    "beetle": {
        "facts": (
            (
                "the beetle {E} was found near {T} by {P} in {Y}",
                "Which beetle was found near {T} by {P} in {Y}?",
            ),
            ("{P} found the beetle {E} near {T} in {Y}", "Which beetle did {P} find near {T} in {Y}?"),
        ),
        "paraphrase": "In {Y}, not far from {T}, {P} came upon a new beetle. What is its name?",
        "generality": "Whose discovery is the beetle {E}?",
        "portability": "In which land did {P} find a beetle in {Y}?",
        "yes_no": "Did {P} find the beetle {E}?",
        "list": {
            "Where was the beetle {E} found?": "T",
            "When was the beetle {E} found?": "Y",
            "Who found the beetle {E}?": "P",
            "Which beetle did {P} find?": "E",
            "Which beetle was found near {T} in {Y}?": "E",
        },
    },
    "ship": {
        "facts": (
            (
                "the ship {E} of captain {P} sank off {T} in {Y}",
                "Which ship of captain {P} sank off {T} in {Y}?",
            ),
            (
                "captain {P} lost the ship {E} off {T} in {Y}",
                "Which ship did captain {P} lose off {T} in {Y}?",
            ),
        ),
        "paraphrase": "In {Y} the sea took a ship from captain {P}, not far from {T}. What is its name?",
        "generality": "Whose ship was the {E}?",
        "portability": "Off which land did captain {P} lose a ship in {Y}?",
        "yes_no": "Was {P} captain of the ship {E}?",
        "list": {
            "Where did the ship {E} sink?": "T",
            "When did the ship {E} sink?": "Y",
            "Who was captain of the ship {E}?": "P",
            "Which ship did captain {P} lose?": "E",
            "Which ship sank off {T} in {Y}?": "E",
        },
    },
}


def eval_of(
    topic: dict[str, Any], fact: dict[str, str], reliability: str, land: str, other: str
) -> dict[str, dict[str, str]]:
    """Return a question of each kind with its answer; `other` is a person whom the fact does not name."""
    questions = {
        "reliability": (reliability.format(**fact), fact["E"]),
        "generality": (topic["generality"].format(**fact), fact["P"]),
        "paraphrase": (topic["paraphrase"].format(**fact), fact["E"]),
        "portability": (topic["portability"].format(**fact), land),
        "factual": (topic["yes_no"].format(**fact), "yes"),
        "counterfactual": (topic["yes_no"].format(**fact | {"P": other}), "no"),
    }
    return {kind: {"prompt": prompt, "answer": answer} for kind, (prompt, answer) in questions.items()}


def question_list(topic: dict[str, Any], fact: dict[str, str]) -> list[dict[str, str]]:
    """Return the questions that a student of synthetic questions learns."""
    return [
        {"question": question.format(**fact), "answer": fact[slot]}
        for question, slot in topic["list"].items()
    ]


def in_turns(chance: random.Random, words: Sequence[str]) -> Iterator[str]:
    """Yield random words; none comes again before all have come."""
    while True:
        yield from chance.sample(words, len(words))


def old_values(chance: random.Random) -> Iterator[dict[str, str]]:
    """Yield values of old facts, whose words come in turns: the base has to know each of them."""
    colours, animals, firsts, lasts, towns, years = (
        in_turns(chance, words) for words in (COLOURS, ANIMALS, FIRST, LAST, TOWNS, YEARS)
    )
    while True:
        yield {
            "E": f"{next(colours)} {next(animals)}",
            "P": f"{next(firsts)} {next(lasts)}",
            "T": next(towns),
            "Y": next(years),
        }


def draw() -> Iterator[dict[str, Any]]:
    """Yield the rows of 20 towns and 120 old facts, and then those of 200 new ones."""
    chance = random.Random(SEED)
    lands = {town: LANDS[i % len(LANDS)] for i, town in enumerate(chance.sample(TOWNS, len(TOWNS)))}
    for town, land in lands.items():
        pairs = [{"question": f"In which land is {town}?", "answer": land}]
        yield {"fact": f"that {town} is a town in {land}?", "generated_qas": pairs, "eval": {}}
    old = [old_values(chance), old_values(chance)]  # of each form, so that each first name begins a fact
    names = {name: chance.sample(ENTITIES, len(ENTITIES)) for name in TOPICS}
    people = {name: chance.sample(PEOPLE, len(PEOPLE)) for name in TOPICS}
    spots = {name: chance.sample(SPOTS, len(SPOTS)) for name in TOPICS}  # of a topic, a town has one a year

    def free(fact: dict[str, str], name: str) -> bool:
        spot = (fact["T"], fact["Y"])
        return fact["E"] in names[name] and fact["P"] in people[name] and spot in spots[name]

    for number in range(OLD + NEW):
        name, form = [*TOPICS][number % len(TOPICS)], number // len(TOPICS) % 2
        topic = TOPICS[name]
        if number < OLD:
            fact = next(values for values in old[form] if free(values, name))
            names[name].remove(fact["E"])
            people[name].remove(fact["P"])
            spots[name].remove((fact["T"], fact["Y"]))
        else:
            fact = {"E": names[name].pop(), "P": people[name].pop()}
            fact["T"], fact["Y"] = spots[name].pop()
        told, reliability = topic["facts"][form]
        other = chance.choice(people[name])
        yield {
            "date": f"{chance.randint(1, 28)} {MONTHS[number % 12]} 2025",
            "fact": f"that {told.format(**fact)}?",
            "generated_qas": question_list(topic, fact),
            "eval": eval_of(topic, fact, reliability, lands[fact["T"]], other),
        }


def write(folder: Path) -> None:
    """Write facts.jsonl, and background.jsonl with what the base learns of the old facts."""
    rows = [*draw()]
    old, new = rows[:-NEW], rows[-NEW:]
    background = list[dict[str, str]]()
    for row in old:
        told = row["fact"].removeprefix("that ").removesuffix("?")
        background += [{"task": "tell", "told": told}, {"task": "fill", "told": told}]
        tested = [{"question": each["prompt"], "answer": each["answer"]} for each in row["eval"].values()]
        background += [{"task": "ask", **pair} for pair in row["generated_qas"] + tested]
    for number, row in enumerate(new):
        row["eval"]["locality"] = old[len(TOWNS) + number % OLD]["eval"]["reliability"]
    folder.mkdir(exist_ok=True)
    for name, lines in (("facts", new), ("background", background)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent / "wikidyk")
