"""Texts short enough to become part of another prompt (Knowledge Card, Feng et al. 2023: the brevity
selector).
"""

from collections.abc import Sequence

from distillgen import FieldName, Filter, Record


def brevity(*, field: FieldName = "response", max_words: int = 50) -> Filter:
    """Drop texts of more than `max_words` words. Costs nothing.

    To shorten long texts instead, put a generate stage before this filter.

    Options:
        field: the text to measure
        max_words: most words that a kept text has
    """

    def measure(records: Sequence[Record]) -> list[float]:
        return [len(r.text(field).split()) for r in records]

    return Filter(measure, lambda count: f"{count:.0f} words > {max_words}" if count > max_words else None)
