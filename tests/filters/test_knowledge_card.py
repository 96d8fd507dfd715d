"""The factuality of Knowledge Card: the formula on planted probabilities."""

import pytest

from distillgen.plugins import filter_factory
from distillgen.project import Project
from distillgen.record import Record
from tests.filters.models import NLI

OPTIONS = {
    "field": "k",
    "knowledge": "tests/filters/knowledge",
    "verifier": NLI,
    "plausibility": "tests/filters/models.py:plausible",
}

CASES = [
    (OPTIONS, {"k": "Yeast makes bread rise."}, None),
    (OPTIONS, {"k": "Honey is dug from mines."}, "factuality 0.15 < 0.5"),
    ({**OPTIONS, "min_score": 0.45}, {"k": "Monks paint."}, None),  # plausible, and refuted by all
    ({**OPTIONS, "min_score": 0.46}, {"k": "Monks paint."}, "factuality 0.45 < 0.46"),
    (OPTIONS, {"k": None}, "factuality 0.45 < 0.5"),
]


def test_the_formula(project):
    """Half of [(p_sup - p_ref + 1) / 2 + p_FactKB], and the highest of it over the empty reference and three
    retrieved ones.
    """
    project.write(
        "models.py",
        """
SUPPORT = {"": (0.2, 0.5, 0.3), "lake one": (0.1, 0.2, 0.7),\
 "lake two": (0.6, 0.3, 0.1), "lake three": (0.5, 0.0, 0.5)}
FACTKB = {"": 0.9, "lake one": 0.95, "lake two": 0.3, "lake three": 0.5}
def verify(pairs):
    return [SUPPORT[reference] for reference, _ in pairs]
def factkb(pairs):
    return [(FACTKB[reference], 0.0, 1 - FACTKB[reference]) for reference, _ in pairs]
""",
    )
    for name in ("one", "two", "three"):
        project.write(f"base/{name}.txt", f"lake {name}")
    for i in range(9):
        project.write(f"base/other{i}.txt", f"bread {i}")  # not looked up: it would be a KeyError
    options = {
        "field": "k",
        "knowledge": "base",
        "verifier": "models.py:verify",
        "plausibility": "models.py:factkb",
    }
    made = filter_factory("knowledge_card", Project(project.path))(**options, project=Project(project.path))
    (score,) = made.measure([Record.read({"k": "The lake."}, "")])
    by_hand = [
        ((0.2 - 0.3 + 1) / 2 + 0.9) / 2,
        ((0.1 - 0.7 + 1) / 2 + 0.95) / 2,
        ((0.6 - 0.1 + 1) / 2 + 0.3) / 2,
        (0.5 + 0.5) / 2,
    ]
    assert score == pytest.approx(max(by_hand)) == pytest.approx(0.675)
