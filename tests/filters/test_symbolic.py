"""Equal by computer algebra."""

import time
from importlib.util import find_spec

import pytest

MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("math_verify") is None, reason="needs the extra 'filters'"),
]
pytestmark = MARKS

CASES = [
    ({}, {"answer": "So it is $(x+1)^2$. The answer is $(x+1)^2$.", "gold": "x^2+2x+1"}, None),
    ({}, {"answer": "\\boxed{x+2}", "gold": "x+1"}, "not equal to the gold answer"),
    ({"lenient": False}, {"answer": "x+1", "gold": "x+1"}, "announces no expression"),
    ({}, {"answer": "\\boxed{\\{2, 1\\}}", "gold": ["\\{1\\}", "\\{1, 2\\}"]}, None),
    ({}, {"answer": "5", "gold": None}, "the gold answer is no expression"),
]


@pytest.mark.parametrize(
    "answer, gold, expected",
    [
        (r"2\sqrt{2}", r"\sqrt{8}", None),
        (r"(1, 2]", r"[1, 2)", "not equal to the gold answer"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}", None),
        (r"\sin^2 x+\cos^2 x", "1", None),
        ("9^{9^{9^{9^9}}}", "5", "not compared within 2 s"),
        ("", "5", "announces no expression"),
    ],
)
def test_what_is_equal(reason, answer, gold, expected):
    started = time.monotonic()
    assert (
        reason(
            "symbolic", {"timeout_s": 2, "lenient": False}, {"answer": f"\\boxed{{{answer}}}", "gold": gold}
        )
        == expected
    )
    assert time.monotonic() - started < 30


def test_a_hanging_comparison_is_isolated_and_nothing_is_executed(tmp_path):
    from distillgen.answers.algebra import equality

    hostile = f"__import__('os').system('touch {tmp_path}/run')"
    pairs = [
        ("1/2", "0.5"),
        ("9^{9^{9^{9^9}}}", "1"),
        (hostile, "1"),
        ("2", "2"),
        ("x" * 100_000, "y"),
        ("3", "4"),
    ]
    found = equality(pairs, timeout_s=3)
    assert (found[0], found[1], found[3], found[5]) == ("equal", "late", "equal", "unequal")
    assert not (tmp_path / "run").exists()


def test_the_process_is_started_once(monkeypatch):
    from distillgen.answers import algebra

    algebra.equality([("1", "1")])
    monkeypatch.setattr(algebra.subprocess, "Popen", None)  # so that none can be started
    assert [algebra.equality([("2", "4/2")]) for _ in range(5)] == [["equal"]] * 5
