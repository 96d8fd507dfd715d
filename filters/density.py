"""Summaries that get denser, or longer, or poorer (Chain of Density: Adams et al. 2023, section 2)."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from distillgen import FieldName, Filter, Record

_NAME = re.compile(r"[A-Z][\w’'.-]*\w|[A-Z]|\d[\d.,:%]*")
_SENTENCE = re.compile(r"(?:^|(?<=[.!?])\s+|(?<=[\"“(]))(?=[A-Z])")
_OPENS = frozenset(
    """a an the this that these those it its he she they his her their there here in on at by for from with to of as and or but
    so if when while after before since because although though however both most many some all each one two three""".split()
)


def density(*, field: FieldName = "steps", key: str = "summary", max_length_change: float = 0.1) -> Filter:
    """Drop chains of summaries of which a step names fewer entities than the one before, or is not as long as the first, or of
    which the last names no more than the first.

    The field holds a list of texts, or of objects with the text under `key`. An entity is a different name or number: what
    begins with a capital letter, but for a common word that opens a sentence. Measures the entities of the first and the last
    step, the least gain of a step, and the largest change of length, in words. English. Costs nothing.
    """

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [chain(texts(record.fields[field], key)) for record in records]

    def decide(found: Mapping[str, float]) -> str | None:
        if found["steps"] < 2:
            return "no chain: fewer than two summaries"
        if found["least_gain"] < 0:
            return f"a step names {-found['least_gain']:.0f} entities fewer than the one before"
        if found["last"] == found["first"]:
            return f"the last step names no more entities than the first, {found['first']:.0f}"
        if (change := found["length_change"]) > max_length_change:
            return f"a step's length differs from the first one's by {change:.0%} > {max_length_change:.0%}"
        return None

    return Filter(measure, decide)


def texts(steps: Any, key: str) -> list[str]:
    """The summaries of a chain, in order."""
    found = [step.get(key) if isinstance(step, Mapping) else step for step in (steps if isinstance(steps, list) else [])]
    return [text for text in found if isinstance(text, str) and text.strip()]


def chain(steps: Sequence[str]) -> dict[str, float]:
    """How a chain develops."""
    counts, lengths = [len(entities(text)) for text in steps], [len(text.split()) for text in steps]
    return {
        "steps": len(steps),
        "first": counts[0] if counts else 0,
        "last": counts[-1] if counts else 0,
        "least_gain": min((after - before for before, after in pairwise(counts)), default=0),
        "length_change": max((abs(length / lengths[0] - 1) for length in lengths), default=0.0),
    }


def entities(text: str) -> set[str]:
    """Its names and numbers; a name of several words counts a word."""
    opening = {found.end() for found in _SENTENCE.finditer(text)}
    return {
        found[0].strip(".,:’'").removesuffix("'s").removesuffix("’s")
        for found in _NAME.finditer(text)
        if not (found.start() in opening and found[0].lower() in _OPENS)
    }
