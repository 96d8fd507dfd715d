"""The precision-recall curve, the threshold that reaches a target, and the expected calibration error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillgen.calibration import calibration_error, curve, reach, realised

BY_HAND = [(0.9, True), (0.8, True), (0.7, False), (0.7, True), (0.4, True), (0.2, False)]


def test_a_curve_by_hand():
    assert [tuple(round(x, 3) for x in point) for point in curve(BY_HAND)] == [
        (0.0, 1.0, 0.667, 1.0),
        (0.2, 1.0, 0.8, 0.833),
        (0.4, 0.75, 0.75, 0.667),
        (0.7, 0.5, 1.0, 0.333),
        (0.8, 0.25, 1.0, 0.167),
    ]


@pytest.mark.parametrize(
    "target, threshold",
    [
        ({"recall": 1.0}, 0.0), ({"recall": 0.9}, 0.4), ({"recall": 0.75}, 0.4), ({"recall": 0.74}, 0.7), ({"recall": 0.1}, 0.8),
        ({"precision": 0.5}, 0.0), ({"precision": 0.7}, 0.2), ({"precision": 0.9}, 0.7), ({"precision": 1.0}, 0.7),
    ],
)  # fmt: skip
def test_the_first_point_that_reaches_the_target(target, threshold):
    assert reach(curve(BY_HAND), **target).threshold == threshold


def test_a_precision_that_no_threshold_gives():
    assert reach(curve([(0.9, False), (0.5, True)]), precision=0.6) is None


def test_where_all_are_equal_all_are_kept():
    assert [point.threshold for point in curve([(0.5, True), (0.5, False)])] == [0.0]
    assert [point.kept for point in curve([(0.0, True), (0.0, False)])] == [1.0]


SCORED = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40).filter(lambda s: any(v for _, v in s))


@given(SCORED, st.floats(0.01, 1))
def test_a_point_tells_what_its_threshold_keeps(scored, target):
    points = curve(scored)
    for point in points:
        assert realised(scored, point.threshold) == {"recall": point.recall, "precision": point.precision, "kept": point.kept}
    assert points[0].kept == 1.0 and [p.threshold for p in points] == sorted(p.threshold for p in points)
    chosen = reach(points, recall=target)
    assert chosen.recall <= target or chosen == points[-1]
    assert all(point.recall > target for point in points[: points.index(chosen)])


def test_the_error_of_probabilities():
    assert calibration_error([(0.75, True)] * 3 + [(0.75, False)]) == 0
    assert calibration_error([(0.9, False)] * 2 + [(0.05, True)]) == pytest.approx((1.8 + 0.95) / 3)
    assert calibration_error([(1.0, True), (0.0, False)]) == 0


def test_nothing_kept_has_no_precision():
    assert realised(BY_HAND, 1.0) == {"recall": 0.0, "precision": None, "kept": 0.0}
