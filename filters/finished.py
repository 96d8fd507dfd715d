"""Answers that were cut off: every field ends as a sentence does."""

from collections.abc import Sequence

from distillgen import FieldName, Filter, Record

ENDS = tuple(".!?…。！？\"'”’)")


def finished(*, fields: list[FieldName]) -> Filter:
    """Drop records in which one of `fields` does not end like a sentence. Measures how many do not. Costs nothing.

    Options:
        fields: the texts that must end like a sentence
    """

    def measure(records: Sequence[Record]) -> list[float]:
        return [sum(not r.text(f).rstrip().endswith(ENDS) for f in fields) for r in records]

    return Filter(
        measure,
        lambda unfinished: f"{unfinished:.0f} of {len(fields)} fields break off" if unfinished else None,
    )
