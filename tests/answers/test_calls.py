"""Functions that run in the sandbox: each shipped one works, and a call that fails says why."""

import json

import pytest

from distillgen.answers.sandbox import run_calls
from distillgen.answers.tool_calls import mistake, tools_of
from distillgen.confinement import Limits, lacking
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(bool(lacking()), reason=f"lacks {lacking()}")
LIMITS = Limits(timeout_s=5, cpu_s=2, memory_mb=256)
CODE = (ROOT / "data/tools.py").read_text(encoding="utf-8")
SALES = [{"city": "Rome", "sold": 2}, {"city": "Oslo", "sold": "1.5"}, {"city": "Rome", "sold": 3}]
EXAMPLES = [
    ("convert_length", {"value": 2, "unit": "mile", "to": "km"}, 3.21869),
    ("convert_temperature", {"value": 100, "unit": "celsius", "to": "fahrenheit"}, 212.0),
    ("convert_temperature", {"value": 32, "unit": "fahrenheit", "to": "kelvin"}, 273.15),
    ("days_between", {"start": "2024-02-28", "end": "2024-03-01"}, 2),
    ("add_days", {"start": "2023-12-31", "days": 1}, "2024-01-01"),
    ("weekday", {"day": "2000-01-01"}, "Saturday"),
    ("count_words", {"text": "A word, and another.", "longer_than": 3}, 2),
    ("replace_text", {"text": "red and red", "old": "red", "new": "blue"}, "blue and blue"),
    ("sort_words", {"words": ["b", "C", "a"]}, ["a", "b", "C"]),
    ("describe_numbers", {"numbers": [1, 2, 6]}, {"smallest": 1, "largest": 6, "mean": 3.0, "median": 2}),
    ("loan_payment", {"amount": 1200, "yearly_rate_percent": 0, "months": 12}, 100.0),
    ("loan_payment", {"amount": 1000, "yearly_rate_percent": 12, "months": 2}, 507.51),
    ("look_up_planet", {"name": "Mars"}, {"diameter_km": 6792, "moons": 2, "days_of_year": 687.0}),
    ("sum_by", {"rows": SALES, "group": "city", "amount": "sold"}, {"Rome": 5.0, "Oslo": 1.5}),
]


def test_each_shipped_function_does_what_its_tool_says():
    tools = tools_of([json.loads(line) for line in (ROOT / "data/tools.jsonl").read_text().splitlines()])
    assert {name for name, _, _ in EXAMPLES} == {tool["function"]["name"] for tool in tools}
    for name, arguments, _ in EXAMPLES:
        assert mistake({"function": {"name": name, "arguments": arguments}}, tools) == (0, 0), name
    results = run_calls(CODE, [(name, arguments) for name, arguments, _ in EXAMPLES], limits=LIMITS)
    for result, (name, _, expected) in zip(results, EXAMPLES, strict=True):
        assert not result.error, (name, result)
        assert (result.text if isinstance(expected, str) else json.loads(result.text)) == expected, name


def errors(code, *calls, **limits):
    return [result.error for result in run_calls(code, calls, limits=Limits(**limits) if limits else LIMITS)]


def test_a_call_that_fails_says_why_and_the_others_go_on():
    calls = [
        ("weekday", {"day": "yesterday"}),
        ("look_up_planet", {"name": "Vulcan"}),
        ("weekday", {"date": "2000-01-01"}),
        ("weekday", {"day": "2000-01-01"}),
    ]
    bad_date, bad_planet, bad_name, none = errors(CODE, *calls)
    assert bad_date.startswith("ValueError: Invalid isoformat") and "no planet 'Vulcan'" in bad_planet
    assert "unexpected keyword argument 'date'" in bad_name and not none


@pytest.mark.parametrize(
    "body, why",
    [
        ("while True: pass", "it ran out of time"),
        ("import os; os._exit(0)", "the call left the process"),
        ("import sys; sys.exit(0)", "the call left the process"),
        ("return {1, 2}", "TypeError: Object of type set is not JSON serializable"),
        ("return float('nan')", "ValueError: Out of range float values are not JSON"),
        ("return open('/etc/passwd').read()", "PermissionError"),
        ("import socket; socket.socket()", "PermissionError"),
        ("import subprocess; subprocess.run(['true'])", "PermissionError"),
        ("return bytearray(1 << 30)", "MemoryError"),
    ],
)
def test_a_call_is_confined_and_bounded(body, why):
    code = f"def fine(): return 1\ndef f():\n    {body}\n"
    first, second, third = errors(
        code, ("fine", {}), ("f", {}), ("fine", {}), timeout_s=2, cpu_s=1, memory_mb=256
    )
    assert first == "" and why in second
    assert third in ("", second), "a call after the end of the process has no result"


def test_code_that_does_not_load_fails_each_call_with_its_reason():
    assert (
        errors("import nothing_of_this_name\ndef f(): pass", ("f", {}), ("f", {}))
        == ["ModuleNotFoundError: No module named 'nothing_of_this_name'"] * 2
    )


def test_sets_have_the_same_order_in_every_process():
    words = [f"word{i}" for i in range(50)]
    code = "def f(words): return list(set(words))"
    texts = {run_calls(code, [("f", {"words": words})], limits=LIMITS)[0].text for _ in range(3)}
    assert len(texts) == 1 and sorted(json.loads(texts.pop())) == sorted(words)


def test_texts_of_any_kind_come_back():
    text = "a\nb\u2028c \U0001f600 " + "x" * 100_000
    (result,) = run_calls("def f(text): return text", [("f", {"text": text})], limits=LIMITS)
    assert result.text == text
