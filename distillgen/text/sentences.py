"""The statements of a text: its sentences and lines, in English and languages written like it, Chinese and
Japanese.

An initial or abbreviation ends no statement. Other modules find the ends of sentences by rules of their own,
which must stay as they are: pieces of a text are parts of requests (text/chunks.py), final answers and the
filters `length` and `density` are what users measured.
"""

from __future__ import annotations

import re

_BOUNDARY = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+\s++(?![a-z])|[。！？]++[”’」』)]*+|\n")
_ABBREVIATION = re.compile(r"\b(?:[A-Z]|[Dd]r|Mrs?|Ms|Prof|St|Jr|Sr|No|vs|etc|e\.g|i\.e|cf|ca|approx)\.\s+$")


def sentences(text: str) -> list[str]:
    """Return the sentences and lines of a text, stripped; those without a letter or figure are left out."""
    parts, begin = list[str](), 0
    for end in [*(match.end() for match in _BOUNDARY.finditer(text)), len(text)]:
        if end == len(text) or not _ABBREVIATION.search(text, max(begin, end - 9), end):
            parts.append(text[begin:end].strip())
            begin = end
    return [part for part in parts if any(map(str.isalnum, part))]
