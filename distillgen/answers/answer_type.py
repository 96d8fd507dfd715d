"""The type of answer that a question asks for, such as a time or a name, and whether an answer is of that
type.
"""

from __future__ import annotations

import re
from typing import Literal

from distillgen.text.numbers import in_figures

AnswerType = Literal["figure", "time", "cause", "name", "yes or no"]

_SIZES = """many much long tall high deep thick wide large big small far old fast quickly slowly soon hot cold
warm often heavy strong"""
_QUESTIONS: tuple[tuple[AnswerType, re.Pattern[str]], ...] = (
    (
        "time",
        re.compile(
            r"^(?:(?:since|until|from|by) )?when\b|^(?:\w+ )?(?:what|which) (?:year|date|time|day|month)\b",
            re.I,
        ),
    ),
    (
        "figure",
        re.compile(
            rf"^(?:\w+ ){{0,2}}?how (?:{'|'.join(_SIZES.split())}|expensive|loud|close|near)\b"
            r"|^(?:\w+ )?(?:what|which) (?:share|part|percentage|temperature|age|number|amount|size|speed)\b",
            re.I,
        ),
    ),
    ("cause", re.compile(r"^why\b", re.I)),
    ("name", re.compile(r"^who\b", re.I)),
    (
        "yes or no",
        re.compile(
            "^(?:is|are|was|were|am|do|does|did|can|could|may|might|must|should|shall|will|would|has|have|had)\\b",
            re.I,
        ),
    ),
)
_AMOUNT = re.compile(
    r"""\d|\b(?:half|thirds?|quarters?|fifths?|sixths?|eighths?|tenths?|hundreds?|thousands?|millions?|billions?
    |dozens?|once|twice|several|few|an?\ (?:single\ )?(?:metre|meter|kilomet\w+|centimet\w+|millimet\w+|mile
    |foot|inch|gram|kilogram|ton|tonne|pound|litre|second|minute|hour|day|night|week|month|year|decade|century
    |generation|lifetime|degree|euro|dollar|point)
    |(?:at|with)\ the\ speed|as\ (?:\w+)\ as|never|always|every|rarely|seldom|daily|weekly|monthly
    |yearly|all|none|not\ at\ all)\b""",
    re.I | re.X,
)
_TIME = re.compile(
    r"""\d|\b(?:when|once|if|as\ soon|after|before|until|at\ once|immediately|during|while|century|centuries
    |autumn|winter|summer|spring|morning|noon|evening|night|today|as\ long|never|always|only
    |(?:on|from|by|at)\ the|january|february|march|april|june|july|august|september|october|november|december
    |(?:mon|tues|wednes|thurs|fri|satur|sun)day)\b""",
    re.I | re.X,
)
_VAGUE = re.compile(r"\b(?:after|before|in) (?:a|some|the) (?:\w+ )?(?:while|time|past|future)\b", re.I)
_CAUSE = re.compile(
    r"\b(?:because|since|so|as|to|for|due|which|by|from|otherwise|would|therefore|thus|hence)\b", re.I
)
_DEFINES = re.compile(
    r"^\W*(?:\w+ ){1,4}?(?:is|are|was|were) (?:an?|the|one|called|known|named|found)\b", re.I
)
_NAME_OR_ROLE = re.compile(
    r"[A-Z]|\b(?:people|friends|\w{3,}(?:ers|ors|ists|ees|ants)|(?:an?|the|your|my) \w{3,}(?:er|or|ist|ee"
    r"|ant))\b"
)
_YES_OR_NO = re.compile(r"^\W*(?:yes|no|not|never|only|usually|sometimes|it depends)\b", re.I)


def expected_type(question: str) -> AnswerType | None:
    """Return the type of answer that the first words of a question ask for; None if they do not say."""
    return next((kind for kind, pattern in _QUESTIONS if pattern.search(question.strip())), None)


def has_type(answer: str, kind: AnswerType) -> bool:
    """Return whether an answer is of this type: "almost a metre in a single day" is a figure, "once the stone
    is in place" a time. Any statement can be a cause, except a definition such as "a glacier is a river of
    ice".
    """
    match kind:
        case "figure":
            return _AMOUNT.search(in_figures(answer)) is not None
        case "time":
            return _TIME.search(_VAGUE.sub("", in_figures(answer))) is not None
        case "cause":
            return _CAUSE.search(answer) is not None or _DEFINES.match(answer) is None
        case "name":
            return _NAME_OR_ROLE.search(answer) is not None
    return _YES_OR_NO.match(answer) is not None
