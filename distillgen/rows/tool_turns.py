"""Chat turns with tool calls, and lists of tools, in the forms that trainers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from distillgen.record import Unrenderable, dumps, loads

Turns: TypeAlias = Sequence[Mapping[str, Any]]

_BETWEEN_RESULTS = "\n</tool_response>\n<tool_response>\n"  # as LLaMA-Factory joins them


def has_calls(turns: Turns) -> bool:
    """Return whether a turn calls a tool."""
    return any(turn.get("tool_calls") for turn in turns)


def trained_turns(turns: Turns) -> list[Mapping[str, Any]]:
    """Return turns as chat templates read them: arguments as objects, and the tool's name in its turn.

    Turns without calls stay as they are. Raise Unrenderable for a call without a name or arguments.
    """
    names: dict[Any, str] = {}
    made_turns: list[Mapping[str, Any]] = []
    for turn in turns:
        if calls := turn.get("tool_calls"):
            functions = [_function(call) for call in _list(calls)]
            names |= {call.get("id"): f["name"] for call, f in zip(calls, functions, strict=True)}
            turn = {
                **turn,
                "tool_calls": [{**call, "function": f} for call, f in zip(calls, functions, strict=True)],
            }
        elif turn.get("role") == "tool" and turn.get("tool_call_id") in names:
            turn = {**turn, "name": names[turn["tool_call_id"]]}
        made_turns.append(turn)
    return made_turns


def sharegpt_turns(turns: Turns) -> list[dict[str, Any]]:
    """Return turns with the roles of LLaMA-Factory: function_call, and one observation of all results.

    Raise Unrenderable for a turn with a text and calls, which have no form there.
    """
    made_turns: list[dict[str, Any]] = []
    for turn in turns:
        role, content = turn["role"], turn["content"]
        if calls := turn.get("tool_calls"):
            if content:
                raise Unrenderable("ShareGPT has no form for a turn with both a text and tool calls")
            role, content = (
                "function_call",
                dumps([_function(call) for call in _list(calls)], sort_keys=False),
            )
            content = content.decode()
        if role == "tool" and made_turns and made_turns[-1]["role"] == "observation":
            made_turns[-1]["content"] += _BETWEEN_RESULTS + content
            continue
        made_turns.append({"role": "observation" if role == "tool" else role, "content": content})
    return made_turns


def tools_text(value: Any) -> str | None:
    """Return a list of tools, or its JSON text, as JSON text of functions; None for anything else.

    A text does not merge the parameters of different tools, as the columns of a table would.
    """
    if isinstance(value, str):
        try:
            value = loads(value)
        except ValueError:
            return None
    if not isinstance(value, list) or not all(
        isinstance(tool, Mapping) and "function" in tool for tool in value
    ):
        return None
    tools = [{"type": "function", "function": tool["function"]} for tool in value]
    return dumps(tools, sort_keys=False).decode() if tools else None


def _list(calls: Any) -> Sequence[Any]:
    if not isinstance(calls, list):
        raise Unrenderable("the 'tool_calls' of a turn are no list")
    return calls


def _function(call: Any) -> dict[str, Any]:
    """Return the name and the arguments, as an object, of a call in OpenAI's form. Raise Unrenderable."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name := function.get("name"), str):
        raise Unrenderable("a tool call names no function")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = loads(arguments or "{}")
        except ValueError as error:
            raise Unrenderable(f"the arguments of the call of '{name}' are not JSON ({error})") from error
    if not isinstance(arguments, Mapping):
        raise Unrenderable(f"the arguments of the call of '{name}' are no JSON object")
    return {"name": name, "arguments": arguments}
