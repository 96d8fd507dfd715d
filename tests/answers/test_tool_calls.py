"""Tools in OpenAI's form, and what is wrong with calls of them."""

import pytest

from distillgen.answers.tool_calls import (
    BREACH,
    EXTRA,
    MISSING,
    NO_CALL,
    NO_OBJECT,
    UNKNOWN,
    WRONG_TYPE,
    BadTools,
    call_of,
    mistake,
    tools_of,
)
from distillgen.record import dumps

UNITS = {"type": "string", "enum": ["m", "km"]}
LENGTH = {
    "type": "function",
    "function": {
        "name": "length",
        "description": "Convert a length.",
        "parameters": {
            "type": "object",
            "properties": {"value": {"type": "number"}, "unit": UNITS, "to": UNITS},
            "required": ["value", "unit"],
            "additionalProperties": False,
        },
    },
}
TODAY = {"type": "function", "function": {"name": "today"}}


def call(name="length", arguments=None, **more):
    text = dumps({"value": 3, "unit": "m"} if arguments is None else arguments).decode()
    return {
        "id": "c1",
        "type": "function",
        "function": {"name": name, "arguments": text if arguments != "" else ""},
        **more,
    }


def with_function(**more):
    return {"type": "function", "function": {**LENGTH["function"], **more}}


@pytest.mark.parametrize(
    "value, tools",
    [
        ([LENGTH, TODAY], [LENGTH, TODAY]),
        ([{**LENGTH, "cosine": 0.5}], [LENGTH]),
        (dumps([TODAY]).decode(), [TODAY]),
        ([], []),
    ],
)
def test_tools_are_a_list_of_functions(value, tools):
    assert tools_of(value) == tools


@pytest.mark.parametrize(
    "value, why",
    [
        (None, "null"),
        ("length", "not JSON"),
        ({"name": "length"}, "not a list"),
        ([TODAY, LENGTH["function"]], "tool 2 does not have the form"),
        ([{"function": LENGTH["function"]}], "tool 1 does not have the form"),
        ([{**LENGTH, "type": "retrieval"}], "tool 1 does not have the form"),
        ([with_function(name="a length")], "tool 1: its name 'a length'"),
        ([with_function(name=None)], "tool 1: its name None"),
        ([TODAY, TODAY], "two tools have the name 'today'"),
        (
            [with_function(parameters={"value": "number"})],
            r"tool 1 \(length\): .* no JSON Schema of an object",
        ),
        (
            [with_function(parameters={"type": "object", "properties": {"value": {"type": "numeral"}}})],
            "wrong",
        ),
        ([with_function(parameters={"type": "object", "properties": {"value": None}})], "wrong"),
        (
            [with_function(parameters={"type": "object", "properties": {"a": {"$ref": "http://a"}}})],
            "http://a",
        ),
    ],
)
def test_what_is_no_list_of_tools_says_why(value, why):
    with pytest.raises(BadTools, match=why):
        tools_of(value)


@pytest.mark.parametrize(
    "asked, expected",
    [
        (call(), (0, 0)),
        (call(arguments={"value": 2.5, "unit": "km", "to": "m"}), (0, 0)),
        ({"function": {"name": "length", "arguments": {"value": 1, "unit": "m"}}}, (0, 0)),
        (call("today", arguments=""), (0, 0)),
        (call("today", arguments={"zone": "UTC"}), (0, 0)),
        (call("width"), (UNKNOWN, 0)),
        (call(arguments={"value": "3", "unit": "m"}), (WRONG_TYPE, 1)),
        (call(arguments={"value": True, "unit": "m"}), (WRONG_TYPE, 1)),
        (call(arguments={"value": 3}), (MISSING, 2)),
        (call(arguments={"value": 3, "unit": "m", "into": "km"}), (EXTRA, 0)),
        (call(arguments={"value": 3, "unit": "mile"}), (BREACH, 2)),
        (call(arguments=[3, "m"]), (NO_OBJECT, 0)),
        (call(arguments="{'value': 3}"), (NO_OBJECT, 0)),
        ({"function": {"name": "length", "arguments": None}}, (NO_OBJECT, 0)),
        ({"name": "length", "arguments": {}}, (NO_CALL, 0)),
        ({"function": {"arguments": "{}"}}, (NO_CALL, 0)),
        ("length(3)", (NO_CALL, 0)),
    ],
)
def test_a_call_fits_its_tool_or_says_why_not(asked, expected):
    assert mistake(asked, [TODAY, LENGTH]) == expected


def test_a_schema_that_is_not_checked_lets_any_object_pass():
    assert mistake(call(arguments={"value": "3"}), [LENGTH], check_schema=False) == (0, 0)
    assert mistake(call("width"), [LENGTH], check_schema=False) == (UNKNOWN, 0)


def test_a_call_is_read_with_its_id():
    assert call_of(call()) == ("c1", "length", {"value": 3, "unit": "m"})
    assert call_of(call(arguments="[1")).arguments is None
