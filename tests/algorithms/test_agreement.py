"""Agreement of judges: the published example, and planted cases."""

import random

import pytest

from distillgen.algorithms.agreement import krippendorff_alpha


def test_alpha_of_the_published_example():
    """Krippendorff 2011, section C: four observers, twelve units, missing data; interval alpha 0.849."""
    grades = """1 2 3 3 2 1 4 1 2 . . .
                1 2 3 3 2 2 4 1 2 5 . 3
                . 3 3 3 2 3 4 2 2 5 1 .
                1 2 3 3 2 4 4 1 2 5 1 ."""
    rows = [line.split() for line in grades.splitlines()]
    units = [[float(grade) for grade in unit if grade != "."] for unit in zip(*rows, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(0.849, abs=0.0005)


def test_alpha_of_agreement_of_chance_and_of_opposites():
    draw = random.Random(0)
    same = [[g, g] for g in (draw.randrange(1, 11) for _ in range(2000))]
    assert krippendorff_alpha(same) == 1
    assert (
        abs(krippendorff_alpha([[draw.randrange(1, 11), draw.randrange(1, 11)] for _ in range(5000)])) < 0.05
    )
    assert krippendorff_alpha([[1, 10], [10, 1]] * 50) < -0.9
    assert krippendorff_alpha([[8, 8]] * 50) == 0  # nothing varies: nothing is known
    assert krippendorff_alpha([]) == 0
