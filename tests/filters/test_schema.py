"""A JSON Schema or a regular expression."""

import re

import pytest

POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"$ref": "#/$defs/n"}},
    "required": ["x"],
    "$defs": {"n": {"type": "number"}},
}

CASES = [
    ({"field": "a", "json_schema": POINT}, {"a": '{"x": 1, "y": 2.5}'}, None),
    ({"field": "a", "json_schema": POINT}, {"a": {"x": 1}}, None),
    ({"field": "a", "json_schema": POINT}, {"a": '{"x": "1", "y": "2"}'}, "breaks the schema at 2 places"),
    ({"field": "a", "json_schema": POINT}, {"a": 'Here: {"x": 1}'}, "not JSON"),
    ({"field": "a", "json_schema": POINT}, {"a": '{"x": NaN}'}, "not JSON"),
    ({"field": "a", "json_schema": POINT}, {"a": None}, "breaks the schema at 1 places"),
    ({"field": "a", "json_schema": {"type": "string", "maxLength": 3}}, {"a": "abc"}, None),
    ({"field": "a", "json_schema": {"enum": ["yes", "no"]}}, {"a": "yes"}, None),
    ({"field": "a", "json_schema": {"enum": ["yes", "no"]}}, {"a": '"no"'}, None),
    ({"field": "a", "json_schema": {"enum": ["yes", "no"]}}, {"a": "maybe"}, "not JSON"),
    ({"field": "a", "pattern": r"\d{4}-\d\d"}, {"a": "2024-05"}, None),
    ({"field": "a", "pattern": r"\d{4}-\d\d"}, {"a": "2024-05-01"}, "does not match the pattern"),
    ({"field": "a", "pattern": r"\d+"}, {"a": 12}, None),
]


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "give either 'json_schema' or 'pattern'"),
        ({"pattern": "("}, "'pattern' is not a regular expression"),
        ({"json_schema": {"type": "text"}}, "'json_schema' is wrong: 'text' is not valid"),
        (
            {"json_schema": {"$ref": "http://127.0.0.1:9/schema"}},
            "'json_schema' refers to 'http://127.0.0.1:9/schema', which is not in it",
        ),
        (
            {"json_schema": {"items": {"$ref": "#/$defs/none"}}},
            "'json_schema' refers to '/$defs/none', which is not in it",
        ),
    ],
)
def test_a_wrong_schema_is_told_and_nothing_is_fetched(reason, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        reason("schema", options, {"response": "1"})
