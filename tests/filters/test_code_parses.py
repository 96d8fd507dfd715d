"""Code that parses."""

import time

import pytest

GOOD, BAD = "```python\nprint('a')\n```", "~~~py\nprint('a'\n~~~"

CASES = [
    ({"field": "x"}, {"x": "def f(x):\n    return '\\d'\n"}, None),
    ({"field": "x"}, {"x": "def f(x)\n    return x"}, "does not parse as python"),
    ({"field": "x"}, {"x": "x = '\x00'"}, "does not parse as python"),
    ({"field": "x"}, {"x": "(" * 5000}, "does not parse as python"),
    ({"field": "x", "language": "json"}, {"x": '{"a": [1, 2]}'}, None),
    ({"field": "x", "language": "json"}, {"x": "{'a': NaN}"}, "does not parse as json"),
    ({"field": "x", "language": "json"}, {"x": "[" * 100_000}, "does not parse as json"),
    ({"field": "x", "language": "yaml"}, {"x": "a: [1, 2]\nb: {c: d}"}, None),
    ({"field": "x", "language": "yaml"}, {"x": "a: [1, 2\nb: c"}, "does not parse as yaml"),
    ({"field": "x", "language": "toml"}, {"x": "[a]\nb = 1"}, None),
    ({"field": "x", "language": "toml"}, {"x": "[a]\nb = "}, "does not parse as toml"),
    ({"field": "x", "fenced": True}, {"x": f"So:\n\n{GOOD}\n\nThat is all."}, None),
    (
        {"field": "x", "fenced": True},
        {"x": f"So:\n\n{GOOD}\nand\n{BAD}\n"},
        "1 of 2 blocks of code do not parse",
    ),
    (
        {"field": "x", "fenced": True},
        {"x": "1. So:\n   ```\n   if a:\n       b\n   ```\n   ```json\n   {}\n   ```"},
        None,
    ),
    ({"field": "x", "fenced": True}, {"x": "```rust\nfn main( {\n```\nno code of ours"}, None),
    (
        {"field": "x", "fenced": True},
        {"x": "````md\n```\n````\ncut off:\n```python\nprint("},
        "1 of 1 blocks of code do not parse",
    ),
    ({"field": "x", "fenced": True, "min_blocks": 1}, {"x": "Only words."}, "0 blocks of code < 1"),
    ({"field": "x"}, {"x": 12}, None),
]


def test_no_toml_takes_minutes(reason):
    started = time.monotonic()
    assert (
        reason("code_parses", {"field": "x", "language": "toml"}, {"x": "a." * 100_000 + "a = 1"})
        == "does not parse as toml"
    )
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "text",
    [
        "{" * 2000,
        "[(" * 90,
        "x = " + "-" * 200_000 + "1",
        "f(" * 150 + ")" * 150 + " $",
        "a = " + "b." * 200_000,
    ],
)
def test_no_code_takes_the_process_with_it_or_long(reason, text):
    reason("code_parses", {"field": "x"}, {"x": text})
