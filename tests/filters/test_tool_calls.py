"""Calls against the tools that the model was offered."""

import json

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.pipeline.load import load
from tests.conftest import ROOT

TOOLS = [json.loads(line) for line in (ROOT / "data/tools.jsonl").read_text(encoding="utf-8").splitlines()]


def call(name, **arguments):
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def row(*calls, tools=TOOLS):
    return {"tool_calls": list(calls), "tools": tools}


METRES = {"value": 3, "unit": "m", "to": "km"}
GOOD = call("convert_length", **METRES)

CASES = [
    ({}, row(GOOD), None),
    ({}, row(GOOD, call("weekday", day="2024-02-29")), None),
    ({}, row(call("weekdays", day="2024-02-29")), "call 1 of 1 names a tool that is not offered"),
    ({"known": False}, row(call("weekdays", day="2024-02-29")), None),
    ({}, row(GOOD, tools=TOOLS[1:]), "call 1 of 1 names a tool that is not offered"),
    (
        {},
        row(GOOD, call("add_days", start="2024-02-29", days="two")),
        "call 2 of 2 has an argument of the wrong type (parameter 2)",
    ),
    ({"schema": False}, row(call("add_days", start="2024-02-29", days="two")), None),
    ({}, row(call("add_days", days=2)), "call 1 of 1 lacks a required argument (parameter 1)"),
    (
        {},
        row(call("weekday", day="2024-02-29", zone="UTC")),
        "call 1 of 1 has an argument that its tool does not",
    ),
    (
        {},
        row(call("convert_length", **METRES | {"to": "parsec"})),
        "call 1 of 1 has an argument that breaks the schema of its tool (parameter 3)",
    ),
    (
        {},
        row({"function": {"name": "weekday", "arguments": "{'day': 1}"}}),
        "call 1 of 1 has arguments that are not a JSON object",
    ),
    ({}, row("weekday(2024)"), "call 1 of 1 is not a call of a function"),
    ({}, row(), "0 calls < 1"),
    ({"at_least": 0}, row(), None),
    ({"at_least": 0}, {"tool_calls": None, "tools": TOOLS}, None),
    ({"at_most": 1}, row(GOOD, GOOD), "2 calls > 1"),
    ({"at_most": 2}, row(GOOD, GOOD), None),
    ({}, {"tool_calls": "none", "tools": TOOLS}, "'tool_calls' is no list of calls"),
    ({}, row(GOOD, tools=None), "'tools' is no list of tools"),
    ({}, row(GOOD, tools=[TOOLS[0]["function"]]), "'tools' is no list of tools"),
    ({"parallel": "{{ kind == 'both' }}"}, row(GOOD, GOOD) | {"kind": "both"}, None),
    ({"parallel": "{{ kind == 'both' }}"}, row(GOOD) | {"kind": "both"}, "1 calls < 2"),
    ({"parallel": "{{ kind == 'both' }}"}, row(GOOD) | {"kind": "one"}, None),
    ({"parallel": "{{ kind == 'both' }}"}, row(GOOD, GOOD) | {"kind": "one"}, "2 calls > 1"),
    ({"none_if": "{{ kind == 'none' }}"}, row() | {"kind": "none"}, None),
    ({"none_if": "{{ kind == 'none' }}"}, row(GOOD) | {"kind": "none"}, "1 calls > 0"),
    ({"none_if": "{{ kind == 'none' }}"}, row() | {"kind": "one"}, "0 calls < 1"),
    ({"none_if": "{{ kind.a.b }}"}, row() | {"kind": "none"}, "'parallel' or 'none_if' has no text"),
    ({"field": "calls", "tools": "offered"}, {"calls": [GOOD], "offered": TOOLS}, None),
]


def pipeline(project, rows, **options):
    project.rows("rows.jsonl", rows)
    stages = [{"source": {"path": "rows.jsonl"}}, {"filter": [{"tool_calls": options}]}]
    return {"version": 1, "models": {}, "stages": stages}


def test_the_reason_shows_the_call(project):
    rows = [row(GOOD, call("weekdays", day="2024-02-29")), row()]
    run = distillgen.run(pipeline(project, rows), out="run")
    reasons = [record.dropped.reason for record in run.dropped]
    assert reasons[0].startswith("call 2 of 2 names a tool that is not offered: {")
    assert "weekdays" in reasons[0]
    assert "convert_length" not in reasons[0] and reasons[1] == "0 calls < 1: []"


def test_check_refuses_bounds_and_templates_that_cannot_hold(project):
    with pytest.raises(ConfigError, match="'at_most' .1. is less than 'at_least' .2."):
        load(pipeline(project, [row()], at_least=2, at_most=1)).check()
    with pytest.raises(ConfigError, match="the field 'kin'"):
        load(pipeline(project, [row()], none_if="{{ kin }}")).check()
