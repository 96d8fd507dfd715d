r"""Answers whose \boxed{…} is not the gold one (O1 Replication Journey, part 2, Huang et al. 2024)."""

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.answers import boxed as box
from distillgen.answers import golds, math_form


def boxed(*, field: FieldName = "answer", gold: FieldName = "gold") -> Filter:
    r"""Drop answers whose last \boxed{…} does not say the same as `gold`, or one of a list, or which have none. Costs nothing.

    Spellings do not count: \dfrac12, 0.5 and \frac{1}{2} are the same. Unlike expressions of equal value are not: for these,
    take `symbolic`. Gold is the expression, or a text with its \boxed{…}. Measures whether there is a box, and a right one.
    """

    def compare(record: Record) -> dict[str, float]:
        wanted = {math_form(inside if (inside := box(each)) is not None else each) for each in golds(record.fields[gold])} - {""}
        said = box(str(record.fields[field]))
        return {"golds": len(wanted), "answered": bool(said), "right": bool(said) and math_form(str(said)) in wanted}

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare(record) for record in records]

    def decide(found: Mapping[str, Any]) -> str | None:
        if not found["golds"]:
            return f"the {gold} answer is empty"
        if not found["answered"]:
            return "no \\boxed{…} in it"
        return None if found["right"] else f"another \\boxed{{…}} than the {gold} answer"

    return Filter(measure, decide)
