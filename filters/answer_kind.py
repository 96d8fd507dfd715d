"""Answers of another kind than the question asks for: a date for "when", a cause for "why"."""

import re
from collections.abc import Sequence

from distillgen import FieldName, Filter, Record

_SIZES = "many|much|long|tall|high|deep|large|big|far|old|wide|fast|hot|often"
_FIGURES = r"one|two|three|four|five|six|seven|eight|nine|ten|twenty|fifty|half|thirds?|quarters?|hundreds?|thousands?|millions?"
_TIMES = r"once|twice|century|centuries|autumn|winter|summer|spring"
WANTS = (
    (
        re.compile(rf"^(?:when|how (?:{_SIZES}))\b|\b(?:what|which) year\b", re.I),
        re.compile(rf"\d|\b(?:{_FIGURES}|{_TIMES})\b", re.I),
    ),
    (re.compile(r"^why\b", re.I), re.compile(r"\b(?:because|since|so|as|to|for|due|which|by)\b", re.I)),
    (re.compile(r"^who\b", re.I), re.compile(r"[A-Z]|\b(?:people|workers|sailors|soldiers|builders|scientists|friends)\b")),
)


def answer_kind(*, field: FieldName = "answer", to: FieldName = "question") -> Filter:
    """Drop answers without the figure, cause or name that the question's first words ask for. English. Costs nothing.

    Options:
        field: the answer
        to: the question that it answers
    """

    def lacking(record: Record) -> float:
        asked, told = record.text(to).strip(), record.text(field)
        return sum(bool(question.search(asked)) and not answer.search(told) for question, answer in WANTS)

    def measure(records: Sequence[Record]) -> list[float]:
        return [lacking(record) for record in records]

    return Filter(measure, lambda count: "not the kind of answer asked for" if count else None)
