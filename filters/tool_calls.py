"""Calls that fit the tools that the model was offered (APIGen, Liu et al. 2024, section 3.2)."""

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.answers.tool_calls import (
    BREACH,
    EXTRA,
    MISSING,
    NO_CALL,
    NO_OBJECT,
    UNKNOWN,
    WRONG_TYPE,
    BadTools,
    mistake,
    tools_of,
)

MISTAKES = {
    NO_CALL: "is not a call of a function",
    UNKNOWN: "names a tool that is not offered",
    NO_OBJECT: "has arguments that are not a JSON object",
    MISSING: "lacks a required argument",
    WRONG_TYPE: "has an argument of the wrong type",
    EXTRA: "has an argument that its tool does not take",
    BREACH: "has an argument that breaks the schema of its tool",
}


def tool_calls(
    *,
    field: FieldName = "tool_calls",
    tools: FieldName = "tools",
    known: bool = True,
    schema: bool = True,
    at_least: int = 1,
    at_most: int | None = None,
) -> Filter:
    """Drop answers whose tool calls do not fit the tools of the record, or are too few or too many. Costs
    nothing.

    A call has to name a tool of the record, and its arguments have to satisfy the JSON Schema of the tool's
    parameters: types, required arguments, and no others where the schema forbids them. The reason counts
    calls, and the parameters of a tool, from 1. Measures the number of calls, the place of the first bad one,
    what is wrong with it, and the place of the parameter.

    Options:
        field: the calls, as the stage generate writes them
        tools: the tools that the model was offered
        known: whether a call of a tool that is not among them is dropped
        schema: whether arguments that break the schema of the tool are dropped
        at_least: fewest calls of a kept answer
        at_most: most calls of a kept answer
    """

    def measured(record: Record) -> dict[str, float]:
        calls = record.fields[field]
        try:
            offered = tools_of(record.fields[tools])
        except BadTools:
            return {"calls": -1}
        if not isinstance(calls, list | None):
            return {"calls": -2}
        numbers: dict[str, float] = {"calls": len(calls or ())}
        for number, call in enumerate(calls or (), 1):
            kind, place = mistake(call, offered, check_schema=schema)
            if kind and (known or kind != UNKNOWN):
                return {**numbers, "call": number, "mistake": kind, "parameter": place}
        return {**numbers, "call": 0, "mistake": 0, "parameter": 0}

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [measured(record) for record in records]

    def decide(numbers: Mapping[str, Any]) -> str | None:
        calls = int(numbers["calls"])
        if calls < 0:
            return f"'{tools}' is no list of tools" if calls == -1 else f"'{field}' is no list of calls"
        if kind := int(numbers["mistake"]):
            place = f" (parameter {numbers['parameter']:.0f})" if numbers["parameter"] else ""
            return f"call {numbers['call']:.0f} of {calls} {MISTAKES[kind]}{place}"
        if calls < at_least:
            return f"{calls} calls < {at_least}"
        return f"{calls} calls > {at_most}" if at_most is not None and calls > at_most else None

    return Filter(measure, decide)
