"""Summaries that get denser: each names all that the last one did, and more (Chain of Density: Adams et al. 2023)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record

_WORD = re.compile(r"[^\W\d_][\w’'.]*\w|[^\W\d_]|\d[\d.,:%]*")
_COMMA, _POSSESSIVE = re.compile(r"(?<=\d),(?=\d)"), re.compile(r"['’]s?$")
_SENTENCE = re.compile(r"(?:^|(?<=[.!?])\s+|(?<=[\"“(]))(?=[A-Z])")
_OPENS = frozenset(
    """a an the this that these those it its he she they his her their there here in on at by for from with to of as and or but
    so if when while after before since because although though however both most many some all each one two three""".split()
)


def density(
    *,
    field: FieldName = "steps",
    key: str = "summary",
    min_added: int = 1,
    max_lost: int = 0,
    max_length_change: float = 0.1,
) -> Filter:
    """Drop chains of summaries of which a step leaves out an entity that one before it named, or adds none, or is
    not as long as the first.

    The field holds a list of texts, or of objects with the text under `key`. An entity is a different name or number:
    what has a capital letter, but for a common word that opens a sentence; it is kept where its word stands in any
    case. Measures the entities of the first and the last step, the most that a step leaves out of all before it, the
    fewest that one adds to them, and the largest change of length, in words. English. Costs nothing.

    Options:
        field: the field with the list of summaries
        key: the key of the text where the list holds objects
        min_added: fewest entities that each step adds
        max_lost: most entities of earlier steps that a step may leave out
        max_length_change: largest change of length against the first summary, as a share of its words
    """

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [chain(texts(record.fields[field], key)) for record in records]

    def decide(found: Mapping[str, float]) -> str | None:
        if found["steps"] < 2:
            return "no chain: fewer than two summaries"
        if found["lost"] > max_lost:
            return f"a step leaves out {found['lost']:.0f} of the entities before it > {max_lost}"
        if found["added"] < min_added:
            return f"a step adds {found['added']:.0f} entities to those before it < {min_added}"
        if (change := found["length_change"]) > max_length_change:
            return f"a step's length differs from the first one's by {change:.0%} > {max_length_change:.0%}"
        return None

    return Filter(measure, decide)


def texts(steps: Any, key: str) -> list[str]:
    """The summaries of a chain, in order."""
    found = [
        step.get(key) if isinstance(step, Mapping) else step
        for step in (steps if isinstance(steps, list) else [])
    ]
    return [text for text in found if isinstance(text, str) and text.strip()]


def chain(steps: Sequence[str]) -> dict[str, float]:
    """How a chain develops."""
    named, told = (
        [entities(text) for text in steps],
        [{_level(word) for word in _WORD.findall(text)} for text in steps],
    )
    lost, added, before, seen = [], [], set[str](), set[str]()
    for names, said in zip(named, told, strict=True):
        lost.append(len(before - said))
        added.append(len(names - seen))
        before, seen = before | names, seen | said
    lengths = [len(text.split()) for text in steps]
    return {
        "steps": len(steps),
        "first": len(named[0]) if named else 0,
        "last": len(named[-1]) if named else 0,
        "lost": max(lost, default=0),
        "added": min(added[1:], default=0),
        "length_change": max((abs(length / lengths[0] - 1) for length in lengths), default=0.0),
    }


def entities(text: str) -> set[str]:
    """Its names and numbers, in lower case; a name of several words counts a word."""
    opening = {sentence.end() for sentence in _SENTENCE.finditer(text)}
    names = (word for word in _WORD.finditer(text) if word[0] != word[0].lower() or word[0][0].isdigit())
    return {_level(name[0]) for name in names if not (name.start() in opening and name[0].lower() in _OPENS)}


def _level(word: str) -> str:
    """A word or number as it is compared: 1,642 and Frisch's are 1642 and frisch."""
    return _COMMA.sub("", _POSSESSIVE.sub("", word.strip(".,:’'").lower()))
