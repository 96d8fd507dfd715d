r"""Numbers in texts, in English and LaTeX notation: -1,000.5, 3/4, 1 1/2, \frac{3}{4}, ½, 1.5e3, 2 × 10^-3, 50 %, 2 million, or
in words where a text has no figures.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from typing import NamedTuple


class Number(NamedTuple):
    """A number as written; `end` is where it ends in its text."""

    value: Fraction
    percent: bool = False
    end: int = 0

    def equals(self, gold: Number, *, rel_tol: float = 0.0, abs_tol: float = 0.0) -> bool:
        """Whether it is `gold` within `abs_tol`, or within `rel_tol` of it. Where only one of the two has a percent sign,
        50 % is 50 as well as 0.5.
        """
        candidates = [self.value]
        if self.percent != gold.percent:
            candidates.append(self.value / 100 if self.percent else self.value * 100)
        allowed = max(Fraction(abs_tol), Fraction(rel_tol) * abs(gold.value))
        return any(abs(value - gold.value) <= allowed for value in candidates)


_MOST_CHARACTERS = _MOST_POWER = 300  # beyond, no float holds it
_MOST = 10**_MOST_POWER
_SEPARATOR = r"(?:,|\{,\}|\\,|\\!,|,\\!|['\u00a0\u2009\u202f])"
_FIGURE = rf"(?:\d{{1,3}}(?:{_SEPARATOR}\d{{3}}(?!\d))++|\d++)(?:\.\d++)?|\.\d++"
_PART = r"(?:\{\s*+(?P<%s1>\d++)\s*+\}|(?P<%s2>\d))"
_TIMES = r"(?:[×x*·]|\\times|\\cdot)"
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_NUMBER = re.compile(
    rf"""(?<![\w^])(?<!\d[./])
    (?P<sign1>(?<![\w)\]}}])(?:(?<![\d)\]}}]\s)[-−–](?!\s)|(?<![\w)\]}}]\s)[-−–]\s))?+(?:\\?[$€£¥]\s?+)?+(?P<sign2>[-−])?+
    (?:(?:(?P<whole1>\d++)\s?+)?\\[dt]?frac\s*+{_PART % ("top", "top")}\s*+{_PART % ("bottom", "bottom")}
      |(?:(?P<whole2>\d++)\s?+)?(?P<vulgar>[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])
      |(?P<whole3>\d++)[ ](?P<top3>\d++)/(?P<bottom3>\d++)(?![\d/.])
      |(?P<top4>{_FIGURE})(?:\s?+/\s?+(?P<bottom4>{_FIGURE})(?![\d/]))?
       (?:[eE](?P<e>[-+]?\d++)(?![\w.])
         |\s?+{_TIMES}\s*+10(?:\s?+(?:\^|\*\*)\s?+\{{?(?P<power>[-+−]?\d++)\}}?|(?P<superscript>[⁻⁺]?[⁰¹²³⁴-⁹]++)))?)
    (?:\s?+(?P<scale>(?i:{"|".join(_SCALES)}))s?\b)?
    (?P<percent>\s?+(?:\\?%|per\s?cent\b|percentage\ points?\b))?""",
    re.X,
)
_DIGITS = "one two three four five six seven eight nine"
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {w: i for i, w in enumerate(f"zero {_DIGITS} {_TEENS}".split())} | {
    w: 10 * i for i, w in enumerate(_TENS.split(), 2)
}
_DIGIT, _TEEN, _TEN = (some.replace(" ", "|") for some in (_DIGITS, _TEENS, _TENS))
_BELOW_100 = rf"(?:(?:{_TEN})(?:[\s-](?:{_DIGIT})\b)?|{_TEEN}|{_DIGIT}|zero)"
_BELOW_1000 = rf"(?:{_BELOW_100}(?:[\s-]hundred(?:\s(?:and\s)?{_BELOW_100}\b)?)?|hundred(?:\s(?:and\s)?{_BELOW_100}\b)?)"
_SCALE = "|".join(name for name in _SCALES if name != "hundred")
_IN_WORDS = re.compile(
    rf"\b(?P<sign>minus |negative )?(?P<words>(?:{_BELOW_1000}|(?:{_SCALE}))"
    rf"(?:[\s-](?:{_SCALE})\b(?:\s(?:and\s)?{_BELOW_1000}\b)?)*)"
    r"(?P<percent> percent)?\b",
    re.I,
)
_PLAIN_DIGITS = str.maketrans("⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹−", "-+0123456789-")


def numbers(text: str) -> Iterator[Number]:
    """The numbers of a text: its figures, or where it has none, what it says in words."""
    figures = _read(_NUMBER.finditer(text))
    first = next(figures, None)
    return _read(_IN_WORDS.finditer(text)) if first is None else chain([first], figures)


def in_figures(text: str) -> str:
    """The text with its numbers in words as figures: fourteen and two hundred become 14 and 200."""
    return _IN_WORDS.sub(lambda match: f"{_spoken(match)}{match['percent'] or ''}", text)


def last_number(text: str) -> Number | None:
    """The last of them."""
    ends = (reversed(deque(pattern.finditer(text), maxlen=20)) for pattern in (_NUMBER, _IN_WORDS))
    return next(chain.from_iterable(map(_read, ends)), None)


def read_number(text: str) -> Number | None:
    """The number that a text is, and nothing else."""
    found = _NUMBER.fullmatch(text)
    value = _value(found) if found else None
    return None if value is None else Number(value, bool(found and found["percent"]), len(text))


def _read(matches: Iterable[re.Match[str]]) -> Iterator[Number]:
    for found in matches:
        value = _value(found) if found.re is _NUMBER else _spoken(found)
        if value is not None:
            yield Number(value, bool(found["percent"]), found.end())


def _value(found: re.Match[str]) -> Fraction | None:
    """What a figure stands for; None where no float holds it, or it divides by zero."""
    given = {name.rstrip("1234"): text for name, text in found.groupdict().items() if text}
    power = int(
        (given.get("e") or given.get("power") or given.get("superscript") or "0")[:9].translate(_PLAIN_DIGITS)
    )
    if len(found[0]) > _MOST_CHARACTERS or abs(power) > _MOST_POWER:
        return None
    if "vulgar" in given:
        part = Fraction(unicodedata.numeric(given["vulgar"])).limit_denominator(10)
    elif bottom := _plain(given.get("bottom", "1")):
        part = _plain(given["top"]) / bottom
    else:
        return None
    value = (
        (int(given.get("whole", "0")) + part)
        * Fraction(10) ** power
        * _SCALES.get(given.get("scale", "").lower(), 1)
    )
    if value > _MOST:
        return None
    return -value if "sign" in given else value


def _plain(figure: str) -> Fraction:
    return Fraction(re.sub(r"[^\d.]", "", figure))


def _spoken(found: re.Match[str]) -> Fraction:
    total = current = 0
    for word in re.findall(r"[a-z]+", found["words"].lower()):
        if word == "hundred":
            current = max(1, current) * 100
        elif word in _SCALES:
            total, current = total + max(1, current) * _SCALES[word], 0
        elif word != "and":
            current += _WORDS[word]
    return Fraction(-(total + current) if found["sign"] else total + current)
