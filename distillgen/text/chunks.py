"""Long texts in pieces, which together have every character of the text.

A text is cut before headings, between blocks and between sentences, and not in a fence that fits into a
piece.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

_FENCE = re.compile(r"[ \t>]*(`{3,}(?!.*`)|~{3,})")
_HEADING = re.compile(r" {0,3}#{1,6}(?:[ \t]|$)")
_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S")
_ROW = re.compile(r"[ \t]*\|")
_RULE = re.compile(
    r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-*:?[ \t]*)+$"
)  # the line under a table's heading
_SENTENCE = re.compile(r"""[.!?…。！？]["'”’)\]]*\s+(?=\S)""")

HEADING, BLOCK, SENTENCE, NOWHERE = 3, 2, 1, 0
"""How good a place is for a cut; a higher number is better."""


@dataclass(frozen=True)
class _Unit:
    """A part of a text that is kept together if possible. `before` says how good a place for a cut its
    beginning is.
    """

    text: str
    before: int
    kind: str = ""
    """Its kind, if it may be cut between lines only: a fence or a table."""


def chunks(text: str, most_words: int, overlap_words: int = 0, notes: list[str] | None = None) -> list[str]:
    """Return the text in pieces of at most `most_words` words.

    A piece begins with whole sentences of the piece before, of up to `overlap_words` words. A fence or table
    that is too long is cut between its lines, and `notes` receives a note; a sentence or line that is too
    long is cut between words.
    """
    units = [part for unit in _units(text) for part in _fitting(unit, most_words, notes)]
    sizes = [len(unit.text.split()) for unit in units]
    ends = [0, *accumulate(sizes)]
    pieces: list[str] = []
    begin = new = 0  # the first unit of a piece, and its first unit that is not a repetition
    while new < len(units):
        end = _end(units, ends, begin, new, most_words)
        if ends[end] > ends[new]:
            pieces.append("".join(unit.text for unit in units[begin:end]))
        elif pieces:  # the rest is space
            pieces[-1] += "".join(unit.text for unit in units[new:end])
        new = end
        if new < len(units):
            least = max(ends[new] - overlap_words, ends[new + 1] - most_words)
            again = (
                i for i in range(new) if units[i].before and 0 < ends[i] < ends[new] and ends[i] >= least
            )
            begin = next(again, new)
    return pieces


def _end(units: list[_Unit], ends: list[int], begin: int, new: int, most: int) -> int:
    """Return where a piece ends: with the text, or at the best place in its second half, or at the last
    place.
    """
    fits = [i for i in range(new + 1, len(units) + 1) if ends[i] - ends[begin] <= most]
    last = fits[-1] if fits else new + 1
    if last == len(units):
        return last
    half = [i for i in fits if 2 * (ends[i] - ends[begin]) >= most and units[i].before]
    good = half or [i for i in fits if units[i].before and ends[i] > ends[new]] or [last]
    return max(good, key=lambda i: (units[i].before, i))


def _fitting(unit: _Unit, most: int, notes: list[str] | None) -> Iterator[_Unit]:
    """Yield a unit, or its parts if it is too long for a piece."""
    if len(unit.text.split()) <= most:
        yield unit
        return
    if unit.kind:
        if notes is not None:
            notes.append(f"a {unit.kind} of {len(unit.text.split())} words is cut between its lines")
        lines = unit.text.splitlines(keepends=True)
        last = max(i for i, line in enumerate(lines) if line.strip())
        # the closing line stays with the line before it
        lines = [*lines[: max(0, last - 1)], "".join(lines[max(0, last - 1) :])]
        parts = [
            _Unit(line, unit.before if i == 0 else SENTENCE) for i, line in enumerate(filter(None, lines))
        ]
    else:
        words = re.findall(r"\s*\S+\s*", unit.text)
        begins = range(0, len(words), most)
        parts = [_Unit("".join(words[i : i + most]), SENTENCE if i else unit.before) for i in begins]
    for part in parts:
        yield from _fitting(part, most, notes)


def _units(text: str) -> Iterator[_Unit]:
    """Yield the sentences, headings, fences and tables of a text, each with the space after it."""
    before = HEADING
    for kind, block in _blocks(text):
        if kind in ("fence", "table", "code"):
            yield _Unit(block, before, kind)
        elif kind == "heading":
            yield _Unit(block, HEADING)
        else:
            begin = 0
            for end in [*(match.end() for match in _SENTENCE.finditer(block)), len(block)]:
                if block[begin:end]:
                    yield _Unit(block[begin:end], before if begin == 0 else SENTENCE)
                begin = end
        before = (
            NOWHERE if kind == "heading" else BLOCK if kind != "item" or block.endswith("\n\n") else SENTENCE
        )


def _blocks(text: str) -> Iterator[tuple[str, str]]:
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
        if not line.strip():
            block += line
            kind = f"{kind.removesuffix(' ended')} ended" if kind else ""
            continue
        opening = _FENCE.match(line)
        line_kind = (
            "code"
            if line.startswith(("    ", "\t")) and (not kind or kind.endswith(" ended") or kind == "code")
            else "fence"
            if opening
            else "heading"
            if _HEADING.match(line)
            else "table"
            if _ROW.match(line) or "|" in line and _RULE.match(following) or kind == "table" and "|" in line
            else "item"
            if _ITEM.match(line)
            else "paragraph"
        )
        continues = line_kind == "code" and kind in ("code", "code ended") or line_kind == kind == "table"
        continues = continues or line_kind == "paragraph" and kind in ("paragraph", "item")
        if kind and not continues:
            yield kind.removesuffix(" ended"), block
            block = ""
        if not continues:
            kind = line_kind
        block += line
        fence = opening[1] if opening and line_kind == "fence" else ""
    if block:
        yield kind.removesuffix(" ended") or "paragraph", block
