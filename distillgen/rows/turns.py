"""Chat turns in a field, in OpenAI's form: [{role, content, tool_calls?, tool_call_id?}, …]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen.record import Record, Unrenderable

_BEFORE: Mapping[str, frozenset[str]] = {
    "system": frozenset({""}),
    "user": frozenset({"", "system", "assistant"}),
    "assistant": frozenset({"", "system", "user", "tool"}),
    "tool": frozenset({"assistant", "tool"}),
}
"""For each role, the roles that the turn before may have; "" where a dialogue begins."""


def turns_in(fields: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the chat turns in a field, none if it is missing, null or empty.

    Raise Unrenderable if it holds anything else.
    """
    turns = fields.get(name)
    if turns is None or turns == "":
        return []
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) and "role" in turn for turn in turns):
        raise Unrenderable(f"'{name}' holds no chat turns, each a mapping with 'role' and 'content'")
    for turn in turns:
        if not _has_content(turn.get("content")) and not turn.get("tool_calls"):
            raise Unrenderable(f"a turn of the {turn['role']} in '{name}' has no text")
    return [dict(turn) for turn in turns]


def _has_content(content: Any) -> bool:
    """Return whether it is a text, or a list of parts with a type, such as a text and a picture."""
    if isinstance(content, list):
        return bool(content) and all(isinstance(part, Mapping) and "type" in part for part in content)
    return isinstance(content, str)


def mistake(roles: Sequence[str]) -> str:
    """Return why turns of these roles are no dialogue, or ""."""
    for before, role in zip(("", *roles), roles, strict=False):
        if role not in _BEFORE:
            return f"there is no role '{role}'"
        if before not in _BEFORE[role]:
            place = f"after the {before}'s" if before else "at the start"
            return f"a turn of the {role} cannot stand {place}"
    return ""


def dialogues_in(records: Sequence[Record]) -> dict[str, list[list[dict[str, Any]]]]:
    """Return the first value of each order of roles, by the fields that hold chat turns."""
    dialogues: dict[str, dict[tuple[str, ...], list[dict[str, Any]]]] = {}
    for record in records:
        for name, value in record.fields.items():
            if isinstance(value, list) and value and all(_is_turn(turn) for turn in value):
                dialogues.setdefault(name, {}).setdefault(tuple(str(turn["role"]) for turn in value), value)
    return {name: [*values.values()] for name, values in dialogues.items()}


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value
