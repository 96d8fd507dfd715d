"""Intervals have their nominal coverage, also for few items; tests have their nominal error rate."""

import math
import random
from fractions import Fraction
from itertools import product
from statistics import fmean, pvariance

import pytest

from distillgen.algorithms.intervals import (
    Interval,
    difference_interval,
    exact_interval,
    interval,
    lower_bound,
    paired,
    unpaired,
    wilson_interval,
)
from distillgen.algorithms.resampling import RESAMPLES


def percentile_bootstrap(values):
    """The control: what intervals were before (Efron 1979)."""
    chance = random.Random(0)
    means = sorted(fmean(chance.choices(values, k=len(values))) for _ in range(200))
    return Interval(means[5], means[-6], "")


def coverage(about, truth, draws):
    found = [about(values) for values in draws]
    return fmean(each.low - 1e-12 <= truth <= each.high + 1e-12 for each in found)


def shares(share, n, times, seed=0):
    chance = random.Random(seed)
    return [[float(chance.random() < share) for _ in range(n)] for _ in range(times)]


def sampled(alpha, beta, n, times, samples=4, seed=0):
    """Means of four samples for each of n items, of unequal difficulty."""
    chance = random.Random(seed)
    return [
        [
            sum(chance.random() < p for _ in range(samples)) / samples
            for p in (chance.betavariate(alpha, beta) for _ in range(n))
        ]
        for _ in range(times)
    ]


def outcomes(share, n):
    """Every number of right ones, with its chance."""
    return [(k, math.comb(n, k) * share**k * (1 - share) ** (n - k)) for k in range(n + 1)]


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", [5, 12, 30, 100])
def test_a_share_is_covered_at_least_as_often_as_the_level_says(share, n):
    ends = {k: interval([1.0] * k + [0.0] * (n - k)) for k in range(n + 1)}
    assert sum(chance for k, chance in outcomes(share, n) if ends[k].low <= share <= ends[k].high) >= 0.95


def test_the_percentile_bootstrap_does_not_cover_a_share_near_one():
    draws = shares(0.95, 30, 400)
    assert coverage(percentile_bootstrap, 0.95, draws) < 0.85 < 0.95 <= coverage(interval, 0.95, draws)
    assert percentile_bootstrap([1.0] * 12)[:2] == (1, 1), "the control has a width"


def test_exact_bounds_match_the_binomial_tails():
    for right, of in [(1, 1), (1, 8), (7, 8), (3, 30), (29, 30), (50, 100), (999, 1000)]:
        bound = Fraction(lower_bound(right, of, level=0.975))
        tail = sum(math.comb(of, k) * bound**k * (1 - bound) ** (of - k) for k in range(right, of + 1))
        assert float(tail) == pytest.approx(0.025, rel=1e-9)
    assert exact_interval(8, 8)[:2] == (pytest.approx(0.025 ** (1 / 8)), 1) and exact_interval(0, 12).low == 0
    low, high = exact_interval(12, 30)[:2]
    assert (1 - high, 1 - low) == pytest.approx(exact_interval(18, 30)[:2])
    assert lower_bound(0, 9) == 0 and interval([]) is None


def test_exact_bounds_are_scipys():
    beta = pytest.importorskip("scipy.stats").beta
    for right, of in [(1, 3), (20, 30), (4999, 5000), (50_000, 100_000)]:
        expected = beta.ppf(0.025, right, of - right + 1), beta.ppf(0.975, right + 1, of - right)
        assert exact_interval(right, of)[:2] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("n", [5, 8, 15, 30])
@pytest.mark.parametrize("alpha, beta", [(1, 1), (9, 1), (3, 0.3), (0.5, 0.5), (19, 0.6)])
def test_means_of_few_items_are_covered(n, alpha, beta):
    draws = sampled(alpha, beta, n, 800)
    assert coverage(interval, alpha / (alpha + beta), draws) >= 0.93


def test_the_percentile_bootstrap_does_not_cover_means_of_few_items():
    draws = sampled(19, 0.6, 8, 300)
    assert coverage(percentile_bootstrap, 19 / 19.6, draws) < 0.7


def test_interval_of_means_is_narrower_than_of_single_answers():
    alike, spread = interval([0.5, 0.5, 0.75, 0.5, 0.25, 0.5] * 5), interval([0.0, 1.0] * 15)
    assert 0 < alike.high - alike.low < 0.6 * (spread.high - spread.low)
    for values in ([0.5] * 5, [0.5], [1.0], [1 / 3] * 2):
        found = interval(values)
        assert 0 <= found.low < values[0] <= found.high <= 1 and found.high - found.low > 0.3
    assert interval([0.5]).method.startswith("Wilson") and interval([1.0]).method.startswith(
        "Clopper-Pearson"
    )
    assert wilson_interval(0.4, 0.24, 10_000).low == pytest.approx(
        0.4 - 1.96 * math.sqrt(0.24 / 10_000), abs=2e-4
    )


def differences(better, worse, n, times, seed=0):
    chance = random.Random(seed)
    return [chance.choices([1.0, -1.0, 0.0], [better, worse, 1 - better - worse], k=n) for _ in range(times)]


@pytest.mark.parametrize("n", [8, 15, 30, 100])
@pytest.mark.parametrize("better, worse", [(0.05, 0.05), (0.2, 0.2), (0.3, 0.05), (0.1, 0.0), (0.5, 0.1)])
def test_differences_are_covered_with_ties_too(n, better, worse):
    assert coverage(difference_interval, better - worse, differences(better, worse, n, 1000)) >= 0.92


def test_percentile_bootstrap_fails_on_differences_with_many_ties():
    draws = differences(0.1, 0.0, 15, 400)
    assert coverage(percentile_bootstrap, 0.1, draws) < 0.85
    assert (
        difference_interval([0.0] * 30).high == pytest.approx(-difference_interval([0.0] * 30).low)
        and difference_interval([0.0]).high > 0.3
    )


def test_exact_and_sampled_permutation_tests_agree():
    some = [1.0, 1.0, 1.0, 0.5, -0.5, 1.0, 0.0, 0.0]
    every = [
        sum(sign * each for sign, each in zip(signs, some, strict=True))
        for signs in product((1, -1), repeat=len(some))
    ]
    exact = fmean(abs(each) >= abs(sum(some)) - 1e-12 for each in every)
    assert paired(some, [0.0] * len(some))["p"] == exact == 0.09375
    many = [1.0] * 15 + [-1.0] * 5 + [0.0] * 40
    binomial = 2 * sum(math.comb(20, k) for k in range(15, 21)) / 2**20
    assert paired(many, [0.0] * 60)["p"] == pytest.approx(binomial, abs=0.015)


def test_p_is_never_0_and_1_where_all_are_tied():
    assert paired([1.0, 0.5], [1.0, 0.5])["p"] == 1
    assert paired([1.0] * 8, [0.0] * 8)["p"] == 2 / 2**8
    assert paired([1.0] * 400, [0.0] * 400)["p"] == 1 / (RESAMPLES + 1)
    assert paired([0.1 + 0.2], [0.3])["p"] == 1, "a difference that is a rounding error"


def test_equal_models_are_called_different_as_often_as_the_level_says():
    for n in (6, 30):
        p = [paired(each, [0.0] * n)["p"] for each in differences(0.15, 0.15, n, 200)]
        assert fmean(each <= 0.05 for each in p) <= 0.08


def test_a_difference_of_two_intervals_is_as_wide_as_both():
    one, other = exact_interval(20, 20), exact_interval(12, 20)
    found = unpaired(1.0, one, 0.6, other)
    assert (
        found.low < 0.4 < found.high
        and found.high - found.low > one.high - one.low
        and pvariance(found[:2]) > 0
    )
    assert unpaired(0.6, other, 1.0, one)[:2] == pytest.approx((-found.high, -found.low))
