"""Arithmetic in an option: its value, and that nothing else than arithmetic is read."""

import pytest

from distillgen.algorithms.arithmetic import Arithmetic


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.5", 0.5),
        ("1 - alpha", 0.75),
        ("0.1 * 0.5 ** (epoch // 30)", 0.025),
        ("-epoch % 7", 3),
        ("alpha < 0.5", 1.0),
        ("2 * (epoch >= 61) + 1", 1.0),
    ],
)
def test_the_value_is_that_of_arithmetic(text, value):
    assert Arithmetic(text).value({"alpha": 0.25, "epoch": 60, "x": 1}) == pytest.approx(value)


def test_names_are_those_that_it_reads():
    assert Arithmetic("a * b + 1").names == {"a", "b"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "alpha.numpy()",
        "__import__('os')",
        "f(1)",
        "x[0]",
        "'a' * 3",
        "True",
        "1 < 2 < 3",
        "lambda: 1",
        "9 ** 999",
        "a if b else c",
        "[1]",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="arithmetic|too large"):
        Arithmetic(text)
