"""Calls that fit the tools that the model was offered (APIGen, Liu et al. 2024, section 3.2)."""

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record, TemplateText
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
from distillgen.flow.condition import Condition
from distillgen.record import Unrenderable, dumps
from distillgen.text.display import clipped

MISTAKES = {
    NO_CALL: "is not a call of a function",
    UNKNOWN: "names a tool that is not offered",
    NO_OBJECT: "has arguments that are not a JSON object",
    MISSING: "lacks a required argument",
    WRONG_TYPE: "has an argument of the wrong type",
    EXTRA: "has an argument that its tool does not take",
    BREACH: "has an argument that breaks the schema of its tool",
}

UNUSABLE = {
    -1: "'{tools}' is no list of tools",
    -2: "'{field}' is no list of calls",
    -3: "'parallel' or 'none_if' has no text",
}
NO_BOUND = 1_000_000


def tool_calls(
    *,
    field: FieldName = "tool_calls",
    tools: FieldName = "tools",
    known: bool = True,
    schema: bool = True,
    at_least: int = 1,
    at_most: int | None = None,
    parallel: TemplateText | None = None,
    none_if: TemplateText | None = None,
) -> Filter:
    """Drop answers whose tool calls do not fit the tools of the record, or are too few or too many. Costs
    nothing.

    A call has to name a tool of the record, and its arguments have to satisfy the JSON Schema of the tool's
    parameters: types, required arguments, and no others where the schema forbids them. The reason shows the
    call, and counts calls, and the parameters of a tool, from 1. Measures the number of calls, the least and
    the most that the record may have, the place of the first bad call, what is wrong with it, and the place
    of the parameter.

    Options:
        field: the calls, as the stage generate writes them
        tools: the tools that the model was offered
        known: whether a call of a tool that is not among them is dropped
        schema: whether arguments that break the schema of the tool are dropped
        at_least: fewest calls of a kept answer
        at_most: most calls of a kept answer
        parallel: template, such as "{{ kind == 'parallel' }}": an answer needs two calls at least where it
            holds, and one at most elsewhere; default: any number
        none_if: template: an answer may have no call where it holds, whatever the other options say
    """
    if at_most is not None and at_most < at_least:
        raise ValueError(f"'at_most' ({at_most}) is less than 'at_least' ({at_least})")
    needs_two, needs_none = (Condition(text) if text is not None else None for text in (parallel, none_if))

    def bounds(record: Record) -> tuple[int, float]:
        """Return the least and the most calls of a record. Raise Unrenderable."""
        if needs_none and needs_none.holds(record):
            return 0, 0
        least, most = at_least, NO_BOUND if at_most is None else at_most
        if needs_two:
            return (max(2, least), most) if needs_two.holds(record) else (least, min(1, most))
        return least, most

    def measured(record: Record) -> dict[str, float]:
        calls = record.fields[field]
        try:
            offered = tools_of(record.fields[tools])
        except BadTools:
            return {"calls": -1}
        if not isinstance(calls, list | None):
            return {"calls": -2}
        try:
            least, most = bounds(record)
        except Unrenderable:
            return {"calls": -3}
        numbers: dict[str, float] = {"calls": len(calls or ()), "least": least, "most": most}
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
            return UNUSABLE[calls].format(tools=tools, field=field)
        if calls > numbers["most"]:
            return f"{calls} calls > {numbers['most']:.0f}"
        if calls < numbers["least"]:
            return f"{calls} calls < {numbers['least']:.0f}"
        if kind := int(numbers["mistake"]):
            place = f" (parameter {numbers['parameter']:.0f})" if numbers["parameter"] else ""
            return f"call {numbers['call']:.0f} of {calls} {MISTAKES[kind]}{place}"
        return None

    def shows(record: Record) -> str:
        calls = record.fields[field]
        number = int(measured(record).get("call", 0))
        return clipped(dumps(calls[number - 1] if number else calls).decode(), 200)

    return Filter(measure, decide, shows=shows)
