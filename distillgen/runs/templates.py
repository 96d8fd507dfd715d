"""The templates of the pages and cards, compiled once a machine."""

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


class _Compiled(jinja2.FileSystemBytecodeCache):
    def dump_bytecode(self, bucket: jinja2.bccache.Bucket) -> None:
        with suppress(OSError):  # a full disk is no reason to have no report
            super().dump_bytecode(bucket)


def _compiled() -> _Compiled | None:
    """Templates compiled once a machine, in the folder for temporary files, because it takes a tenth of a second; None where it
    cannot be written.
    """
    try:
        return _Compiled()
    except (OSError, RuntimeError):  # RuntimeError: somebody else's folder lies in its place
        return None


@cache
def template(path: Path, escape: Callable[[str], str], *, autoescape: bool) -> jinja2.Template:
    """A template of which every text that it puts out passes through `escape` first."""
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
        bytecode_cache=_compiled(),
    )
    environment.filters |= {"money": display.money, "duration": display.duration, "number": display.number}
    environment.filters |= {"grouped": "{:,}".format, "share": "{:.1%}".format}
    environment.filters["compact"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.tests["turns"] = is_turns
    return environment.get_template(path.name)


def is_turns(value: Any) -> bool:
    """Whether a value is chat turns."""
    turns = value if isinstance(value, list) and value else [None]
    return all(isinstance(turn, Mapping) and {"role", "content"} <= set(turn) for turn in turns)
