"""Pieces of Markdown: text, links, lists of options, fenced blocks."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from distillgen.pipeline import catalog

Entry = Mapping[str, Any]
"""One entry of the catalog, or one option of it."""


def plain(text: str) -> str:
    """Escape `<` and `*` outside code spans."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if i % 2 else re.sub(r"([<*])", r"\\\1", part) for i, part in enumerate(parts))


def paragraphs(docstring: str) -> str:
    """Return a docstring's paragraphs, each as one line, as forges show line breaks of some pages."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    return "\n\n".join(
        block if block.startswith("    ") else plain(" ".join(block.split())) for block in blocks
    )


def anchor(heading: str) -> str:
    """Return the anchor that forges and MyST give to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def contents(entries: Iterable[Entry]) -> str:
    """Return a list of links to the headings of entries, each with the entry's first sentence."""
    return "\n".join(
        f"- [{entry['name']}](#{anchor(entry['name'])}): {plain(entry['about'])}" for entry in entries
    )


def option_list(options: Mapping[str, Entry], margin: str = "") -> str:
    """Return a list of options with type, default and description, the keys of a mapping below it."""
    lines = []
    for name, option in options.items():
        about = [option["type"]]
        if option["required"]:
            about.append("required")
        elif option["default"] not in (None, "", [], {}):
            default = option["default"]
            default_text = default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)
            about.append(f"default: `{default_text}`")
        described = f": {option['description']}" if option["description"] else ""
        lines.append(plain(f"{margin}- `{name}` ({', '.join(about)}){described}"))
        if inner := option.get("options"):
            lines.append(option_list(inner, margin + "    "))
    return "\n".join(lines)


def without(options: Mapping[str, Entry], declaration: Any) -> dict[str, Entry]:
    """Return the options that the class does not declare, or declares otherwise."""
    shared = catalog.options(declaration)
    return {name: option for name, option in options.items() if shared.get(name) != option}


def fence(language: str, text: str) -> str:
    """Return a fenced block."""
    return f"```{language}\n{text.rstrip()}\n```"
