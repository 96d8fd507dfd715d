"""Answers whose number is not the gold one: rejection sampling for arithmetic (Cobbe et al. 2021, section 2: GSM8K)."""

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.answers.final_answer import compare_numbers
from distillgen.extras import need


def numeric(
    *,
    field: FieldName = "answer",
    gold: FieldName = "gold",
    rel_tol: float = 1e-6,
    abs_tol: float = 0.0,
    units: bool = False,
    lenient: bool = True,
) -> Filter:
    """Drop answers whose number is not that of the `gold` answer, or of one of a list. Costs nothing.

    The number is the one that the answer announces, or, unless `lenient` is false, its last. Equal is what differs by at most
    `abs_tol`, or `rel_tol` of gold. With `units`, 1.5 km is 1500 m, and where gold has a unit, the answer needs one. Measures
    whether there is a number, whether it is right, and both numbers. English.

    Options:
        field: the text with the answer
        gold: the right number, or a list of right ones
        rel_tol: largest difference that counts as equal, relative to gold
        abs_tol: largest difference that counts as equal, absolute
        units: whether units are converted and needed
        lenient: whether the last number counts where none is announced
    """
    if units:
        need("numeric with units", "pint")
    how = {"rel_tol": rel_tol, "abs_tol": abs_tol}

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        pairs = ((r.text(field), r.fields[gold]) for r in records)
        return [
            compare_numbers(text, wanted, units=units, lenient=lenient, **how).numbers
            for text, wanted in pairs
        ]

    def decide(found: Mapping[str, Any]) -> str | None:
        if found["right"]:
            return None
        if not found["golds"]:
            return f"the {gold} answer holds no number"
        if not found["answered"]:
            return "no number in it" if lenient else "announces no number"
        if not found["unit"]:
            return f"not in a unit of the {gold} answer's kind"
        return f"{found['number']:.15g} is not {found['gold']:.15g}"

    return Filter(measure, decide)
