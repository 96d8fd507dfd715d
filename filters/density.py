"""Summaries that become denser step by step (Chain of Density, Adams et al. 2023)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record

_WORD = re.compile(r"[^\W\d_][\w’'.]*\w|[^\W\d_]|\d[\d.,:%]*")
_COMMA, _POSSESSIVE = re.compile(r"(?<=\d),(?=\d)"), re.compile(r"['’]s?$")
_SENTENCE = re.compile(r"(?:^|(?<=[.!?])\s+|(?<=[\"“(]))(?=[A-Z])")
_OPENS = frozenset(
    """a an the this that these those it its he she they his her their there here in on at by for from with
    to of as and or but so if when while after before since because although though however both most
    many some all each one two three""".split()
)


def density(
    *,
    field: FieldName = "steps",
    key: str = "summary",
    min_added: int = 1,
    max_lost: int = 0,
    max_length_change: float = 0.1,
) -> Filter:
    """Drop chains of summaries with a step that loses entities, adds none, or changes the length too much.

    The field holds a list of texts, or of objects with the text under `key`. An entity is a distinct name or
    number: a capitalised word, except a common word that opens a sentence. A step keeps an entity if it has
    the word in any case. Measures the number of entities of the first and of the last step, the most entities
    that a step loses, the fewest that a step adds, and the largest change of length in words relative to the
    first step. English. Costs nothing.

    Options:
        field: the field with the list of summaries
        key: the key of the text where the list holds objects
        min_added: fewest entities that each step adds
        max_lost: most entities of earlier steps that a step may leave out
        max_length_change: largest change of length against the first summary, as a share of its words
    """

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [chain(texts(record.fields[field], key)) for record in records]

    def decide(numbers: Mapping[str, float]) -> str | None:
        if numbers["steps"] < 2:
            return "no chain: fewer than two summaries"
        if numbers["lost"] > max_lost:
            return f"a step leaves out {numbers['lost']:.0f} of the entities before it > {max_lost}"
        if numbers["added"] < min_added:
            return f"a step adds {numbers['added']:.0f} entities to those before it < {min_added}"
        if (change := numbers["length_change"]) > max_length_change:
            return f"a step's length differs from the first one's by {change:.0%} > {max_length_change:.0%}"
        return None

    return Filter(measure, decide)


def texts(steps: Any, key: str) -> list[str]:
    """Return the summaries of a chain, in order, without empty ones."""
    candidates = [
        step.get(key) if isinstance(step, Mapping) else step
        for step in (steps if isinstance(steps, list) else [])
    ]
    return [text for text in candidates if isinstance(text, str) and text.strip()]


def chain(steps: Sequence[str]) -> dict[str, float]:
    """Return how a chain of summaries develops: entities of its ends, most lost, fewest added, change of
    length.
    """
    entities_by_step, words_by_step = (
        [entities(text) for text in steps],
        [{_level(word) for word in _WORD.findall(text)} for text in steps],
    )
    lost, added, words_to_keep, entities_so_far = [], [], set[str](), set[str]()
    for step_entities, step_words in zip(entities_by_step, words_by_step, strict=True):
        lost.append(len(words_to_keep - step_words))
        added.append(len(step_entities - entities_so_far))
        words_to_keep, entities_so_far = words_to_keep | step_entities, entities_so_far | step_words
    lengths = [len(text.split()) for text in steps]
    return {
        "steps": len(steps),
        "first": len(entities_by_step[0]) if entities_by_step else 0,
        "last": len(entities_by_step[-1]) if entities_by_step else 0,
        "lost": max(lost, default=0),
        "added": min(added[1:], default=0),
        "length_change": max((abs(length / lengths[0] - 1) for length in lengths), default=0.0),
    }


def entities(text: str) -> set[str]:
    """Return the names and numbers of a text in lower case, word by word."""
    opening = {sentence.end() for sentence in _SENTENCE.finditer(text)}
    names = (word for word in _WORD.finditer(text) if word[0] != word[0].lower() or word[0][0].isdigit())
    return {_level(name[0]) for name in names if not (name.start() in opening and name[0].lower() in _OPENS)}


def _level(word: str) -> str:
    """Normalise a word or number for comparison: 1,642 becomes 1642, and Frisch's becomes frisch."""
    return _COMMA.sub("", _POSSESSIVE.sub("", word.strip(".,:’'").lower()))
