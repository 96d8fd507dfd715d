"""Equal by computer algebra."""

import signal
import subprocess
import sys
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


def test_a_hanging_comparison_ends_also_if_nobody_is_left_to_end_it():
    command = [sys.executable, "-m", "distillgen.answers.algebra"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.stdin.write(b'["1/2", "0.5", 5]\n')
        process.stdin.flush()
        assert process.stdout.readline() == b"equal\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(6)  # it waits for the next pair as long as may be
        process.stdin.write(b'["9^{9^{9^{9^9}}}", "1", 1]\n')
        process.stdin.flush()
        assert process.wait(60) == -signal.SIGALRM


def test_the_process_is_started_once(monkeypatch):
    from distillgen.answers import algebra

    algebra.equality([("1", "1")])
    monkeypatch.setattr(algebra.subprocess, "Popen", None)  # so that none can be started
    assert [algebra.equality([("2", "4/2")]) for _ in range(5)] == [["equal"]] * 5
