"""Sentences of a text in English, or in a language that writes sentences as English does, or in Chinese and
Japanese.

Two other modules look for the ends of sentences by rules of their own, because results that users keep depend
on them: text/chunks.py (the pieces of a text are rows, and so parts of requests) and answers/final_answer.py
(what is measured).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+\s++(?![a-z])|[。！？]++[”’」』)]*+")
_END_OR_LINE = re.compile(rf"{_END.pattern}|\n")
_ABBREVIATION = re.compile(r"\b(?:[A-Z]|[Dd]r|Mrs?|Ms|Prof|St|Jr|Sr|No|vs|etc|e\.g|i\.e|cf|ca|approx)\.\s+$")


def sentence_starts(text: str, *, lines: bool = True) -> Iterator[int]:
    """Yield where each sentence begins, the first at 0; with `lines`, a line also begins a sentence."""
    begin = 0
    yield begin
    for end in (match.end() for match in (_END_OR_LINE if lines else _END).finditer(text)):
        if end < len(text) and not _ABBREVIATION.search(text, max(begin, end - 9), end):
            begin = end
            yield begin


def sentences(text: str, *, lines: bool = True) -> list[str]:
    """Return the sentences, without the spaces around them; parts without a letter or figure are left out."""
    starts = [*sentence_starts(text, lines=lines), len(text)]
    parts = (text[begin:end].strip() for begin, end in zip(starts, starts[1:], strict=False))
    return [part for part in parts if any(map(str.isalnum, part))]
