"""Answers that say what their source does not: the cheap lexical check, before any that costs a model."""

from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.text.words import content


def grounded(*, field: FieldName = "answer", sources: list[FieldName], min_share: float = 0.8) -> Filter:
    """Drop answers whose content words do not stand in their source. Measures their share, and the numbers that are not
    there, of which none is allowed. English. Costs nothing.

    Options:
        field: the text to judge
        sources: the fields whose words it may use
        min_share: smallest share of its content words that the sources hold
    """
    where = " and ".join(sources)

    def compare(record: Record) -> dict[str, float]:
        said, known = content(record.text(field)), content(" ".join(record.text(name) for name in sources))
        numbers = sum(word[0].isdigit() and word not in known for word in said)
        return {"share": len(said & known) / len(said) if said else 0.0, "numbers": numbers}

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare(record) for record in records]

    def decide(found: dict[str, float]) -> str | None:
        if found["numbers"]:
            return f"{found['numbers']:.0f} of its numbers not in the {where}"
        return (
            None
            if found["share"] >= min_share
            else f"{found['share']:.0%} of its words in the {where} < {min_share:.0%}"
        )

    return Filter(measure, decide)
