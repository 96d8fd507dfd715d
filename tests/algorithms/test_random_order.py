"""Random samples in order, and permutations without a fixed point."""

import random

from distillgen.algorithms.random_order import cyclic_permutation, ordered_sample


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
