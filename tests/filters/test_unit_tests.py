"""Programs and their tests; what hostile ones can do is in tests/answers/test_sandbox.py."""

import pytest

from distillgen.confinement import lacking
from distillgen.errors import ConfigError

pytestmark = [pytest.mark.skipif(bool(lacking()), reason=f"lacks {lacking()}")]
MARKS = [*pytestmark, pytest.mark.slow]  # a process for each of many texts

SQUARE = (
    "Here it is:\n```python\ndef square(x):\n    return x * x\n```\nAs you see:\n```sh\n"
    "pip install square\n```"
)

CASES = [
    ({}, {"answer": SQUARE, "tests": ["assert square(2) == 4", "assert square(3) == 9"]}, None),
    (
        {},
        {"answer": SQUARE, "tests": ["assert square(2) == 4", "assert square(3) == 10"]},
        "1 of 2 tests passed",
    ),
    (
        {"min_share": 0.5},
        {"answer": SQUARE, "tests": ["assert square(2) == 4", "assert square(3) == 10"]},
        None,
    ),
]

MORE = [
    (
        {"entry_point": "e"},
        {"answer": SQUARE, "tests": "def check(candidate):\n    assert candidate(2) == 4", "e": "square"},
        None,
    ),
    (
        {"entry_point": "e"},
        {"answer": SQUARE, "tests": "def check(candidate):\n    assert candidate(2) == 5", "e": "square"},
        "0 of 1 tests passed",
    ),
    ({}, {"answer": SQUARE, "tests": "def test_it():\n    assert square(2) == 5"}, "0 of 1 tests passed"),
    ({}, {"answer": SQUARE, "tests": "def test_it():\n    assert square(2) == 4"}, None),
    ({}, {"answer": SQUARE, "tests": ""}, "no tests"),
    ({}, {"answer": SQUARE, "tests": None}, "no tests"),
    ({}, {"answer": "I would rather not.", "tests": ["assert True"]}, "0 of 1 tests passed"),
    (
        {"timeout_s": 1},
        {"answer": "while True: pass", "tests": ["assert True"]},
        "0 of 1 tests passed; it ran out of time",
    ),
    (
        {},
        {"answer": "import os\nos._exit(0)", "tests": ["assert True"]},
        "0 of 1 tests passed; it left before the end of the tests",
    ),
    (
        {},
        {
            "answer": "print(2 * int(input()))",
            "tests": [{"input": "2", "output": "4\n"}, {"input": "3", "output": "6"}],
        },
        None,
    ),
    (
        {},
        {"answer": "print(4)", "tests": [{"input": "2", "output": "4\n"}, {"input": "3", "output": "6"}]},
        "1 of 2 tests passed",
    ),
    (
        {},
        {"answer": "print(4)\nraise SystemExit(1)", "tests": [{"input": "", "output": "4"}]},
        "0 of 1 tests passed",
    ),
]


@pytest.mark.parametrize("case", CASES + MORE)
def test_kinds_of_tests(reason, case):
    assert reason("unit_tests", case[0], case[1]) == case[2]


def test_a_machine_that_cannot_confine_says_so(reason, monkeypatch):
    monkeypatch.setattr("distillgen.confinement._landlock_version", lambda: -1)
    with pytest.raises(
        ConfigError,
        match="cannot confine strangers' code, for lack of Landlock .*; mend that; or run in a container",
    ):
        reason("unit_tests", *CASES[0][:2])
    assert reason("unit_tests", {"unconfined": True}, CASES[0][1]) is None
    assert reason("unit_tests", {"unconfined": True}, CASES[1][1]) == "1 of 2 tests passed"
