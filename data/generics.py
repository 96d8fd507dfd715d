"""A small world of generics: 150 concepts of ten kinds, what is true of each kind, and what people say of it.

`generics` draws what people say, some of it false, and the concepts. `is_true` says whether a generic is
true. `python data/generics.py` writes stems.jsonl and draws labels.jsonl again, in data/generics/.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ADVERBS = ("generally", "often", "typically", "usually")
TABLE = """
animals: dogs cats horses cows goats donkeys pigs rabbits foxes wolves bears lions tigers mice camels
  can: run fast, smell food, hear quiet sounds, dig holes, swim in rivers
  have: four legs, warm fur, sharp teeth, long tails, good ears
  need: fresh water, food, sleep, shelter, exercise
  are found in: forests, fields, farms, mountains, zoos
  protect: their young, their food, their homes, the herd, small calves
birds: sparrows crows eagles owls ducks geese swans robins parrots pigeons hawks gulls herons storks finches
  can: fly, sing songs, build nests, lay eggs, see far
  have: two wings, light bones, feathers, hard beaks, good eyes
  need: fresh water, food, sleep, nests, open sky
  are found in: forests, gardens, parks, marshes, cities
  protect: their young, their eggs, their nests, their chicks, the flock
fish: carp trout salmon tuna sharks eels herrings sardines perch pikes cods minnows catfish rays anchovies
  can: breathe under water, lay eggs, swim in rivers, swim in oceans, sense currents
  have: shiny scales, strong fins, small gills, long tails, cold blood
  need: clean water, food, oxygen, algae, cool lakes
  are found in: lakes, oceans, rivers, aquariums, ponds
  are known for: swimming, long journeys, quick turns, shiny skin, large schools
trees: oaks pines birches maples willows elms firs beeches cedars poplars spruces larches alders palms limes
  can: grow tall, give shade, bend in storms, store carbon, bear seeds
  have: deep roots, green leaves, rough bark, thick trunks, strong branches
  need: fresh water, sunlight, good soil, space, minerals
  are found in: forests, gardens, parks, valleys, mountains
  produce: wood, oxygen, seeds, leaves, sweet sap
foods: apples pears plums cherries carrots onions beans lentils
foods: potatoes tomatoes lemons figs grapes beets melons
  have: thin skin, sweet juice, vitamins, soft flesh, many seeds
  need: sunlight, good soil, careful washing, cool storage, warm weather
  are found in: kitchens, gardens, markets, salads, farms
  are used to: make soup, feed families, fill pies, bake cakes, make jam
  attract: hungry birds, wasps, small insects, buyers, hungry children
tools: hammers saws drills chisels axes shovels rakes wrenches
tools: pliers screwdrivers knives scissors files hoes picks
  have: hard edges, wooden handles, steel parts, heavy heads, sharp blades
  need: careful cleaning, dry storage, skilled hands, oil, sharpening
  are made of: steel, wood, iron, plastic, hard metal
  are used to: repair fences, cut wood, shape stone, build houses, tend gardens
  are found in: sheds, workshops, garages, farms, kitchens
vehicles: cars trucks buses trams trains bicycles scooters tractors
vehicles: vans taxis motorcycles ambulances lorries carts jeeps
  have: round wheels, strong brakes, hard seats, bright lights, steel parts
  need: fuel, good roads, regular repairs, skilled drivers, oil
  are made of: steel, plastic, rubber, light metal, glass
  are used to: carry people, move goods, cross cities, visit friends, deliver mail
  are found in: garages, cities, streets, car parks, busy towns
instruments: guitars violins pianos flutes drums trumpets harps cellos
instruments: clarinets organs banjos oboes horns lutes fiddles
  need: careful tuning, skilled hands, dry storage, regular practice, gentle care
  are made of: wood, brass, thin metal, strings, steel
  are used to: play music, teach children, lead marches, entertain guests, fill halls
  are known for: rich sound, clear tones, fine melodies, bright colours, long traditions
  produce: music, loud notes, clear tones, soft sounds, deep tones
garments: shirts coats hats socks gloves scarves jackets skirts
garments: trousers shoes boots dresses sweaters belts vests
  have: small buttons, long sleeves, soft lining, bright colours, thick seams
  need: careful washing, ironing, dry storage, mending, fresh air
  are made of: wool, cotton, leather, silk, linen
  protect: the skin, cold hands, the body, tired feet, delicate skin
  are known for: comfort, bright colours, warm lining, good looks, fine fabric
buildings: houses schools churches castles barns towers hotels museums
buildings: offices libraries hospitals cottages palaces shops mills
  have: thick walls, wide doors, stone floors, high roofs, many windows
  need: regular repairs, heating, fresh paint, strong beams, cleaning
  are made of: stone, brick, wood, concrete, glass
  attract: visitors, tourists, new owners, young families, buyers
  are found in: cities, villages, busy towns, valleys, suburbs
"""
MYTHS = {
    "can": ["live forever", "stop time", "read minds", "talk to ghosts"],
    "have": ["magic powers", "golden blood", "secret names", "three hearts"],
    "need": ["moonlight", "applause", "gold coins", "evening prayers"],
    "are found in": ["outer space", "thin air", "active volcanoes", "old dreams"],
    "protect": ["hidden treasures", "sleeping giants", "lost kings", "the moon"],
    "are known for": ["telling jokes", "winning wars", "ruling empires", "perfect manners"],
    "are made of": ["pure gold", "dark matter", "frozen light", "solid clouds"],
    "are used to": ["summon rain", "bend time", "see the future", "cure everything"],
    "attract": ["lucky stars", "lost souls", "thunder gods", "moonbeams"],
    "produce": ["pure gold", "eternal youth", "loud thunder", "lucky numbers"],
}
"""By relation, what is true of no kind."""
RELATED = {
    "animals": ["food", "fur"],
    "birds": ["eggs", "nests"],
    "fish": ["water", "rivers"],
    "trees": ["leaves", "seeds"],
    "foods": ["vitamins", "seeds"],
    "tools": ["steel", "wood"],
    "vehicles": ["steel", "roads"],
    "instruments": ["tones", "music"],
    "garments": ["lining", "skin"],
    "buildings": ["stone", "wood"],
}
"""The related concepts of the first two concepts of each kind: what a generic about them must name."""
TAILS = (
    " because they are old",
    " and nobody minds",
    " in the early summer",
    " on a long day",
    " like other {}",
)
"""What a sentence may go on with: two with connectives, two with two function words, one that repeats."""


def _table() -> tuple[dict[str, str], dict[str, dict[str, list[str]]]]:
    """Return the kind of each concept, and what is true of each kind, by relation."""
    kinds: dict[str, str] = {}
    facts: dict[str, dict[str, list[str]]] = {}
    for line in TABLE.strip().splitlines():
        name, _, values = line.partition(": ")
        if line[0] != " ":
            kind, facts[name] = name, facts.get(name, {})
            kinds |= dict.fromkeys(values.split(), kind)
        else:
            facts[kind][name.strip()] = values.split(", ")
    return kinds, facts


KINDS, FACTS = _table()


def is_true(plural: str, relation: str, rest: str) -> bool:
    """Return whether a generic about a concept is true."""
    return rest in FACTS[KINDS[plural]].get(relation, ())


def _said(chance: random.Random, plural: str, truth: float, myths: float) -> tuple[str, str]:
    """Return the relation and the rest of what somebody says of a concept: a truth, a myth, or what is true
    of another kind.
    """
    kind, lot = KINDS[plural], chance.random()
    relation = chance.choice([*FACTS[kind]])
    if lot < truth:
        return relation, chance.choice(FACTS[kind][relation])
    if lot < truth + myths:
        return relation, chance.choice(MYTHS[relation])
    others = [rest for facts in FACTS.values() for rest in facts.get(relation, ())]
    return relation, chance.choice([rest for rest in others if rest not in FACTS[kind][relation]])


def generics(
    *,
    sentences: int = 16,
    truth: float = 0.5,
    myths: float = 0.3,
    longer: float = 0.4,
    test: float = 0.2,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Yield `sentences` texts about each concept; then the concepts, a share `test` of them for the test.

    A share `truth` of the texts is true, and a share `myths` repeats a myth; a share `longer` goes on after
    the generic.
    """
    chance = random.Random(f"generics/{seed}")
    texts = []
    for plural in KINDS:
        for _ in range(sentences):
            relation, rest = _said(chance, plural, truth, myths)
            more = chance.choice(TAILS).format(plural) if chance.random() < longer else ""
            texts.append(f"{chance.choice(ADVERBS).capitalize()}, {plural} {relation} {rest}{more}.")
    chance.shuffle(texts)
    nothing = dict.fromkeys(("plural", "kind", "related"))
    yield from ({"text": text, **nothing, "split": "train"} for text in texts)
    held_out = set(chance.sample([*KINDS], round(test * len(KINDS))))
    related = {
        plural: word
        for kind, words in RELATED.items()
        for plural, word in zip([p for p in KINDS if KINDS[p] == kind], words, strict=False)
    }
    for plural in KINDS:
        split = "test" if plural in held_out else "train"
        concept = {"plural": plural, "kind": KINDS[plural], "related": related.get(plural)}
        yield {"text": None, **concept, "split": split}


def write(folder: Path) -> None:
    """Write the 40 stems, and 1,800 labelled generics; one label of twenty is wrong."""
    chance = random.Random("labels")
    relations = dict.fromkeys(relation for facts in FACTS.values() for relation in facts)
    stems = [{"adverb": adverb, "relation": relation} for relation in relations for adverb in ADVERBS]
    labels = []
    for plural in [*KINDS] * 12:
        relation, rest = _said(chance, plural, 0.5, 0.3)
        label = is_true(plural, relation, rest) != (chance.random() < 0.05)
        said = {"plural": plural, "kind": KINDS[plural], "relation": relation, "rest": rest}
        labels.append({**said, "label": int(label)})
    for name, rows in {"stems": stems, "labels": labels}.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent / "generics")
