"""The blocks of a Markdown text: its headings, paragraphs, list items, tables, fences and indented code."""

from __future__ import annotations

import re
from collections.abc import Iterator

_FENCE = re.compile(r"[ \t>]*(`{3,}(?!.*`)|~{3,})")
_HEADING = re.compile(r" {0,3}#{1,6}(?:[ \t]|$)")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-{2,})[ \t]*$")  # makes a heading of the line above it
_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S")
_ROW = re.compile(r"[ \t]*\|")
_RULE = re.compile(
    r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-*:?[ \t]*)+$"
)  # the line under a table's heading


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the kind and text of each block, with the empty lines after it; the first has also those before
    it.
    """
    kind, block, fence = "", "", ""
    lines = text.splitlines(keepends=True)
    for i, line in enumerate(lines):
        following = lines[i + 1] if i + 1 < len(lines) else ""
        if fence:
            block += line
            if (
                (closing := _FENCE.match(line))
                and closing[1].startswith(fence)
                and not line[closing.end() :].strip()
            ):
                fence = ""
                kind = "fence ended"
            continue
        if kind == "underlined":
            kind = "heading"
            block += line
            continue
        if not line.strip():
            block += line
            kind = f"{kind.removesuffix(' ended')} ended" if kind else ""
            continue
        line_kind = _kind_of(line, following, kind)
        continues = line_kind == "code" and kind in ("code", "code ended") or line_kind == kind == "table"
        continues = continues or line_kind == "paragraph" and kind in ("paragraph", "item")
        if kind and not continues:
            yield kind.removesuffix(" ended"), block
            block = ""
        if not continues:
            kind = line_kind
            if line_kind == "paragraph" and _UNDERLINE.match(following):
                kind = "underlined"
        block += line
        opening = _FENCE.match(line)
        fence = opening[1] if opening and line_kind == "fence" else ""
    if block:
        yield kind.removesuffix(" ended") or "paragraph", block


def _kind_of(line: str, following: str, kind: str) -> str:
    """Return the kind of the block that a line begins, or goes on with if it is the `kind` before it."""
    if line.startswith(("    ", "\t")) and (not kind or kind.endswith(" ended") or kind == "code"):
        return "code"
    if _FENCE.match(line):
        return "fence"
    if _HEADING.match(line):
        return "heading"
    if _ROW.match(line) or "|" in line and _RULE.match(following) or kind == "table" and "|" in line:
        return "table"
    return "item" if _ITEM.match(line) else "paragraph"


def title_of(heading: str) -> tuple[int, str]:
    """Return the level of a heading, from 1, and its title."""
    lines = heading.strip().splitlines()
    if _HEADING.match(lines[0]):
        marks, _, title = lines[0].partition(" ")
        return len(marks.rstrip("\t")), re.sub(r"(?:^|[ \t])#+[ \t]*$", "", title).strip()
    return 1 if lines[-1].lstrip().startswith("=") else 2, lines[0].strip()
