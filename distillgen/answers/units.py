"""Quantities: numbers with units, which pint converts."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from typing import Any

from distillgen.text.numbers import Number

_NAME = r"(?:[^\W\d_]|[°%µμΩ])+"
_UNIT = re.compile(
    rf"\s?-?\s?({_NAME}(?:\s?(?:[*/·]|\^?[-−]?\d(?!\d)|\*\*)\s?|\s(?!(?:in|a|at|as|are)\b)|{_NAME}){{0,12}})"
)
_LATEX = re.compile(r"\\(?:text|mathrm|mbox|,|;|!)|[{}$]")


def quantity(number: Number, behind: str) -> Any | None:
    """Return the number with the longest unit at the beginning of `behind`, the text after it; None if there
    is no unit.
    """
    unit_match = _UNIT.match(_LATEX.sub(" ", behind[:80].partition("\n")[0]).lstrip())
    registry, errors = _registry()
    unit = unit_match[1].replace("·", "*").replace("−", "-") if unit_match else ""
    while unit := unit.strip(" */^-"):
        for spelled in (unit, unit.lower()):
            with suppress(*errors):
                return registry.Quantity(float(number.value), registry.parse_units(spelled))
        unit = unit.rpartition(" ")[0]
    return None


def in_unit_of(answer: Any, gold: Any) -> float | None:
    """Return the magnitude of an answer in the unit of the gold quantity; None if their dimensions differ."""
    _, errors = _registry()
    with suppress(*errors):
        return float(answer.to(gold.units).magnitude)
    return None


@cache
def _registry() -> tuple[Any, tuple[type[Exception], ...]]:
    import pint

    # besides its own errors, pint raises these on texts that are no units
    return pint.UnitRegistry(), (
        pint.PintError,
        AttributeError,
        TypeError,
        ValueError,
        ArithmeticError,
        AssertionError,
    )
