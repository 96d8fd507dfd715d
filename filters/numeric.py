"""Answers whose number is not the gold one: rejection sampling for arithmetic (Cobbe et al. 2021, section 2: GSM8K)."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.answers import golds, number
from distillgen.numerals import Number
from distillgen.units import in_unit_of, need_pint, quantity


def numeric(
    *, field: FieldName = "answer", gold: FieldName = "gold", rel_tol: float = 1e-6, abs_tol: float = 0.0, units: bool = False,
    lenient: bool = True,
) -> Filter:  # fmt: skip
    """Drop answers whose number is not that of the `gold` answer, or of one of a list. Costs nothing.

    The number is the one that the answer announces, or, unless `lenient` is false, its last. Equal is what differs by at most
    `abs_tol`, or `rel_tol` of gold. With `units`, 1.5 km is 1500 m, and where gold has a unit, the answer needs one. Measures
    whether there is a number, whether it is right, and both numbers. English.
    """
    if units:
        need_pint()

    def compare(record: Record) -> dict[str, float]:
        wanted = [found for text in golds(record.fields[gold]) if (found := number(text))]
        said = number(str(record.fields[field]), lenient=lenient)
        if not wanted or not said:
            return {"golds": len(wanted), "answered": bool(said), "right": False}
        given = [(same_unit(said, each) if units else said[0], each[0]) for each in wanted]
        right = any(n is not None and n.equals(each, rel_tol=rel_tol, abs_tol=abs_tol) for n, each in given)
        numbers = {"number": float(said[0].value), "gold": float(wanted[0][0].value)}
        return {"golds": len(wanted), "answered": True, "right": right, **numbers, "unit": any(n is not None for n, _ in given)}

    def same_unit(said: tuple[Number, str], wanted: tuple[Number, str]) -> Number | None:
        """What is said, in the unit that is wanted."""
        if (unit := quantity(*wanted)) is None:
            return said[0]
        found = quantity(*said)
        magnitude = None if found is None else in_unit_of(found, unit)
        return None if magnitude is None else Number(Fraction(magnitude))

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare(record) for record in records]

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
