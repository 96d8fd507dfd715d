"""Answers to multiple-choice questions that choose another option than the gold one (NesyCD, Liao et al. 2024: the option's
letter first, then its content).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.answers import choice as chosen
from distillgen.answers import golds, option_of, options_of


def choice(
    *, field: FieldName = "answer", gold: FieldName = "gold", options: FieldName | None = None, lenient: bool = True
) -> Filter:
    """Drop answers that choose another option than the `gold` one, or none. Costs nothing.

    Gold is a letter, an option's content, or its place from 0. `options` is a list, a mapping by letter, or the text in which
    they stand: "(A) …", "B. …", or lines "- …"; without it, only letters count. A choice is announced, or, unless `lenient` is
    false, the only one of the last line. Measures whether it chooses, and whether rightly.
    """

    def compare(record: Record) -> dict[str, float]:
        given = options_of(record.fields[options]) if options else {}
        wanted = {letter for each in golds(record.fields[gold]) if (letter := option_of(each, given))}
        said = chosen(str(record.fields[field]), given, lenient=lenient)
        return {"golds": len(wanted), "answered": said is not None, "right": said in wanted}

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare(record) for record in records]

    def decide(found: Mapping[str, Any]) -> str | None:
        if not found["golds"]:
            return f"the {gold} answer is none of the options"
        if not found["answered"]:
            return "chooses no option"
        return None if found["right"] else "chooses another option"

    return Filter(measure, decide)
