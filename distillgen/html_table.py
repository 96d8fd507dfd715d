"""Tables for notebooks. What a row holds is text: none of it is HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

MOST_CHARACTERS = 400  # of a cell
NO_FORMULAS = "tex2jax_ignore mathjax_ignore"  # or a notebook sets what is between two $ as a formula


def html_table(titles: Sequence[str], lines: Iterable[Iterable[Any]], caption: str = "") -> str:
    """Return an HTML table with the values as text, each at most MOST_CHARACTERS long."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(map(_cell, line))}</tr>" for line in lines)
    return (
        f"<table class='{NO_FORMULAS}'><caption style='text-align:left'>{escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    text = text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
    style = "text-align:left;white-space:pre-wrap;vertical-align:top;max-width:40em"
    return f"<td dir='auto' style='{style}'>{escape(text)}</td>"
