"""Render a student's chat template without loading the student."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

Turns = list[dict[str, Any]]


class _Generation(Extension):
    """The tag {% generation %}, which marks the text that the assistant writes."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Macro) -> str:
        text = str(caller())
        marked: Any = self.environment.globals["marked"]
        marked.append(text)
        return text


def rendered(
    template: str, turns: Turns, special: Mapping[str, str], *, opened: bool = False
) -> tuple[str, list[str]]:
    """Return the text of chat turns, and its parts that are marked as the assistant's.

    Raises ValueError with the template's message if it refuses the turns.
    """

    def refuse(message: str) -> None:
        raise TemplateError(message)

    extensions = [_Generation, "jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
    marked: list[str] = []
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": datetime.now().strftime,
        "marked": marked,
    }
    try:
        text = environment.from_string(template).render(
            messages=turns, add_generation_prompt=opened, **special
        )
    except Exception as error:  # a template can fail in any way
        raise ValueError(str(error) or type(error).__name__) from error
    return text, marked


def marks_answers(template: str, turns: Turns, special: Mapping[str, str]) -> bool:
    """Return whether the template, or TRL's version of it, marks the assistant's text for a trainer."""
    if re.search(r"{%-?\s*generation\s*-?%}", template):
        return any(part.strip() for part in rendered(template, turns, special)[1])
    trl = importlib.util.find_spec("trl")
    places: Sequence[str] = getattr(trl, "submodule_search_locations", None) or ()
    trained = (path for place in places for path in Path(place).glob("chat_templates/*_training.jinja"))
    plain = (path.with_name(path.name.replace("_training", "")) for path in trained)
    return any(path.is_file() and path.read_text(encoding="utf-8") == template for path in plain)
