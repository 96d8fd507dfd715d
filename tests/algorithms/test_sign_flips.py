"""The exact sign-flip test: hand values, all ways counted one by one, and its limits."""

import random
from itertools import product

import pytest

from distillgen.algorithms.sign_flips import sign_flip_p


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([], 1.0),
        ([0.0, 0.0], 1.0),
        ([1.0], 1.0),
        ([1.0, 2.0], 2 / 4),
        ([1.0, 2.0, -3.0], 1.0),
        ([1.0, 2.0, 3.0], 2 / 8),
        ([3.0, 2.0, -1.0], 4 / 8),  # ±6 and ±4 are as far as 4
        ([0.1] * 8, 2 / 2**8),
        ([0.1] * 8 + [0.0] * 5, 2 / 2**8),
        ([-0.1] * 8, 2 / 2**8),
        ([0.1] * 7 + [-0.1], 2 * 9 / 2**8),
    ],
)
def test_hand_values(differences, p):
    assert sign_flip_p(differences) == p


def test_it_counts_what_all_ways_one_by_one_give():
    chance = random.Random(0)
    for size in (3, 6, 9):
        differences = [round(chance.gauss(0.3, 1), 1) for _ in range(size)]
        ways = [
            sum(s * d for s, d in zip(signs, differences, strict=True))
            for signs in product((1, -1), repeat=size)
        ]
        as_far = sum(abs(way) >= abs(sum(differences)) - 1e-9 for way in ways)
        assert sign_flip_p(differences) == as_far / 2**size


def test_beyond_32_differences_the_normal_approximation_goes_on_from_the_exact_count():
    chance = random.Random(1)
    for mean in (0.0, 0.2, 0.5):
        differences = [chance.gauss(mean, 1) for _ in range(32)]
        longer = [*differences, 1e-6]
        assert sign_flip_p(longer) == pytest.approx(sign_flip_p(differences), abs=0.01)


def test_equal_models_are_rarely_different_and_unequal_ones_mostly():
    chance = random.Random(2)

    def found(mean):
        draws = ([chance.gauss(mean, 1) for _ in range(10)] for _ in range(400))
        return sum(sign_flip_p(differences) <= 0.05 for differences in draws)

    assert 8 <= found(0.0) <= 32 and found(1.5) > 380
