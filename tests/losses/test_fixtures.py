"""The formulas of the fixtures have the values that were computed in another way, by NumPy and SciPy."""

import math

import pytest

from tests.losses import fixtures as f


def rows(formula, *options):
    return [formula(s, p, *options) for s, p in zip(f.S, f.T, strict=True)]


def ranked(temperature):
    return [f.plackett_luce(s, p, y, temperature) for s, p, y in zip(f.S, f.T, f.Y, strict=True)]


def related(kind):
    pairs = zip(f.PROJECTIONS, f.WIDER, strict=True)
    return [f.attention_relations(student, teacher, 2, kind) for student, teacher in pairs]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        *((rows(f.forward, t), f.FORWARD[t]) for t in f.FORWARD),
        *((rows(f.reverse, t), f.REVERSE[t]) for t in f.REVERSE),
        *((rows(f.jensen_shannon, t), f.JENSEN_SHANNON[t]) for t in f.JENSEN_SHANNON),
        *((rows(f.tail, k), f.TAIL[k]) for k in f.TAIL),
        (f.dual(f.S, f.S[::-1]), f.DUAL),
        (f.read(f.S[0], f.S[3]), f.READ),
        (rows(f.rescaled_divergence), f.RESCALED),
        (f.mixed(f.S), f.MIXED),
        (f.mixed([f.rescaled(s) for s in f.S]), f.MIXED_RESCALED),
        *((ranked(t), f.PLACKETT_LUCE[t]) for t in f.PLACKETT_LUCE),
        (ranked(1e9), f.LIST_MLE),
        *((rows(f.taid, t), f.TAID[t]) for t in f.TAID),
        (f.path(f.LOSSES, f.STEPS, **f.OPTIONS), f.PATH),
        (f.path(f.LOSSES, f.STEPS, **f.OPTIONS, adaptive=False), f.LINE),
        ([f.entropy(p) for p in f.T], f.ENTROPY_T),
        ([f.entropy(f.softmax(s)) for s in f.S], f.ENTROPY_S),
        (f.low(), f.LOW),
        (f.high(1.5), f.HIGH),
        (f.gate(f.FEATURES[0]), f.GATE),
        (f.balance(), f.BALANCE),
        *(([f.information(j, alpha) for j in range(4)], f.INFORMATION[alpha]) for alpha in f.INFORMATION),
        *((related(kind), f.RELATIONS[kind]) for kind in f.RELATIONS),
        (f.inner(), f.INNER),
        *((f.near(*options), f.LOCAL[options]) for options in f.LOCAL),
        *((f.contrast(t), f.GLOBAL[t]) for t in f.GLOBAL),
        (f.contrast(math.sqrt(0.1)), f.GLOBAL_HALFWAY),
        (rows(f.disagreement), f.DISAGREEMENT),
        (f.nt_xent(f.FEATURES, f.CHANGED), f.NT_XENT),
        ([f.sure(i)[0] for i in range(4)], f.SURE),
        (f.prototypes(), f.PROTOTYPES),
        (f.margin_mse(f.STUDENT_SCORES, f.TEACHER_SCORES), f.MARGIN_MSE),
    ],
)
def test_a_formula_has_its_value(values, expected):
    assert values == pytest.approx(expected, abs=1e-8)


def test_a_margin_does_not_change_with_an_offset_of_a_query():
    moved = [(a + 7, b + 7) for a, b in f.TEACHER_SCORES]
    assert f.margin_mse(f.STUDENT_SCORES, moved) == pytest.approx(f.MARGIN_MSE)
