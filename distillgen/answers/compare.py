"""Comparisons of an answer with gold answers, each of which will do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

from distillgen.answers.final_answer import (
    announced,
    boxed,
    choice,
    math_form,
    normalised,
    number,
    option_of,
    options_of,
)
from distillgen.answers.units import in_unit_of, quantity
from distillgen.record import text_of
from distillgen.text.numbers import Number


def golds(value: Any) -> list[str]:
    """The gold answers that a field holds: one, or a list of which each will do."""
    return [
        text_of(gold) for gold in (value if isinstance(value, list | tuple) else [value]) if gold is not None
    ]


def token_f1(text: str, gold: str) -> float:
    """The harmonic mean of precision and recall over the words of the normalised texts (as SQuAD has it)."""
    said, wanted = normalised(text).split(), normalised(gold).split()
    if not said or not wanted:
        return float(said == wanted)
    return 2 * (Counter(said) & Counter(wanted)).total() / (len(said) + len(wanted))


@dataclass(frozen=True, slots=True)
class Comparison:
    """An answer beside gold ones, each of which will do. It is not `answered` where no answer could be read in its text: a
    mistake of form, which is not a wrong answer. `golds` are those that can be compared with; `also` is what else was measured.
    """

    golds: int
    answered: bool
    right: bool = False
    also: Mapping[str, float] = field(default_factory=dict)

    @property
    def outcome(self) -> Literal["right", "wrong", "unanswered", "no gold"]:
        """In a word."""
        if not self.golds:
            return "no gold"
        return "right" if self.right else "wrong" if self.answered else "unanswered"

    @property
    def numbers(self) -> dict[str, float]:
        """As a filter measures it."""
        return {"golds": self.golds, "answered": self.answered, "right": self.right, **self.also}


def compare_numbers(
    text: str,
    gold: Any,
    *,
    rel_tol: float = 1e-6,
    abs_tol: float = 0.0,
    units: bool = False,
    lenient: bool = True,
) -> Comparison:
    """By the number: equal is what differs by at most `abs_tol`, or `rel_tol` of gold. With `units`, 1.5 km is 1500 m, and where
    gold has a unit, the answer needs one of its kind. Also: both numbers, and whether the unit is of the kind.
    """
    wanted = [found for each in golds(gold) if (found := number(each))]
    said = number(text, lenient=lenient)
    if not wanted or not said:
        return Comparison(len(wanted), bool(said))
    given = [(_in_unit(said, each) if units else said[0], each[0]) for each in wanted]
    right = any(n is not None and n.equals(each, rel_tol=rel_tol, abs_tol=abs_tol) for n, each in given)
    both = {"number": float(said[0].value), "gold": float(wanted[0][0].value)}
    return Comparison(len(wanted), True, right, {**both, "unit": any(n is not None for n, _ in given)})


def _in_unit(said: tuple[Number, str], wanted: tuple[Number, str]) -> Number | None:
    """What is said, in the unit that is wanted."""
    if (unit := quantity(*wanted)) is None:
        return said[0]
    found = quantity(*said)
    magnitude = None if found is None else in_unit_of(found, unit)
    return None if magnitude is None else Number(Fraction(magnitude))


def compare_choices(text: str, gold: Any, options: Any = None, *, lenient: bool = True) -> Comparison:
    """By the option: gold is a letter, an option's content, or its place from 0; `options` are what `options_of` takes."""
    given = {} if options is None else options_of(options)
    wanted = {letter for each in golds(gold) if (letter := option_of(each, given))}
    said = choice(text, given, lenient=lenient)
    return Comparison(len(wanted), said is not None, said in wanted)


def compare_boxed(text: str, gold: Any) -> Comparison:
    r"""By the last \boxed{…}, however it is spelled; gold is the expression, or a text with its box."""
    wanted = {math_form(each if (inside := boxed(each)) is None else inside) for each in golds(gold)} - {""}
    said = boxed(text)
    return Comparison(len(wanted), bool(said), bool(said) and math_form(str(said)) in wanted)


def compare_texts(text: str, gold: Any, *, part: Literal["all", "announced"] = "all") -> Comparison:
    """By the words, after case, punctuation, articles and spaces are levelled, as SQuAD does. Compared is all of the text, or the
    `part` that it announces. Also: whether it matches to the letter, and the highest token F1.
    """
    wanted, said = golds(gold), text.strip() if part == "all" else announced(text)
    if said is None:
        return Comparison(len(wanted), False, also={"exact": False, "f1": 0.0})
    f1 = max((token_f1(said, each) for each in wanted), default=0.0)
    return Comparison(
        len(wanted),
        True,
        normalised(said) in map(normalised, wanted),
        {"exact": said in map(str.strip, wanted), "f1": f1},
    )
