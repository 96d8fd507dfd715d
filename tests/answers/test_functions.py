"""A function's signature and docstring, as a tool."""

import json

import pytest

from distillgen.answers.functions import main, tools_in
from distillgen.answers.tool_calls import tools_of
from distillgen.errors import ConfigError
from tests.conftest import ROOT

CODE = '''
from typing import Literal

def _inner(): pass

class Other: pass

def add(
    a: float, *, b: int = 2, words: list[str], sums: dict[str, float], unit: Literal["m"],
    c: bool | None = None,
) -> float:
    """Add numbers,
    each with its unit.

    It is no more than an example.

    Args:
        a: the first
        b: the second,
            which may be missing
        words: some words
        sums: sums by name
        unit: its unit
        c: a switch
    """
    return a + b
'''


def test_a_function_becomes_a_tool():
    (tool,) = tools_of(tools_in(CODE, "code.py"))
    function = tool["function"]
    assert function["name"] == "add" and function["description"] == "Add numbers, each with its unit."
    assert function["parameters"] == {
        "type": "object",
        "properties": {
            "a": {"type": "number", "description": "the first"},
            "words": {"type": "array", "items": {"type": "string"}, "description": "some words"},
            "sums": {
                "type": "object",
                "additionalProperties": {"type": "number"},
                "description": "sums by name",
            },
            "unit": {"type": "string", "enum": ["m"], "description": "its unit"},
            "b": {"type": "integer", "description": "the second, which may be missing", "default": 2},
            "c": {
                "anyOf": [{"type": "boolean"}, {"type": "null"}],
                "description": "a switch",
                "default": None,
            },
        },
        "required": ["a", "words", "sums", "unit"],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    "code, why",
    [
        ("def f(:", "not Python code"),
        ("def _f(): pass", "there is no function"),
        ("def f(a: int): pass", "f: give it a docstring"),
        ('def f(a):\n    """Do.\n\n    Args:\n        a: it\n    """', "give 'a' a type"),
        ('def f(a: int):\n    """Do."""', "give 'a' .* a line under 'Args:'"),
        ('def f(*a: int):\n    """Do."""', "a tool takes arguments by name"),
        (
            'def f(a: set):\n    """Do.\n\n    Args:\n        a: it\n    """',
            "the type set has no JSON Schema",
        ),
    ],
)
def test_what_a_model_could_not_be_told_is_an_error(code, why):
    with pytest.raises(ConfigError, match=f"code.py.*{why}"):
        tools_in(code, "code.py")


def test_the_shipped_tools_are_those_of_their_functions(capsys):
    main([str(ROOT / "data/tools.py")])
    written = capsys.readouterr().out
    remedy = "python -m distillgen.answers.functions data/tools.py > data/tools.jsonl"
    assert written == (ROOT / "data/tools.jsonl").read_text(encoding="utf-8"), remedy
    tools = tools_of([json.loads(line) for line in written.splitlines()])
    assert len(tools) == 12
