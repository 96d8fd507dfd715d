"""Comparisons of a text's final answer with the gold answers, of which any one suffices."""

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
    """Return the gold answers of a field, which holds one or a list of alternatives."""
    return [
        text_of(gold) for gold in (value if isinstance(value, list | tuple) else [value]) if gold is not None
    ]


def token_f1(text: str, gold: str) -> float:
    """Return the F1 of the words of two normalised texts, from 0 to 1 (SQuAD, Rajpurkar et al. 2016, section
    6.1).
    """
    answer_words, gold_words = normalised(text).split(), normalised(gold).split()
    if not answer_words or not gold_words:
        return float(answer_words == gold_words)
    return 2 * (Counter(answer_words) & Counter(gold_words)).total() / (len(answer_words) + len(gold_words))


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing a text with its gold answers."""

    golds: int
    """How many of the gold answers could be read."""
    answered: bool
    """Whether the text has an answer that could be read; if not, its form is wrong, not its answer."""
    right: bool = False
    also: Mapping[str, float] = field(default_factory=dict)
    """Further numbers of the comparison, by name."""

    @property
    def outcome(self) -> Literal["right", "wrong", "unanswered", "no gold"]:
        """The result in one word."""
        if not self.golds:
            return "no gold"
        return "right" if self.right else "wrong" if self.answered else "unanswered"

    @property
    def numbers(self) -> dict[str, float]:
        """The comparison as the measurement of a filter."""
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
    """Compare numbers, which are equal if they differ by at most `abs_tol`, or by `rel_tol` times the gold
    number.

    With `units`, 1.5 km equals 1500 m, and an answer needs a unit of the same dimension as that of the gold
    answer. `also` holds both numbers, and `unit`: whether the dimensions agree.
    """
    gold_numbers = [gold_number for gold_text in golds(gold) if (gold_number := number(gold_text))]
    answer = number(text, lenient=lenient)
    if not gold_numbers or not answer:
        return Comparison(len(gold_numbers), bool(answer))
    pairs = [
        (_in_unit(answer, gold_number) if units else answer[0], gold_number[0])
        for gold_number in gold_numbers
    ]
    right = any(
        n is not None and n.equals(gold_number, rel_tol=rel_tol, abs_tol=abs_tol) for n, gold_number in pairs
    )
    both = {"number": float(answer[0].value), "gold": float(gold_numbers[0][0].value)}
    return Comparison(len(gold_numbers), True, right, {**both, "unit": any(n is not None for n, _ in pairs)})


def _in_unit(answer: tuple[Number, str], gold_number: tuple[Number, str]) -> Number | None:
    """Return the answer's number in the unit of the gold answer; None if their dimensions differ."""
    if (unit := quantity(*gold_number)) is None:
        return answer[0]
    answer_quantity = quantity(*answer)
    magnitude = None if answer_quantity is None else in_unit_of(answer_quantity, unit)
    return None if magnitude is None else Number(Fraction(magnitude))


def compare_choices(text: str, gold: Any, options: Any = None, *, lenient: bool = True) -> Comparison:
    """Compare the chosen option; the gold answer is a letter, an option's content, or its index from 0."""
    letters = {} if options is None else options_of(options)
    gold_letters = {letter for gold_text in golds(gold) if (letter := option_of(gold_text, letters))}
    letter_chosen = choice(text, letters, lenient=lenient)
    return Comparison(len(gold_letters), letter_chosen is not None, letter_chosen in gold_letters)


def compare_boxed(text: str, gold: Any) -> Comparison:
    r"""Compare the expression in the last \boxed{…} in its normal form; the gold answer may be boxed, too."""
    gold_forms = {
        math_form(gold_text if (inside := boxed(gold_text)) is None else inside) for gold_text in golds(gold)
    } - {""}
    expression = boxed(text)
    return Comparison(
        len(gold_forms), bool(expression), bool(expression) and math_form(str(expression)) in gold_forms
    )


def compare_texts(text: str, gold: Any, *, part: Literal["all", "announced"] = "all") -> Comparison:
    """Compare texts without case, punctuation, articles and surplus spaces, as SQuAD does: the whole text, or
    the `part` that it announces as its answer. `also` holds `exact`, an exact match, and the highest token
    F1.
    """
    gold_texts, answer = golds(gold), text.strip() if part == "all" else announced(text)
    if answer is None:
        return Comparison(len(gold_texts), False, also={"exact": False, "f1": 0.0})
    f1 = max((token_f1(answer, gold_text) for gold_text in gold_texts), default=0.0)
    return Comparison(
        len(gold_texts),
        True,
        normalised(answer) in map(normalised, gold_texts),
        {"exact": answer in map(str.strip, gold_texts), "f1": f1},
    )
