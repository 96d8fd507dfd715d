"""Answers that end as a sentence does, and so were not cut off."""

from collections.abc import Sequence

from distillgen import FieldName, Filter, Record

ENDS = tuple(".!?…。！？\"'”’)")


def finished(*, fields: list[FieldName]) -> Filter:
    """Drop records in which one of `fields` does not end as a sentence does. Measures how many. Costs
    nothing.

    Options:
        fields: the texts that must end like a sentence
    """

    def measure(records: Sequence[Record]) -> list[float]:
        return [sum(not r.text(f).rstrip().endswith(ENDS) for f in fields) for r in records]

    return Filter(
        measure,
        lambda unfinished: f"{unfinished:.0f} of {len(fields)} fields break off" if unfinished else None,
    )
