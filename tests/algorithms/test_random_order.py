"""Random samples in order, and permutations without a fixed point."""

import random

from distillgen.algorithms.random_order import cyclic_permutation, keyed_permutation, ordered_sample


def test_every_row_gets_another_ones_answer_and_the_draw_is_even():
    assert [*cyclic_permutation(1, random.Random(0))] == [0]
    for n in (2, 3, 50):
        others = [*cyclic_permutation(n, random.Random(n))]
        assert sorted(others) == list(range(n)) and all(i != other for i, other in enumerate(others))
    counts = [0] * 10
    for seed in range(600):
        some = [*ordered_sample(3, 10, random.Random(seed))]
        assert len(some) == 3 and some == sorted(set(some))
        for i in some:
            counts[i] += 1
    assert min(counts) > 130 and max(counts) < 230


def test_a_keyed_permutation_is_one_and_even():
    for n in (1, 2, 3, 4, 5, 17, 300, 1025):
        assert sorted(map(keyed_permutation(n, "key"), range(n))) == list(range(n))
    big = keyed_permutation(10**15, "key")
    assert len({big(i) for i in range(1000)}) == 1000 and max(big(i) for i in range(1000)) > 9 * 10**14
    for n, place in (5, 0), (5, 3), (16, 7):
        counts = [0] * n
        for key in range(2000):
            counts[keyed_permutation(n, str(key))(place)] += 1
        assert sum((count - 2000 / n) ** 2 / (2000 / n) for count in counts) < 3 * n  # chi-squared
