"""Check that an answer is of the kind that its question asks for: a date for "when", a cause for "why"."""

from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.answers.answer_type import expected_type, has_type


def answer_kind(*, field: FieldName = "answer", to: FieldName = "question") -> Filter:
    """Drop answers without the figure, time, cause or name that the question's first words ask for.

    English. Costs nothing.

    Options:
        field: the answer
        to: the question that it answers
    """

    def lacking(record: Record) -> float:
        kind = expected_type(record.text(to))
        return kind not in (None, "yes or no") and not has_type(record.text(field), kind)

    def measure(records: Sequence[Record]) -> list[float]:
        return [lacking(record) for record in records]

    return Filter(measure, lambda count: "not the kind of answer asked for" if count else None)
