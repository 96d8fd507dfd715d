r"""Numbers in texts, in English and LaTeX notation: -1,000.5, 3/4, 1 1/2, \frac{3}{4}, ½, 1.5e3, 2 × 10^-3,
50 %, 2 million.

Numbers in words count if a text has no figures.
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
    """A number in a text; `end` is where it ends."""

    value: Fraction
    percent: bool = False
    end: int = 0

    def equals(self, gold: Number, *, rel_tol: float = 0.0, abs_tol: float = 0.0) -> bool:
        """Whether it differs from `gold` by at most `abs_tol`, or by `rel_tol` of it.

        If only one of the two has a percent sign, 50 % equals 50 and 0.5.
        """
        candidates = [self.value]
        if self.percent != gold.percent:
            candidates.append(self.value / 100 if self.percent else self.value * 100)
        allowed = max(Fraction(abs_tol), Fraction(rel_tol) * abs(gold.value))
        return any(abs(value - gold.value) <= allowed for value in candidates)


_MOST_CHARACTERS = _MOST_POWER = 300  # a float holds no larger number
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
_DIGIT, _TEEN, _TEN = (words.replace(" ", "|") for words in (_DIGITS, _TEENS, _TENS))
_BELOW_100 = rf"(?:(?:{_TEN})(?:[\s-](?:{_DIGIT})\b)?|{_TEEN}|{_DIGIT}|zero)"
_BELOW_1000 = (
    rf"(?:{_BELOW_100}(?:[\s-]hundred(?:\s(?:and\s)?{_BELOW_100}\b)?)?"
    rf"|hundred(?:\s(?:and\s)?{_BELOW_100}\b)?)"
)
_SCALE = "|".join(name for name in _SCALES if name != "hundred")
_IN_WORDS = re.compile(
    rf"\b(?P<sign>minus |negative )?(?P<words>(?:{_BELOW_1000}|(?:{_SCALE}))"
    rf"(?:[\s-](?:{_SCALE})\b(?:\s(?:and\s)?{_BELOW_1000}\b)?)*)"
    r"(?P<percent> percent)?\b",
    re.I,
)
_PLAIN_DIGITS = str.maketrans("⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹−", "-+0123456789-")


def numbers(text: str) -> Iterator[Number]:
    """Yield the numbers of a text: in figures, or, if it has none, in words."""
    figures = _read(_NUMBER.finditer(text))
    first = next(figures, None)
    return _read(_IN_WORDS.finditer(text)) if first is None else chain([first], figures)


def in_figures(text: str) -> str:
    """Return the text with numbers in figures: fourteen and two hundred become 14 and 200."""
    return _IN_WORDS.sub(lambda match: f"{_spoken(match)}{match['percent'] or ''}", text)


def last_number(text: str) -> Number | None:
    """Return the last number of a text, in figures or in words."""
    ends = (reversed(deque(pattern.finditer(text), maxlen=20)) for pattern in (_NUMBER, _IN_WORDS))
    return next(chain.from_iterable(map(_read, ends)), None)


def read_number(text: str) -> Number | None:
    """Return the number if the text is one and nothing else."""
    match = _NUMBER.fullmatch(text)
    value = _value(match) if match else None
    return None if value is None else Number(value, bool(match and match["percent"]), len(text))


def _read(matches: Iterable[re.Match[str]]) -> Iterator[Number]:
    for match in matches:
        value = _value(match) if match.re is _NUMBER else _spoken(match)
        if value is not None:
            yield Number(value, bool(match["percent"]), match.end())


def _value(match: re.Match[str]) -> Fraction | None:
    """Return the value of a number in figures; None if it is too large, or divides by zero."""
    parts = {name.rstrip("1234"): text for name, text in match.groupdict().items() if text}
    power = int(
        (parts.get("e") or parts.get("power") or parts.get("superscript") or "0")[:9].translate(_PLAIN_DIGITS)
    )
    if len(match[0]) > _MOST_CHARACTERS or abs(power) > _MOST_POWER:
        return None
    if "vulgar" in parts:
        part = Fraction(unicodedata.numeric(parts["vulgar"])).limit_denominator(10)
    elif bottom := _plain(parts.get("bottom", "1")):
        part = _plain(parts["top"]) / bottom
    else:
        return None
    value = (
        (int(parts.get("whole", "0")) + part)
        * Fraction(10) ** power
        * _SCALES.get(parts.get("scale", "").lower(), 1)
    )
    if value > _MOST:
        return None
    return -value if "sign" in parts else value


def _plain(figure: str) -> Fraction:
    return Fraction(re.sub(r"[^\d.]", "", figure))


def _spoken(match: re.Match[str]) -> Fraction:
    total = current = 0
    for word in re.findall(r"[a-z]+", match["words"].lower()):
        if word == "hundred":
            current = max(1, current) * 100
        elif word in _SCALES:
            total, current = total + max(1, current) * _SCALES[word], 0
        elif word != "and":
            current += _WORDS[word]
    return Fraction(-(total + current) if match["sign"] else total + current)
