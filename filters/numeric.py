"""Answers whose number is the gold one: rejection sampling for arithmetic (GSM8K, Cobbe et al. 2021, section
2).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.answers.compare import compare_numbers
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
    """Drop answers whose number differs from the one of `gold`, or from all of a list. Costs nothing.

    The number is the one that the answer announces; unless `lenient` is false, else its last number. Numbers
    are equal if they differ by at most `abs_tol`, or by `rel_tol` of gold. With `units`, 1.5 km equals 1500
    m, and the answer needs a unit where gold has one. Measures whether there is a number, whether it is
    right, and both numbers. English.

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
            compare_numbers(text, gold_value, units=units, lenient=lenient, **how).numbers
            for text, gold_value in pairs
        ]

    def decide(numbers: Mapping[str, Any]) -> str | None:
        if numbers["right"]:
            return None
        if not numbers["golds"]:
            return f"the {gold} answer holds no number"
        if not numbers["answered"]:
            return "no number in it" if lenient else "announces no number"
        if not numbers["unit"]:
            return f"not in a unit of the {gold} answer's kind"
        return f"{numbers['number']:.15g} is not {numbers['gold']:.15g}"

    return Filter(measure, decide)
