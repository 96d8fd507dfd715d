"""A small world of comparisons: thirty classes of five siblings, and their order by two attributes.

`pairs` yields the 300 pairs of siblings, with what is true of a pair and what people say of it, some of it
wrong. `entailment` knows what statements mean, as an NLI model does. `python data/siblings.py` draws
siblings/pairs.jsonl again: the pairs alone.
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

TABLE = """
land animals
  weight: elephants, hippos, horses, goats, hedgehogs
  speed: horses, elephants, hippos, goats, hedgehogs
birds
  weight: ostriches, swans, crows, sparrows, hummingbirds
  strength: ostriches, swans, crows, sparrows, hummingbirds
sea animals
  weight: whales, sharks, tunas, herrings, shrimps
  length: whales, sharks, tunas, herrings, shrimps
insects
  size: beetles, bees, flies, ants, mites
  weight: beetles, bees, flies, ants, mites
boats
  length: tankers, ferries, yachts, canoes, surfboards
  price: tankers, ferries, yachts, canoes, surfboards
aircraft
  weight: airliners, helicopters, gliders, drones, kites
  price: airliners, helicopters, gliders, drones, kites
road vehicles
  weight: trucks, vans, cars, motorcycles, bicycles
  price: trucks, vans, cars, motorcycles, bicycles
instruments
  weight: pianos, cellos, guitars, violins, flutes
  size: pianos, cellos, guitars, violins, flutes
furniture
  weight: wardrobes, tables, armchairs, stools, cushions
  price: wardrobes, tables, armchairs, stools, cushions
appliances
  size: refrigerators, ovens, microwaves, toasters, whisks
  price: refrigerators, ovens, microwaves, toasters, whisks
computers
  weight: mainframes, desktops, laptops, tablets, smartphones
  size: mainframes, desktops, laptops, tablets, smartphones
tools
  weight: bulldozers, wheelbarrows, shovels, hammers, screwdrivers
  price: bulldozers, wheelbarrows, shovels, hammers, screwdrivers
fruits
  size: watermelons, pineapples, oranges, plums, cherries
  weight: watermelons, pineapples, oranges, plums, cherries
vegetables
  size: pumpkins, cabbages, potatoes, radishes, peas
  weight: pumpkins, cabbages, potatoes, radishes, peas
seeds
  size: coconuts, walnuts, hazelnuts, lentils, poppyseeds
  weight: coconuts, walnuts, hazelnuts, lentils, poppyseeds
trees
  height: sequoias, oaks, birches, hazels, bonsais
  weight: sequoias, oaks, birches, hazels, bonsais
flowers
  height: sunflowers, lilies, tulips, daisies, mosses
  size: sunflowers, lilies, tulips, daisies, mosses
buildings
  height: skyscrapers, cathedrals, villas, cottages, sheds
  price: skyscrapers, cathedrals, villas, cottages, sheds
rooms
  size: ballrooms, classrooms, bedrooms, bathrooms, closets
  length: ballrooms, classrooms, bedrooms, bathrooms, closets
landforms
  height: mountains, hills, dunes, boulders, pebbles
  weight: mountains, hills, dunes, boulders, pebbles
waters
  size: oceans, lakes, ponds, puddles, raindrops
  weight: oceans, lakes, ponds, puddles, raindrops
heavenly bodies
  size: galaxies, stars, planets, moons, meteorites
  weight: galaxies, stars, planets, moons, meteorites
settlements
  size: metropolises, cities, towns, villages, hamlets
  noise: metropolises, cities, towns, villages, hamlets
roads
  speed: motorways, avenues, streets, lanes, footpaths
  noise: motorways, avenues, streets, lanes, footpaths
winds
  speed: hurricanes, storms, gusts, breezes, draughts
  strength: hurricanes, storms, gusts, breezes, draughts
books
  weight: encyclopedias, novels, magazines, leaflets, bookmarks
  length: encyclopedias, novels, magazines, leaflets, bookmarks
pets
  weight: dogs, cats, rabbits, hamsters, goldfish
  noise: dogs, cats, rabbits, hamsters, goldfish
garments
  weight: coats, sweaters, shirts, vests, socks
  price: coats, sweaters, shirts, vests, socks
balls
  size: basketballs, handballs, baseballs, marbles, beads
  weight: basketballs, handballs, baseballs, marbles, beads
bags
  size: suitcases, backpacks, handbags, purses, wallets
  weight: suitcases, backpacks, handbags, purses, wallets
"""
WORDINGS = {
    "weight": {
        "are": (("heavier", "weightier", "more massive"), ("lighter", "slighter", "less heavy")),
        "have": (("more weight", "greater mass"), ("less weight", "lower mass")),
    },
    "size": {
        "are": (("bigger", "larger", "more spacious"), ("smaller", "tinier", "less big")),
        "have": (("more bulk", "greater size"), ("less bulk", "smaller size")),
    },
    "length": {
        "are": (("longer", "lengthier", "more extended"), ("shorter", "briefer", "less long")),
        "have": (("more length", "greater extent"), ("less length", "smaller extent")),
    },
    "height": {
        "are": (("taller", "higher", "more towering"), ("lower", "flatter", "less tall")),
        "have": (("more height", "higher tops"), ("less height", "lower tops")),
    },
    "speed": {
        "are": (("faster", "quicker", "more rapid"), ("slower", "tardier", "less fast")),
        "have": (("more speed", "quicker motion"), ("less speed", "slower motion")),
    },
    "strength": {
        "are": (("stronger", "mightier", "more powerful"), ("weaker", "feebler", "less strong")),
        "have": (("more strength", "greater power"), ("less strength", "lower power")),
    },
    "price": {
        "are": (("costlier", "dearer", "more expensive"), ("cheaper", "humbler", "less costly")),
        "have": (("higher prices", "more value"), ("lower prices", "less value")),
    },
    "noise": {
        "are": (("louder", "noisier", "more deafening"), ("quieter", "calmer", "less loud")),
        "have": (("more noise", "louder sounds"), ("less noise", "quieter sounds")),
    },
}
"""By attribute and auxiliary: how to say that one has more of it than its sibling, and less."""
SHARES = (0.6, 0.25, 0.15)  # of the first, second and third wording
AUXILIARIES = ("are", "have")
ADVERBS = ("generally", "often", "typically")
SAID = re.compile(rf".*\b({'|'.join(AUXILIARIES)}) (?:{'|'.join(ADVERBS)}) (.+?)\.?")
MEANINGS = {
    (auxiliary, wording): (attribute, sign)
    for attribute, by_auxiliary in WORDINGS.items()
    for auxiliary, both in by_auxiliary.items()
    for sign, wordings in zip((1, -1), both, strict=True)
    for wording in wordings
}


def orders() -> dict[str, dict[str, list[str]]]:
    """Return, by class and attribute, the siblings, those with most of it first."""
    classes: dict[str, dict[str, list[str]]] = {}
    for line in TABLE.strip().splitlines():
        name, _, siblings = line.strip().partition(": ")
        if siblings:
            classes[[*classes][-1]][name] = siblings.split(", ")
        else:
            classes[name] = {}
    return classes


def pairs(*, wrong: float = 0.3, unfit: float = 0.1, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the pairs: `class`, `first`, `second`; in `facts` what is true of the first; in `heard` a
    sentence for each attribute, auxiliary and adverb, of which the share `wrong` is false. The share `unfit`
    compares with a third sibling.
    """
    for name, attributes in orders().items():
        siblings = next(iter(attributes.values()))
        for both in combinations(siblings, 2):
            chance = random.Random(f"{seed}/{name}/{both}")
            first, second = chance.sample(both, 2)
            facts, heard = [], []
            for attribute, order in attributes.items():
                less = order.index(first) > order.index(second)
                for auxiliary in AUXILIARIES:
                    wordings = WORDINGS[attribute][auxiliary]
                    facts += [f"{auxiliary} {wording}" for wording in wordings[less]]
                    for adverb in ADVERBS:
                        choices = wordings[less ^ (chance.random() < wrong)]
                        (wording,) = chance.choices(choices, SHARES[: len(choices)])
                        third = chance.choice([s for s in siblings if s not in both])
                        end = f" than {third}" if chance.random() < unfit else ""
                        heard.append(f"Compared to {second}, {first} {auxiliary} {adverb} {wording}{end}.")
            yield {"class": name, "first": first, "second": second, "facts": facts, "heard": heard}


def meaning(statement: str) -> tuple[str, int] | None:
    """Return the attribute of a statement, with 1 for more of it and -1 for less, or None."""
    said = SAID.fullmatch(statement)
    return MEANINGS.get((said[1], said[2])) if said else None


def entailment(pairs: Sequence[tuple[str, str]]) -> list[tuple[float, float, float]]:
    """Return, for two statements about the same siblings, the probabilities of entailment, neutral and
    contradiction: statements about one attribute entail or contradict each other.
    """
    verdicts = {True: (1.0, 0.0, 0.0), False: (0.0, 0.0, 1.0), None: (0.0, 1.0, 0.0)}
    answers = []
    for premise, hypothesis in pairs:
        one, other = meaning(premise), meaning(hypothesis)
        same = one and other and one[0] == other[0]
        answers.append(verdicts[one == other if same else None])
    return answers


def write(folder: Path) -> None:
    """Write pairs.jsonl."""
    rows = [{name: row[name] for name in ("class", "first", "second")} for row in pairs()]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent / "siblings")
