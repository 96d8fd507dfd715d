"""The templates of pages and cards, compiled once per machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from distillgen.text import display


class _BytecodeCache(jinja2.FileSystemBytecodeCache):
    def dump_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        with suppress(OSError):  # a full disk must not prevent the report
            super().dump_bytecode(bucket)


def _bytecode_cache() -> _BytecodeCache | None:
    """Return a cache in the folder for temporary files; None if it cannot be written.

    Compiling the report takes a tenth of a second.
    """
    try:
        return _BytecodeCache()
    except (OSError, RuntimeError):  # RuntimeError: the folder belongs to another user
        return None


@cache
def template(path: Path, escape: Callable[[str], str], *, autoescape: bool) -> jinja2.Template:
    """Return a template that passes every text through `escape` before it prints it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: (
            escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        bytecode_cache=_bytecode_cache(),
    )
    environment.filters |= {"money": display.money, "duration": display.duration, "number": display.number}
    environment.filters |= {"grouped": "{:,}".format, "share": "{:.1%}".format}
    environment.filters["compact"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.tests["turns"] = is_turns
    return environment.get_template(path.name)


def is_turns(value: Any) -> bool:
    """Return whether a value is a list of chat turns."""
    turns = value if isinstance(value, list) and value else [None]
    return all(isinstance(turn, Mapping) and {"role", "content"} <= set(turn) for turn in turns)
