"""NDCG and the reciprocal rank: hand values, all orders of ties, and the values of scikit-learn."""

import math
import random
from itertools import permutations
from statistics import fmean

import pytest

from distillgen.algorithms.ranking import ndcg, reciprocal_rank


def test_hand_values():
    best = 3 + 2 / math.log2(3)
    assert ndcg([3, 2, 1], [2, 3, 0]) == pytest.approx((2 + 3 / math.log2(3)) / best)
    assert ndcg([1, 2, 3], [2, 3, 0], 2) == pytest.approx(3 / math.log2(3) / best)
    assert ndcg([0.3, 0.2, 0.1], [3, 2, 0]) == 1 and ndcg([1, 2], [0, 0]) is None
    assert reciprocal_rank([1, 3, 2], [1, 0, 1]) == 1 / 2 and reciprocal_rank([3, 2], [0, 1], 1) == 0
    assert reciprocal_rank([1, 2], [0, 0]) is None


def in_order(figure, order, relevance, k):
    return figure([-place for place in range(len(order))], [relevance[i] for i in order], k)


@pytest.mark.parametrize("figure", [ndcg, reciprocal_rank])
@pytest.mark.parametrize("k", [None, 1, 3])
def test_ties_are_the_mean_over_their_orders(figure, k):
    scores, relevance = [0.5, 0.5, 0.9, 0.5, 0.1, 0.1], [0, 2, 0, 1, 0, 3]
    orders = [[2, *middle, *last] for middle in permutations([0, 1, 3]) for last in permutations([4, 5])]
    expected = fmean(in_order(figure, order, relevance, k) for order in orders)
    assert figure(scores, relevance, k) == pytest.approx(expected)
    constant = [figure([1] * 3, [1, 0, 0], k), figure([1] * 3, [0, 0, 1], k)]
    assert constant[0] == constant[1] < 1, "the order of the list tells nothing"


def test_ndcg_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    chance = random.Random(0)
    for _ in range(100):
        n, k = chance.randint(2, 15), chance.choice([None, 1, 5, 10])
        scores = [chance.choice([0.1, 0.2, chance.random()]) for _ in range(n)]
        relevance = [chance.randint(0, 3) for _ in range(n)]
        if any(relevance):
            expected = metrics.ndcg_score([relevance], [scores], k=k)
            assert ndcg(scores, relevance, k) == pytest.approx(expected)
