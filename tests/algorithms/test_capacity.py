"""Bits of knowledge: none for guesses, all for what is known, and never more."""

import math
import random

import pytest

from distillgen.algorithms.capacity import bits_of_sets, bits_of_texts, most_bits_of_names

LN2 = math.log(2)


def test_a_guess_among_all_choices_is_exactly_no_bit():
    for choices in (2, 3, 47, 32**5, 2 * 12 * 28 * 200 * 200 * 300 * 100 * 263):
        assert bits_of_texts(choices, [-math.log(choices)] * 997) == 0
    assert bits_of_sets(4, 64, 1024, [-math.log(1024 / 64)] * 1600) == pytest.approx(0, abs=1e-9)


def test_the_bits_of_one_text_and_of_many():
    assert bits_of_texts(8, [0.0]) == 3
    assert bits_of_texts(8, [0.0, -LN2, -10 * LN2]) == pytest.approx(3 + 2 - 7)
    assert bits_of_texts(8, []) == 0


def test_nothing_is_clipped_at_zero():
    assert bits_of_texts(2, [-50.0]) < -70
    assert bits_of_sets(1, 4, 16, [-50.0]) < -280


def test_the_set_of_strings_counts_once_an_attribute_with_the_mean_of_its_values():
    one = bits_of_sets(1, 64, 1024, [0.0])
    assert one == pytest.approx(64 * 4) and bits_of_sets(4, 64, 1024, [0.0] * 10) == pytest.approx(4 * one)
    assert bits_of_sets(1, 64, 1024, [-LN2, -3 * LN2]) == pytest.approx(64 * (4 - 2))


def test_no_distribution_over_names_knows_more_than_the_most():
    """Gibbs' inequality; the control has probabilities that sum to more than 1."""
    chance = random.Random(0)
    for _ in range(300):
        people = chance.randrange(1, 50)
        weights = [chance.expovariate(1) ** 3 for _ in range(people)]
        logprobs = [math.log(weight / sum(weights)) for weight in weights]
        assert bits_of_texts(1000, logprobs) <= most_bits_of_names(1000, people) + 1e-9
    even = [-math.log(50)] * 50
    assert bits_of_texts(1000, even) == pytest.approx(most_bits_of_names(1000, 50), abs=1e-9)
    assert bits_of_texts(1000, [-math.log(49)] * 50) > most_bits_of_names(1000, 50) + 1
