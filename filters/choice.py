"""Answers to multiple-choice questions that choose another option than the gold one (NesyCD, Liao et al. 2024: the option's
letter first, then its content).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.answers.final_answer import Comparison, compare_choices
from distillgen.record import text_of


def choice(
    *,
    field: FieldName = "answer",
    gold: FieldName = "gold",
    options: FieldName | None = None,
    lenient: bool = True,
) -> Filter:
    """Drop answers that choose another option than the `gold` one, or none. Costs nothing.

    Gold is a letter, an option's content, or its place from 0. `options` is a list, a mapping by letter, or the text in which
    they stand: "(A) …", "B. …", or lines "- …"; without it, only letters count. A choice is announced, or, unless `lenient` is
    false, the only one of the last line. Measures whether it chooses, and whether rightly.

    Options:
        field: the text with the answer
        gold: the right option: a letter, an option's content, or its place from 0
        options: the field with the options; without it, only letters count
        lenient: whether the only option named in the last line counts as a choice
    """

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare(r.fields).numbers for r in records]

    def compare(given: Mapping[str, Any]) -> Comparison:
        return compare_choices(
            text_of(given[field]), given[gold], given[options] if options else None, lenient=lenient
        )

    def decide(found: Mapping[str, Any]) -> str | None:
        if not found["golds"]:
            return f"the {gold} answer is none of the options"
        if not found["answered"]:
            return "chooses no option"
        return None if found["right"] else "chooses another option"

    return Filter(measure, decide)
