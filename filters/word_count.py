"""Length in words."""

from collections.abc import Sequence

from distillgen import FieldName, Filter, Record


def word_count(*, field: FieldName = "response", min_words: int = 0, max_words: int | None = None) -> Filter:
    """Drop texts with fewer than `min_words` or more than `max_words` words. Costs nothing.

    Options:
        field: the text to count
        min_words: fewest words of a kept text
        max_words: most words of a kept text; null: no bound
    """

    def measure(records: Sequence[Record]) -> list[float]:
        return [len(record.text(field).split()) for record in records]

    def decide(count: float) -> str | None:
        if count < min_words:
            return f"{count:.0f} words < {min_words}"
        return f"{count:.0f} words > {max_words}" if max_words is not None and count > max_words else None

    return Filter(measure, decide)
