"""Long texts in pieces, which together have every character of the text.

A text is cut before headings, between blocks and between sentences. A fence, a table and an item of a list
stay whole if they fit into a piece.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

from distillgen.text.blocks import blocks, title_of

_SENTENCE = re.compile(r"""[.!?…。！？]["'”’)\]]*\s+(?=\S)""")

HEADING, BLOCK, SENTENCE, NOWHERE = 3, 2, 1, 0
"""How good a place is for a cut; a higher number is better."""


class Piece(NamedTuple):
    """A piece of a text: `text[start:end]`, in characters, and the titles of the headings above it."""

    text: str
    start: int
    end: int
    headings: tuple[str, ...]


@dataclass(frozen=True)
class _Unit:
    """A part of a text that is kept together if possible. `before` says how good a place for a cut its
    beginning is.
    """

    text: str
    before: int
    kind: str = ""
    """Its kind, if it has other parts than sentences: a fence, a table, code, an item or a heading."""
    title: tuple[int, str] | None = None
    """The level and the title of a heading, in its first part."""


def words(text: str) -> int:
    """Return the number of words: of the parts between white space."""
    return len(text.split())


def pieces(
    text: str,
    most: int,
    overlap: int = 0,
    notes: list[str] | None = None,
    size: Callable[[str], int] = words,
    unit: str = "words",
) -> list[Piece]:
    """Return the text in pieces of at most `most` words, or of what `size` counts and `unit` names.

    A piece begins with whole sentences of the piece before, of a size of up to `overlap`. A fence or table
    that is too long is cut between its lines, and `notes` receives a note; a sentence or line that is too
    long is cut between words, and a word that is too long between characters. White space around a
    piece does not count.
    """
    units = [part for one in _units(text) for part in _fitting(one, most, size, unit, notes)]
    ends = [0, *accumulate(size(one.text) for one in units)]
    places = [0, *accumulate(len(one.text) for one in units)]
    spans: list[tuple[int, int, int]] = []
    begin = new = 0  # the first unit of a piece, and its first unit that is not a repetition
    while new < len(units):
        end = _end(units, ends, begin, new, most)
        begin, end = _narrowed(text, places, (begin, new, end), most, size)
        if text[places[new] : places[end]].strip():
            spans.append((begin, new, end))
        elif spans:  # the rest is space
            spans[-1] = (*spans[-1][:2], end)
        new = end
        if new < len(units):
            least = max(ends[new] - overlap, ends[new + 1] - most)
            places_before = range(bisect_left(ends, max(1, least)), new)
            begin = next((i for i in places_before if units[i].before and ends[i] < ends[new]), new)
    if spans:
        spans[0] = (0, *spans[0][1:])  # with the space before the text
    paths = _paths(units)
    return [
        Piece(text[places[begin] : places[end]], places[begin], places[end], paths[_first(units, new, end)])
        for begin, new, end in spans
    ]


def _end(units: list[_Unit], ends: list[int], begin: int, new: int, most: int) -> int:
    """Return where a piece ends: with the text, or at the best place in its second half, or at the last
    place.
    """
    last = new + 1
    while last < len(units) and ends[last + 1] - ends[begin] <= most:
        last += 1
    if last == len(units):
        return last
    fits = range(new + 1, last + 1)
    half = [i for i in fits if 2 * (ends[i] - ends[begin]) >= most and units[i].before]
    good = half or [i for i in fits if units[i].before and ends[i] > ends[new]] or [last]
    return max(good, key=lambda i: (units[i].before, i))


def _narrowed(
    text: str, places: list[int], span: tuple[int, int, int], most: int, size: Callable[[str], int]
) -> tuple[int, int]:
    """Return the begin and end of a span of units, with fewer units if all together are larger than their
    sum, as tokens may be.
    """
    begin, new, end = span
    while size(text[places[begin] : places[end]].strip()) > most:
        if end > new + 1:
            end -= 1
        elif begin < new:
            begin += 1
        else:
            break
    return begin, end


def _fitting(
    unit: _Unit, most: int, size: Callable[[str], int], name: str, notes: list[str] | None
) -> Iterator[_Unit]:
    """Yield a unit, or its parts if it is too long for a piece."""
    total = size(unit.text)
    if total <= most or len(unit.text) < 2:
        yield unit
        return
    if unit.kind == "item":
        parts = [_Unit(part, SENTENCE if i else unit.before) for i, part in enumerate(_sentences(unit.text))]
    elif unit.kind in ("fence", "table", "code"):
        if notes is not None:
            notes.append(f"a {unit.kind} of {total} {name} is cut between its lines")
        lines = unit.text.splitlines(keepends=True)
        last = max(i for i, line in enumerate(lines) if line.strip())
        # the closing line stays with the line before it
        lines = [*lines[: max(0, last - 1)], "".join(lines[max(0, last - 1) :])]
        parts = [
            _Unit(line, unit.before if i == 0 else SENTENCE) for i, line in enumerate(filter(None, lines))
        ]
    else:
        parts = [
            _Unit(part, SENTENCE) if i else replace(unit, text=part)
            for i, part in enumerate(_broken(unit, most, size))
        ]
    for part in parts:
        yield from _fitting(part, most, size, name, notes)


def _broken(unit: _Unit, most: int, size: Callable[[str], int]) -> list[str]:
    """Return a long sentence in runs of words that fit; a single word in two halves."""
    words = re.findall(r"\s*\S+\s*", unit.text)
    if len(words) < 2:
        half = len(unit.text) // 2
        return list(filter(None, [unit.text[:half], unit.text[half:]]))
    runs, total = [""], 0
    for word in words:
        more = size(word)
        if total and total + more > most:
            runs.append("")
            total = 0
        runs[-1] += word
        total += more
    return runs if len(runs) > 1 else ["".join(words[: len(words) // 2]), "".join(words[len(words) // 2 :])]


def _units(text: str) -> Iterator[_Unit]:
    """Yield the sentences, headings, items, fences and tables of a text, each with the space after it."""
    before, in_item = HEADING, False
    for kind, block in blocks(text):
        in_item = kind == "item" or in_item and block.startswith(("  ", "\t"))
        if in_item and kind != "item":
            before = NOWHERE
        if kind == "heading":
            yield _Unit(block, HEADING, kind, title_of(block))
        elif kind == "paragraph":
            for i, part in enumerate(_sentences(block)):
                yield _Unit(part, NOWHERE if in_item and before == NOWHERE else SENTENCE if i else before)
        else:
            yield _Unit(block, before, kind)
        before = (
            NOWHERE if kind == "heading" else BLOCK if kind != "item" or block.endswith("\n\n") else SENTENCE
        )


def _sentences(block: str) -> Iterator[str]:
    """Yield the sentences of a block, each with the space after it."""
    begin = 0
    for end in [*(match.end() for match in _SENTENCE.finditer(block)), len(block)]:
        if block[begin:end]:
            yield block[begin:end]
        begin = end


def _paths(units: list[_Unit]) -> list[tuple[str, ...]]:
    """Return for each unit the titles of the headings that it stands under, and its own."""
    above: list[tuple[int, str]] = []
    paths = []
    for unit in units:
        if unit.title:
            above = [*(outer for outer in above if outer[0] < unit.title[0]), unit.title]
        paths.append(tuple(title for _, title in above if title))
    return paths


def _first(units: list[_Unit], new: int, end: int) -> int:
    """Return the first unit of a piece that is no heading; the last one if all are headings."""
    return next((i for i in range(new, end) if units[i].kind != "heading" and units[i].text.strip()), end - 1)
