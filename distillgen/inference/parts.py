"""Pictures and sounds in a request: parts of a message that refer to files, which are read when it is sent.

A part is `{"type": "image" | "audio", "path": …, "sha256": …}`, with `path` relative to the project. Ledger
keys and rows hold the type and the hash alone: a file that moves asks nothing again, one that changes does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

KINDS = {"image": "images", "audio": "audio"}
"""The types of parts, each with the capability that a model needs to take it."""


def is_part(value: Any) -> bool:
    """Return whether a part of a message refers to a file."""
    return isinstance(value, Mapping) and value.get("type") in KINDS and "sha256" in value


def parts_in(messages: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of messages that refer to files."""
    for message in messages:
        if isinstance(content := message.get("content"), list):
            yield from filter(is_part, content)


def with_parts(
    messages: Sequence[Mapping[str, Any]], form: Callable[[Mapping[str, Any]], Any]
) -> list[Mapping[str, Any]]:
    """Return messages with `form(part)` in place of each part that refers to a file."""
    return [
        {**message, "content": [form(part) if is_part(part) else part for part in content]}
        if isinstance(content := message.get("content"), list)
        else message
        for message in messages
    ]


def without_file(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part as ledger keys hold it: without the place of its file, and without its content."""
    return {name: value for name, value in part.items() if name not in ("path", "data")}
