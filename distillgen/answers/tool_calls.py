"""Tools that a model is offered, and its calls of them, in the form of OpenAI's API."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from distillgen.answers.json_schema import validator
from distillgen.record import dumps, loads

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_FORM = "{type: function, function: {name: …, description: …, parameters: {…}}}"


class BadTools(ValueError):
    """A value is no list of tools. The message says why."""


class Call(NamedTuple):
    """A call of a tool. `arguments` is None where the model wrote no JSON object."""

    id: str
    name: str
    arguments: dict[str, Any] | None


def tools_of(value: Any) -> list[dict[str, Any]]:
    """Return the tools of a list, or of its JSON text, with the keys `type` and `function` only.

    Raise BadTools for anything but functions with different names and parameters that are a JSON Schema.
    """
    if isinstance(value, str):
        try:
            value = loads(value)
        except ValueError as error:
            raise BadTools(f"a text that is not JSON ({error})") from error
    if not isinstance(value, list):
        raise BadTools("not a list of tools" if value is not None else "null")
    tools = [_tool(tool, f"tool {number}") for number, tool in enumerate(value, 1)]
    names = [tool["function"]["name"] for tool in tools]
    if doubles := [name for number, name in enumerate(names) if name in names[:number]]:
        raise BadTools(f"two tools have the name '{doubles[0]}'")
    return tools


def _tool(tool: Any, subject: str) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(tool, Mapping) or tool.get("type") != "function":
        raise BadTools(f"{subject} does not have the form {_FORM}")
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadTools(f"{subject}: its name {name!r} is not 1 to 64 letters, digits, '_', '-' or '.'")
    if parameters is not None:
        if not isinstance(parameters, Mapping) or parameters.get("type") != "object":
            raise BadTools(f"{subject} ({name}): its parameters are no JSON Schema of an object")
        try:
            _validator(dumps(parameters))
        except ValueError as error:
            raise BadTools(f"{subject} ({name}): {error}") from error
    return {"type": "function", "function": dict(function)}


@lru_cache(1024)
def _validator(parameters: bytes) -> Any:
    return validator(loads(parameters), "the JSON Schema of its parameters")


def call_of(call: Any) -> Call | None:
    """Return a call in OpenAI's form, its arguments parsed; None if the value names no function."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name := function.get("name"), str):
        return None
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = loads(arguments or "{}")  # some servers write nothing where there is no argument
        except ValueError:
            arguments = None
    call_id = call.get("id")
    return Call(str(call_id or ""), name, arguments if isinstance(arguments, dict) else None)


NO_CALL, UNKNOWN, NO_OBJECT, MISSING, WRONG_TYPE, EXTRA, BREACH = range(1, 8)
"""What is wrong with a call."""


def mistake(call: Any, tools: Sequence[Mapping[str, Any]], *, check_schema: bool = True) -> tuple[int, int]:
    """Return what is wrong with a call, 0 for nothing, and the place of the argument among the parameters
    of its tool, from 1; 0 if it is none of them.
    """
    if (parsed := call_of(call)) is None:
        return NO_CALL, 0
    function = next((t["function"] for t in tools if t["function"]["name"] == parsed.name), None)
    if parsed.arguments is None:
        return NO_OBJECT, 0
    if function is None:
        return UNKNOWN, 0
    parameters = function.get("parameters") or {"type": "object"}
    errors = _validator(dumps(parameters)).iter_errors(parsed.arguments) if check_schema else ()
    order = [*parameters.get("properties", ())]
    places = sorted((place, kind) for kind, place in (_breach(e, order, parsed.arguments) for e in errors))
    return places[0][::-1] if places else (0, 0)


def _breach(error: Any, order: Sequence[str], arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Return the kind of an error of the schema, and the place of its argument."""
    path = list(error.absolute_path)
    if not path and error.validator == "required":
        name = next(name for name in error.validator_value if name not in arguments)
        return MISSING, order.index(name) + 1 if name in order else 0
    if not path and error.validator in ("additionalProperties", "unevaluatedProperties"):
        return EXTRA, 0
    kind = WRONG_TYPE if error.validator == "type" else BREACH
    return kind, order.index(path[0]) + 1 if path and path[0] in order else 0
