"""Numbers with units, as quantities that can be compared (pint)."""

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
    """The number with the unit that `behind` begins with, the longest that there is; None where it begins with none."""
    found = _UNIT.match(_LATEX.sub(" ", behind[:80].partition("\n")[0]).lstrip())
    registry, errors = _registry()
    said = found[1].replace("·", "*").replace("−", "-") if found else ""
    while said := said.strip(" */^-"):
        for spelled in (said, said.lower()):
            with suppress(*errors):
                return registry.Quantity(float(number.value), registry.parse_units(spelled))
        said = said.rpartition(" ")[0]
    return None


def in_unit_of(found: Any, gold: Any) -> float | None:
    """The magnitude of `found` in the unit of `gold`; None where it measures something else."""
    _, errors = _registry()
    with suppress(*errors):
        return float(found.to(gold.units).magnitude)
    return None


@cache
def _registry() -> tuple[Any, tuple[type[Exception], ...]]:
    import pint

    # besides its own errors, pint's parser of units raises these on texts that are none
    return pint.UnitRegistry(), (
        pint.PintError,
        AttributeError,
        TypeError,
        ValueError,
        ArithmeticError,
        AssertionError,
    )
