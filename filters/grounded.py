"""Answers whose words occur in their source: a cheap lexical check before any that need a model."""

from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.text.words import content


def grounded(*, field: FieldName = "answer", sources: list[FieldName], min_share: float = 0.8) -> Filter:
    """Drop answers with too many content words, or any number, that their source does not contain.

    Measures the share of content words that the source contains, and how many numbers it lacks. English.
    Costs nothing.

    Options:
        field: the text to judge
        sources: the fields whose words the text may use
        min_share: smallest share of its content words that the sources hold
    """
    where = " and ".join(sources)

    def compare(record: Record) -> dict[str, float]:
        answer_words, source_words = (
            content(record.text(field)),
            content(" ".join(record.text(name) for name in sources)),
        )
        numbers = sum(word[0].isdigit() and word not in source_words for word in answer_words)
        return {
            "share": len(answer_words & source_words) / len(answer_words) if answer_words else 0.0,
            "numbers": numbers,
        }

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare(record) for record in records]

    def decide(numbers: dict[str, float]) -> str | None:
        if numbers["numbers"]:
            return f"{numbers['numbers']:.0f} of its numbers not in the {where}"
        return (
            None
            if numbers["share"] >= min_share
            else f"{numbers['share']:.0%} of its words in the {where} < {min_share:.0%}"
        )

    return Filter(measure, decide)
