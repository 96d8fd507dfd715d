"""A planted knowledge graph told in documents, each edge three times in other words, and a teacher that reads
them.
"""

import json
import random
import re
from dataclasses import dataclass
from functools import cached_property

from distillgen.teachers.scripted import echo

RELATIONS = {
    f"{verb}s": f"{verb}ed" for verb in "strengthen weaken contain block deflect surround soften pin".split()
}
TELLINGS = ("{head} {active} {tail}.", "{tail} is {passive} by {head}.", "It is {head} that {active} {tail}.")
_SYLLABLES = "ba ke di lo mu na pe ri so tu va ze fi go hu".split()
BROKEN = {
    "fenced": lambda text: f"Here are the triples:\n```json\n{text}\n```\nI hope this helps!",
    "trailing comma": lambda text: text.replace("}]", "},]"),
    "single quotes": lambda text: text.replace('"', "'"),
    "no closing bracket": lambda text: text[:-1],
    "no commas between": lambda text: text.replace("}, {", "} {"),
    "bare items": lambda text: text[1:-1],
    "bad item": lambda text: text[:-1] + ', {"head": "nothing"}]',
    "prose": lambda text: "I am afraid that I could not find any triples in this text.",
    "cut off": lambda text: text[: text.rindex(":")],
    "empty": lambda text: "",
}
REPAIRABLE = frozenset(BROKEN) - {"prose", "cut off", "empty"}


@dataclass(frozen=True)
class Planted:
    """Entities, and edges between them, one a pair; the same seed gives the same."""

    seed: int = 0
    entities: int = 50
    edges: int = 120

    @cached_property
    def names(self) -> list[str]:
        draw = random.Random(f"names {self.seed}")
        found = set()
        while len(found) < 2 * self.entities:
            found.add("".join(draw.choices(_SYLLABLES, k=3)))
        first = sorted(found)
        draw.shuffle(first)
        return [f"{a} {b}" for a, b in zip(first[::2], first[1::2], strict=True)]

    @cached_property
    def triples(self) -> list[tuple[str, str, str]]:
        draw = random.Random(f"triples {self.seed}")
        pairs = set()
        while len(pairs) < self.edges:
            pairs.add(frozenset(draw.sample(self.names, 2)))
        found = []
        for pair in sorted(map(sorted, pairs)):
            draw.shuffle(pair)
            found.append((pair[0], draw.choice(list(RELATIONS)), pair[1]))
        return found

    @cached_property
    def documents(self) -> dict[str, str]:
        draw = random.Random(f"documents {self.seed}")
        told = [
            telling.format(head=head, active=relation, passive=RELATIONS[relation], tail=tail)
            for head, relation, tail in self.triples
            for telling in TELLINGS
        ]
        draw.shuffle(told)
        told = [sentence[0].upper() + sentence[1:] for sentence in told]
        return {
            f"{i:02d}.md": f"# Document {i}\n\n" + " ".join(told[30 * i : 30 * i + 30])
            for i in range(len(told) // 30)
        }

    @cached_property
    def bridges(self) -> list[tuple[str, str, str]]:
        """(a, bridge, c): a and c are not joined, and one node alone is joined to both."""
        near = {name: set() for name in self.names}
        for head, _, tail in self.triples:
            near[head].add(tail)
            near[tail].add(head)
        found = [
            (a, near[a] & near[c], c) for a in self.names for c in self.names if a < c and c not in near[a]
        ]
        return [(a, *common, c) for a, common, c in found if len(common) == 1]


def read(text: str) -> list[tuple[str, str, str]]:
    """The triples that a text tells, in any of the tellings."""
    found = []
    for active, passive in RELATIONS.items():
        for telling in TELLINGS:
            form = re.escape(telling).replace(r"\{", "{").replace(r"\}", "}").replace(r"\ ", " ")
            name = r"(?P<{}>[a-z]+ [a-z]+)"
            pattern = form.format(
                head=name.format("head"), tail=name.format("tail"), active=active, passive=passive
            )
            found += [
                (m.start(), m["head"], active, m["tail"])
                for m in re.finditer(rf"(?:(?<=^)|(?<=[.\n:] )) ?{pattern}", text, re.I)
            ]
    return [(head.lower(), relation, tail.lower()) for _, head, relation, tail in sorted(set(found))]


def reader(error: float = 0.0, broken: float = 0.0, seed: int = 0):
    """A teacher that finds nearly every triple of a text, misses and makes up the share `error`, spells names
    as it likes, and whose answers are broken JSON in the share `broken`, in all ways of BROKEN in turn.
    """
    ways, count = list(BROKEN), {}

    def answer(request, sample):
        text = echo(request, sample)
        draw = random.Random(f"{seed}/{text}")
        told = read(text)
        here = sorted({name for head, _, tail in told for name in (head, tail)})
        triples = [triple for triple in told if draw.random() >= error]
        made_up = [draw.sample(here, 2) for _ in told if draw.random() < error]
        triples += [(head, draw.choice(list(RELATIONS)), tail) for head, tail in made_up]
        rows = [
            {"head": spelt(head, draw), "relation": relation, "tail": spelt(tail, draw)}
            for head, relation, tail in triples
        ]
        said = json.dumps(rows)
        if random.Random(f"{seed}/broken/{text}").random() < broken:
            way = count.setdefault(text, ways[len(count) % len(ways)])
            return BROKEN[way](said)
        return said

    answer.broken = count
    return answer


def spelt(name: str, draw: random.Random) -> str:
    return draw.choice([str.title, str.upper, "the {}".format, "{}s".format, "{}".format, "{}".format])(name)
