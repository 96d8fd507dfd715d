"""Words, and which of them carry the content of an English text. What the shipped filters compare texts by."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*")
_FUNCTION = frozenset(
    """a an the and or but nor of in on at to for from by with as into onto over under about than then that which who whom
    whose what when where why how is are was were be been being do does did has have had can could will would may might
    must should it its they them their he him his she her this these those there here not no so such some any each every
    both all also only just more most much many very if while because during after before between through up down out off
    made make makes making used use uses called known name named""".split()
)
_NUMBERS = {w: str(i) for i, w in enumerate("one two three four five six seven eight nine ten eleven twelve".split(), 1)}
_ENDINGS = [re.compile(rf"(?<=...)(?:{ending})$") for ending in ("s", "ing|ied|ed|es|ie|ly|e|y", "s")]


def words(text: str) -> list[str]:
    """Words and numbers in lower case, without a possessive 's."""
    return _WORD.findall(text.lower().replace("’s", "").replace("'s", ""))


def content(text: str) -> set[str]:
    """The words that carry content, without their inflection; small numbers as figures."""
    return {_stem(word) for word in words(text) if word not in _FUNCTION}


def _stem(word: str) -> str:
    word = word.replace(",", "")
    if word in _NUMBERS:
        return _NUMBERS[word]
    for ending in _ENDINGS:
        word = ending.sub("", word)
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word
