"""Comparisons of entities by an attribute, in several wordings, and an NLI model that knows their meaning."""

import re

WORDINGS = (
    ("{} is heavier than {}.", 1),
    ("{} weighs more than {}.", 1),
    ("{} has more weight than {}.", 1),
    ("{} is lighter than {}.", -1),
    ("{} weighs less than {}.", -1),
)
NLI = "tests/filters/comparisons.py:entailment"


def entailment(pairs):
    """Two comparisons of the same entities entail or contradict each other; of others, neither."""
    found = []
    for premise, hypothesis in pairs:
        first, second = meaning(premise), meaning(hypothesis)
        if not first or not second or {*first} != {*second}:
            found.append((0.0, 1.0, 0.0))
        else:
            found.append((1.0, 0.0, 0.0) if first == second else (0.0, 0.0, 1.0))
    return found


def meaning(statement):
    """The heavier entity, then the lighter one."""
    for wording, direction in WORDINGS:
        if said := re.fullmatch(re.escape(wording).replace(r"\{\}", r"(\w+)"), statement):
            return said.groups()[::direction]
    return None
