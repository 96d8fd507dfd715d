"""Long texts in pieces that keep every character: cut before headings, between blocks and sentences, and never in a fence that
fits into a piece.
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
"""How good a place is to cut at."""


@dataclass(frozen=True)
class _Unit:
    """A stretch of a text that is better not cut. `before` says how good a place to cut its beginning is."""

    text: str
    before: int
    whole: str = ""
    """What it is, where it is cut between lines only: a fence or a table."""


def chunks(text: str, most_words: int, overlap_words: int = 0, notes: list[str] | None = None) -> list[str]:
    """A text in pieces of at most `most_words` words, which joined are the text, but for `overlap_words`: a piece begins with up
    to so many words of the one before, in whole sentences. A fence or table that is longer is cut between its lines, and `notes`
    says so; a longer sentence or line between words.
    """
    units = [part for unit in _units(text) for part in _fitting(unit, most_words, notes)]
    sizes = [len(unit.text.split()) for unit in units]
    ends = [0, *accumulate(sizes)]
    pieces: list[str] = []
    begin = new = 0  # the units that a piece begins with, and from which on they are new
    while new < len(units):
        end = _end(units, ends, begin, new, most_words)
        if ends[end] > ends[new]:
            pieces.append("".join(unit.text for unit in units[begin:end]))
        elif pieces:  # only spaces are left
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
    """Where a piece ends: with the text, else at the best place in its second half, else at the last."""
    fits = [i for i in range(new + 1, len(units) + 1) if ends[i] - ends[begin] <= most]
    last = fits[-1] if fits else new + 1
    if last == len(units):
        return last
    half = [i for i in fits if 2 * (ends[i] - ends[begin]) >= most and units[i].before]
    good = half or [i for i in fits if units[i].before and ends[i] > ends[new]] or [last]
    return max(good, key=lambda i: (units[i].before, i))


def _fitting(unit: _Unit, most: int, notes: list[str] | None) -> Iterator[_Unit]:
    """A unit, or its parts where it is too long for a piece."""
    if len(unit.text.split()) <= most:
        yield unit
        return
    if unit.whole:
        if notes is not None:
            notes.append(f"a {unit.whole} of {len(unit.text.split())} words is cut between its lines")
        lines = unit.text.splitlines(keepends=True)
        last = max(i for i, line in enumerate(lines) if line.strip())
        lines = [
            *lines[: max(0, last - 1)],
            "".join(lines[max(0, last - 1) :]),
        ]  # what closes it is not left alone
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
    """A text's sentences, headings, fences and tables, with the space behind each."""
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
    """A text's blocks by their kind, each with the empty lines behind it; those before the first are of the first."""
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
        own = (
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
        goes_on = own == "code" and kind in ("code", "code ended") or own == kind == "table"
        goes_on = goes_on or own == "paragraph" and kind in ("paragraph", "item")
        if kind and not goes_on:
            yield kind.removesuffix(" ended"), block
            block = ""
        if not goes_on:
            kind = own
        block += line
        fence = opening[1] if opening and own == "fence" else ""
    if block:
        yield kind.removesuffix(" ended") or "paragraph", block
