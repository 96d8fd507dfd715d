"""The tools that a request offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from distillgen.answers.tool_calls import BadTools, tools_of
from distillgen.record import Unrenderable, dumps

Tools: TypeAlias = str | list[dict[str, Any]] | None
"""Tools in OpenAI's form, the same for all records; or the field that holds the tools of each record."""

_AROUND = 1024  # bytes that a chat template writes around the tools, and about how to call them


def offered(fields: Mapping[str, Any], tools: Tools) -> Sequence[Mapping[str, Any]] | None:
    """Return the tools of a record; None for none. Raise Unrenderable if its field holds no list of tools."""
    if not isinstance(tools, str):
        return tools
    try:
        return tools_of(fields.get(tools)) or None
    except BadTools as error:
        raise Unrenderable(f"the tools in '{tools}' are {error}") from error


def size_of_tools(fields: Mapping[str, Any], tools: Tools) -> int:
    """Return the most bytes that a request has because of its tools."""
    if not tools:
        return 0
    return len(dumps(fields.get(tools) if isinstance(tools, str) else tools)) + _AROUND
