r"""Answers whose \boxed{…} is not the gold one (O1 Replication Journey, part 2, Huang et al. 2024)."""

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.answers.final_answer import compare_boxed


def boxed(*, field: FieldName = "answer", gold: FieldName = "gold") -> Filter:
    r"""Drop answers whose last \boxed{…} does not say the same as `gold`, or one of a list, or which have none. Costs nothing.

    Spellings do not count: \dfrac12, 0.5 and \frac{1}{2} are the same. Unlike expressions of equal value are not: for these,
    take `symbolic`. Gold is the expression, or a text with its \boxed{…}. Measures whether there is a box, and a right one.

    Options:
        field: the text with the answer
        gold: the right answer, or a list of right answers
    """

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare_boxed(r.text(field), r.fields[gold]).numbers for r in records]

    def decide(found: Mapping[str, Any]) -> str | None:
        if not found["golds"]:
            return f"the {gold} answer is empty"
        if not found["answered"]:
            return "no \\boxed{…} in it"
        return None if found["right"] else f"another \\boxed{{…}} than the {gold} answer"

    return Filter(measure, decide)
