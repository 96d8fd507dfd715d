"""Compare the option that an answer chooses with the gold one (NesyCD, Liao et al. 2024: first the option's
letter, then its content).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.answers.compare import Comparison, compare_choices
from distillgen.record import text_of


def choice(
    *,
    field: FieldName = "answer",
    gold: FieldName = "gold",
    options: FieldName | None = None,
    lenient: bool = True,
) -> Filter:
    """Drop answers that choose another option than `gold`, or no option. Costs nothing.

    Gold is a letter, the content of an option, or its index from 0. `options` is a list, a mapping by letter,
    or a text with lines such as "(A) …", "B. …" or "- …"; without it, only letters are recognised. A choice
    is an announced option; unless `lenient` is false, it is also the only option named in the last line.
    Measures whether the answer chooses an option, and whether it is the right one.

    Options:
        field: the text with the answer
        gold: the right option: a letter, an option's content, or its place from 0
        options: the field with the options; without it, only letters count
        lenient: whether the only option named in the last line counts as a choice
    """

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare(r.fields).numbers for r in records]

    def compare(row: Mapping[str, Any]) -> Comparison:
        return compare_choices(
            text_of(row[field]), row[gold], row[options] if options else None, lenient=lenient
        )

    def decide(numbers: Mapping[str, Any]) -> str | None:
        if not numbers["golds"]:
            return f"the {gold} answer is none of the options"
        if not numbers["answered"]:
            return "chooses no option"
        return None if numbers["right"] else "chooses another option"

    return Filter(measure, decide)
