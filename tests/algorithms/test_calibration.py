"""The precision-recall curve, the threshold that reaches a target, and the expected calibration error."""

import math
import random
from bisect import bisect
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillgen.algorithms.calibration import assured, calibration_error, curve, reach, realised
from distillgen.algorithms.intervals import lower_bound

BY_HAND = [(0.9, True), (0.8, True), (0.7, False), (0.7, True), (0.4, True), (0.2, False)]


def test_a_curve_by_hand():
    assert [tuple(round(x, 3) for x in point) for point in curve(BY_HAND)] == [
        (0.0, 1.0, 0.667, 1.0),
        (0.2, 1.0, 0.8, 0.833),
        (0.4, 0.75, 0.75, 0.667),
        (0.7, 0.5, 1.0, 0.333),
        (0.8, 0.25, 1.0, 0.167),
    ]


@pytest.mark.parametrize("target, threshold", [(1.0, 0.0), (0.9, 0.4), (0.75, 0.4), (0.74, 0.7), (0.1, 0.8)])
def test_the_first_point_at_which_recall_has_come_down_to_its_target(target, threshold):
    assert reach(BY_HAND, recall=target, confidence=0.8).threshold == threshold


def test_the_first_point_at_which_precision_is_assured():
    scored = [(1 - i / 100, i % 4 != 3 or i < 50) for i in range(100)]
    points, valid = curve(scored), sum(label for _, label in scored)
    for confidence in (0.5, 0.8, 0.95):
        chosen = reach(scored, precision=0.9, confidence=confidence)
        bounds = [lower_bound(round(p.recall * valid), round(p.kept * 100), level=confidence) for p in points]
        assert chosen == next(p for p, bound in zip(points, bounds, strict=True) if bound >= 0.9)
        assert assured(chosen, 100, confidence) >= 0.9
    chosen = [reach(scored, precision=0.9, confidence=c).threshold for c in (0.5, 0.8)]
    assert chosen == sorted(set(chosen)), "more confidence takes a higher threshold"


def test_a_precision_that_no_threshold_assures():
    assert reach([(0.9, False), (0.5, True)], precision=0.6, confidence=0.5) is None
    assert reach(BY_HAND, precision=0.9, confidence=0.8) is None, "three right of three"


def drawn(n, chance):
    """Probabilities of a critic that is right more often than not; 70 % are valid."""
    valid = [chance.random() < 0.7 for _ in range(n)]
    return [(1 / (1 + math.exp(-chance.gauss(1.2 * label, 1))), label) for label in valid]


def test_target_precision_holds_on_new_records_at_its_confidence():
    chance = random.Random(3)
    new = drawn(5000, chance)
    of = {p.threshold: p.precision for p in curve(new)}
    thresholds = sorted(of)

    def precision(threshold):
        return of[thresholds[max(0, bisect(thresholds, threshold) - 1)]]

    sure, lucky = [], []
    for _ in range(120):
        labelled = drawn(200, chance)
        lucky.append(precision(next(p for p in curve(labelled) if p.precision >= 0.88).threshold))
        if chosen := reach(labelled, precision=0.88, confidence=0.8):
            sure.append(precision(chosen.threshold))
    assert len(sure) > 90 and fmean(p >= 0.88 for p in sure) >= 0.75 and fmean(sure) > 0.885
    assert fmean(p >= 0.88 for p in lucky) < 0.6


def test_where_all_are_equal_all_are_kept():
    assert [point.threshold for point in curve([(0.5, True), (0.5, False)])] == [0.0]
    assert [point.kept for point in curve([(0.0, True), (0.0, False)])] == [1.0]


SCORED = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40).filter(
    lambda s: any(v for _, v in s)
)


@given(SCORED, st.floats(0.01, 1))
def test_a_point_tells_what_its_threshold_keeps(scored, target):
    points = curve(scored)
    for point in points:
        told = realised(scored, point.threshold)
        assert (told["recall"], told["precision"], told["kept"]) == (
            point.recall,
            point.precision,
            point.kept,
        )
        assert all(about["low"] <= told[name] <= about["high"] for name, about in told["intervals"].items())
    assert points[0].kept == 1.0 and [p.threshold for p in points] == sorted(p.threshold for p in points)
    chosen = reach(scored, recall=target, confidence=0.8)
    assert chosen.recall <= target or chosen == points[-1]
    assert all(point.recall > target for point in points[: points.index(chosen)])


def test_the_error_of_probabilities():
    assert calibration_error([(0.75, True)] * 3 + [(0.75, False)]) == 0
    assert calibration_error([(0.9, False)] * 2 + [(0.05, True)]) == pytest.approx((1.8 + 0.95) / 3)
    assert calibration_error([(1.0, True), (0.0, False)]) == 0


def test_nothing_kept_has_no_precision():
    told = realised(BY_HAND, 1.0)
    assert (told["recall"], told["precision"], told["kept"]) == (0.0, None, 0.0) and set(
        told["intervals"]
    ) == {"recall", "kept"}
    assert told["intervals"]["recall"]["high"] == pytest.approx(1 - 0.025 ** (1 / 4))
