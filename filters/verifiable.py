"""Problems whose answer a program can check: the selection of O1 Replication Journey, part 2 (Huang et al.
2024).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from distillgen import FieldName, Filter, Record
from distillgen.answers.final_answer import boxed
from distillgen.record import text_of
from distillgen.text.numbers import read_number

IMAGE = re.compile(
    r"!\[|<img\b|\\includegraphics|\[asy\]|\b(?:figure|diagram|picture|image|graph|drawing|sketch|map)\s+(?:above|below|shown|here)\b"
    r"|\b(?:in|from|see|on)\s+(?:the|this)\s+(?:figure|diagram|picture|image|drawing|sketch)\b|\b(?:shown|pictured|drawn)\s+(?:above|below)\b",
    re.I,
)
PROOF = re.compile(
    r"(?:^|[.,:;!?]\s+|\b(?:and|then|to)\s+)(?:prove|show|disprove|justify|verify)\s+(?:that|it|your|why|or)\b",
    re.I,
)


def verifiable(
    *, field: FieldName = "question", gold: FieldName = "gold", answer: Literal["number", "any"] = "number"
) -> Filter:
    r"""Drop problems that need an image, ask for a proof, have no answer, or whose answer is no number. Costs
    nothing.

    With `answer: any`, the answer need not be a number. Gold is the answer, a list whose first item is, or a
    text with a \boxed{…}. English.

    Options:
        field: the problem
        gold: its answer
        answer: the required kind of answer
    """

    def label(value: Any) -> str:
        text = text_of(value[0] if isinstance(value, list) and value else value)
        return (boxed(text) or text).strip(" $.")

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [
            {
                "image": IMAGE.search(r.text(field)) is not None,
                "proof": PROOF.search(r.text(field)) is not None,
                "labelled": bool(label(r.fields[gold])),
                "number": read_number(label(r.fields[gold])) is not None,
            }
            for r in records
        ]

    def decide(numbers: Mapping[str, Any]) -> str | None:
        if numbers["image"]:
            return "needs an image"
        if numbers["proof"]:
            return "asks for a proof"
        if not numbers["labelled"]:
            return f"has no {gold} answer"
        return None if numbers["number"] or answer == "any" else f"its {gold} answer is not a number"

    return Filter(measure, decide)
