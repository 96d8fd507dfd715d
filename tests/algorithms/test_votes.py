"""Figures over several samples: against counts over all draws."""

from collections import Counter
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillgen.algorithms.votes import majority_at_k, pass_at_k


@pytest.mark.parametrize("n, passed", [(5, 0), (5, 2), (5, 5), (8, 3)])
def test_pass_at_k_is_the_share_of_draws_with_a_pass(n, passed):
    for k in range(1, n + 1):
        draws = list(combinations([True] * passed + [False] * (n - passed), k))
        assert pass_at_k(n, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@given(st.lists(st.sampled_from(["right", "wrong", "else", None]), min_size=1, max_size=9))
def test_the_majority_of_one_is_the_mean_and_of_all_the_vote(said):
    passed = [answer == "right" for answer in said]
    assert majority_at_k(1, said, passed) == pytest.approx(fmean(passed))
    votes = Counter(filter(None, said))
    most = [answer for answer, count in votes.items() if count == max(votes.values())]
    of_all = majority_at_k(len(said), said, passed)
    assert of_all == (most == ["right"]) if len(most) < 2 or "right" not in most else 0 < of_all < 1
