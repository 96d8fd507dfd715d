"""Figures of a whole set: hand values, those of scikit-learn, the level of intervals and tests, controls."""

import math
import random
from statistics import fmean

import pytest

from distillgen.algorithms.resampling import RESAMPLES, bootstrap, exchange_p, in_order, rows_of, subsets
from distillgen.algorithms.set_figures import BINS, FIGURES, Guess, Measured, compared

CLASS_FIGURES = ("balanced_accuracy", "macro_f1")


def guesses(seed, n=300, right=0.7, classes="abc", overconfidence=0.0, outside=0.0):
    """Answers of a model whose probabilities are right, or too high by `overconfidence`."""
    chance = random.Random(seed)
    gold_chance = random.Random(1000 + n)
    rows = []
    for _ in range(n):
        gold, probability = gold_chance.choice(classes), chance.uniform(2 * right - 1, 1)
        hit = chance.random() < probability
        answer = gold if hit else chance.choice([name for name in classes if name != gold])
        if chance.random() < outside:
            answer = None
        rows.append(Guess(answer, gold, min(1.0, probability + overconfidence)))
    return rows


def mean(name, rows):
    return Measured(name, rows).mean


def test_hand_values():
    rows = [
        Guess("a", "a", 0.9),
        Guess("a", "a", 0.9),
        Guess("b", "a", 0.5),
        Guess("b", "b", 0.5),
        Guess(None, "c"),
    ]
    assert mean("balanced_accuracy", rows) == pytest.approx((2 / 3 + 1 + 0) / 3)
    # F1 of a: 2·2/(3+2); of b: 2·1/(1+2); c has no hit. The answer that is no class is a miss of c alone
    assert mean("macro_f1", rows) == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)
    # two bins: .9 and right (2 rows), .5 and right in half (2 rows); a row without probability is left out
    assert mean("ece", rows) == pytest.approx((2 * 0.1 + 2 * 0.0) / 4)
    assert Measured("ece", rows).summary()["n"] == 4 and Measured("macro_f1", rows).summary()["n"] == 5


def test_the_figures_of_a_constant_answer_do_not_gain_by_the_larger_class():
    rows = [Guess("a", gold, 0.9) for gold in "a" * 90 + "b" * 10]
    assert fmean(row.right for row in rows) == 0.9 and mean("balanced_accuracy", rows) == 0.5
    assert mean("macro_f1", rows) == pytest.approx((2 * 90 / 190 + 0) / 2)


def test_class_figures_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(5):
        rows = guesses(seed, 200, classes="abcdefg")
        gold, answers = [row.gold for row in rows], [row.answer for row in rows]
        assert mean("balanced_accuracy", rows) == pytest.approx(
            metrics.balanced_accuracy_score(gold, answers)
        )
        assert mean("macro_f1", rows) == pytest.approx(metrics.f1_score(gold, answers, average="macro"))
        rows = guesses(seed, 200, outside=0.2)
        gold, answers = [row.gold for row in rows], [row.answer or "none" for row in rows]
        labelled = metrics.f1_score(gold, answers, average="macro", labels=[*"abc"])
        assert mean("macro_f1", rows) == pytest.approx(labelled)


def test_the_calibration_error_is_that_of_its_definition():
    rows, off = guesses(3, 500, overconfidence=0.1), [0.0] * BINS
    for row in rows:
        off[min(int(row.probability * BINS), BINS - 1)] += row.probability - row.right
    assert mean("ece", rows) == pytest.approx(sum(map(abs, off)) / 500)
    assert mean("ece", [Guess("a", "a", 1.0), Guess("a", "a", 0.0)]) == 0.5


@pytest.mark.parametrize("name, least", [("balanced_accuracy", 0.9), ("macro_f1", 0.9), ("ece", 0.8)])
def test_intervals_cover_the_truth(name, least, monkeypatch):
    monkeypatch.setattr("distillgen.algorithms.resampling.RESAMPLES", 200)
    truth = mean(name, guesses(99, 60_000, overconfidence=0.08))
    covered, by_percentiles = [], []
    for seed in range(80):
        figure = Measured(name, guesses(seed, 120, overconfidence=0.08))
        told, values = figure.summary(), sorted(figure.resampled)
        covered.append(told["low"] <= truth <= told["high"])
        by_percentiles.append(values[5] <= truth <= values[-6])
    assert fmean(covered) >= least
    if name == "ece":  # the control: its resamples are further above the truth than the estimate is
        assert fmean(by_percentiles) < 0.6


def test_the_weights_of_rows_have_the_bootstraps_mean_and_variance():
    values = [random.Random(i).random() for i in range(50)]
    middle = fmean(values)
    resampled = bootstrap(50, lambda rows: 2 * sum(v for i, v in enumerate(values) if rows >> i & 1) / 50)
    error = math.sqrt(sum((v - middle) ** 2 for v in values)) / 50
    assert fmean(resampled) == pytest.approx(middle, abs=0.01)
    spread = math.sqrt(fmean((value - middle) ** 2 for value in resampled))
    assert spread == pytest.approx(math.sqrt(sum(v * v for v in values)) / 50, rel=0.05)
    ratio = bootstrap(50, lambda rows: fmean(v for i, v in enumerate(values) if rows >> i & 1))
    assert math.sqrt(fmean((value - middle) ** 2 for value in ratio)) == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize("name", FIGURES)
def test_a_better_model_is_better_and_an_equal_one_is_not(name):
    good, same, poor = (
        guesses(1, right=0.85),
        guesses(2, right=0.85),
        guesses(3, right=0.6, overconfidence=0.3),
    )
    worse = compared(Measured(name, good), Measured(name, poor))
    sign = -1 if name == "ece" else 1
    assert sign * worse["difference"] > 0.1 and worse["p"] < 0.01
    assert sign * worse["low"] > 0 and sign * worse["high"] > 0 and worse["low"] < worse["high"]
    turned = compared(Measured(name, poor), Measured(name, good))
    assert turned["difference"] == pytest.approx(-worse["difference"]) and turned["p"] == worse["p"]
    equal = compared(Measured(name, good), Measured(name, same))
    assert equal["p"] > 0.05 and equal["low"] < 0 < equal["high"]
    assert compared(Measured(name, good), Measured(name, good))["p"] == 1


@pytest.mark.parametrize("name", FIGURES)
def test_equal_models_differ_as_often_as_the_level_says(name, monkeypatch):
    monkeypatch.setattr("distillgen.algorithms.resampling.RESAMPLES", 100)
    p = [
        compared(Measured(name, guesses(2 * seed, 60)), Measured(name, guesses(2 * seed + 1, 60)))["p"]
        for seed in range(60)
    ]
    assert fmean(each <= 0.05 for each in p) <= 0.13 and fmean(each <= 0.5 for each in p) > 0.3


def test_few_different_answers_are_exchanged_in_all_ways():
    gold = "aabbab" * 3
    one, other = [Guess(g, g) for g in gold], [Guess(g, g) for g in gold]
    for i in (1, 5, 9):
        other[i] = Guess("b" if gold[i] == "a" else "a", gold[i])
    told = compared(Measured("balanced_accuracy", one), Measured("balanced_accuracy", other))
    assert told["p"] == 2 / 2**3  # only none and all of the three exchanges are as far


def test_only_items_that_both_models_answered_are_compared():
    one = [Guess("a", "a", 0.5), None, Guess("a", "b", None), Guess("b", "b", 0.9)]
    other = [Guess("a", "a", 0.7), Guess("a", "b", 0.4), Guess("b", "b", 0.4), Guess("b", "b", 0.8)]
    told = compared(Measured("ece", one), Measured("ece", other))
    assert told["difference"] == pytest.approx((0.5 + 0.1) / 2 - (0.3 + 0.2) / 2)
    assert compared(Measured("ece", one[1:3]), Measured("ece", other[1:3])) is None
    assert Measured("ece", one[1:3]).summary() == {"n": 0}


def test_a_set_of_one_item_has_figures():
    for name in FIGURES:
        told = Measured(name, [Guess("a", "a", 1.0)]).summary()
        assert told["n"] == 1 and told["low"] == told["mean"] == told["high"]


def test_sets_of_rows_are_bits():
    selectors = [bool(i % 3 == 1) for i in range(20)]
    assert [*in_order(rows_of(selectors), 20)] == [*map(int, selectors)]
    assert rows_of([]) == 0 and rows_of([False, True]) == 2
    shares = [fmean(in_order(rows, 40)) for rows in subsets(40)]
    assert len(shares) == RESAMPLES and fmean(shares) == pytest.approx(0.5, abs=0.01)
    assert exchange_p(0, lambda rows: 0.3) == 1
