"""The words of a text, its content words (in English), and the replacement of names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from distillgen.text.numbers import in_figures

_WORD = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*")
_POSSESSIVE = re.compile(r"['’](?<=\w['’])s\b")  # the search for a quote first is three times as fast
_FUNCTION = frozenset(
    """a an the and or but nor of in on at to for from by with as into onto over under about than
    then that which who whom whose what when where why how is are was were be been being do does
    did has have had can could will would may might must should it its they them their he him his
    she her this these those there here not no so such some any each every both all also only just
    more most much many very if while because during after before between through up down out off
    made make makes making used use uses called known name named""".split()
)
_ENDINGS = [re.compile(rf"(?<=...)(?:{ending})$") for ending in ("s", "ing|ied|ed|es|ie|ly|e|y", "s")]


_OTHER_NAME = r"(?<![A-Z]['’])(?<![\w\u0300-\u036f])"
_JOINED_BEFORE, _JOINED_AFTER = re.compile(r"([^\W\d_]+)[-‐‑]\Z"), re.compile(r"[-‐‑]([^\W\d_]+)")


def rename(text: str, names: Mapping[str, str]) -> str:
    """Return the text with each key of `names` replaced by its value, all at once.

    Only whole words are replaced: Chris and Chris's, but not Christmas, O'Chris or Jean-Chris. Case matters,
    as in Mark and mark.
    """
    longest_first = "|".join(re.escape(name) for name in sorted(filter(None, names), key=len, reverse=True))
    if not longest_first:
        return text

    def replaced(match: re.Match[str]) -> str:
        before = _JOINED_BEFORE.search(text[max(0, match.start() - 80) : match.start()])
        after = _JOINED_AFTER.match(text, match.end())
        others = (joined[1] for joined in (before, after) if joined and joined[1] not in names)
        return match[0] if any(other[0].isupper() for other in others) else names[match[0]]

    return re.sub(rf"{_OTHER_NAME}(?:{longest_first})(?![\w\u0300-\u036f])", replaced, text)


def words(text: str) -> list[str]:
    """Return the words and numbers in lower case, without a possessive 's."""
    return _WORD.findall(without_possessives(text.lower()))


def without_possessives(text: str) -> str:
    """Return the text without possessive 's."""
    return _POSSESSIVE.sub("", text)


def content(text: str) -> set[str]:
    """Return the content words without their inflection, and numbers in figures."""
    return {_stem(word) for word in words(in_figures(text)) if word not in _FUNCTION}


def _stem(word: str) -> str:
    word = word.replace(",", "")
    for ending in _ENDINGS:
        word = ending.sub("", word)
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word
