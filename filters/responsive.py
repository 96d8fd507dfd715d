"""Answers beside the question, and answers that only repeat it."""

from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.text import content


def responsive(*, field: FieldName = "answer", to: FieldName = "question", min_share: float = 0.5) -> Filter:
    """Drop answers in full sentences that take up too few of the question's content words, or add none of their own.
    Measures the share taken up, and the words added. English. Costs nothing.

    Options:
        field: the answer
        to: the question
        min_share: smallest share of the question's content words that a kept answer takes up
    """

    def compare(record: Record) -> dict[str, float]:
        asked, told = content(record.text(to)), content(record.text(field))
        return {"share": len(asked & told) / len(asked) if asked else 0.0, "added": len(told - asked)}

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare(record) for record in records]

    def decide(found: dict[str, float]) -> str | None:
        if not found["added"]:
            return f"only repeats the {to}"
        return None if found["share"] >= min_share else f"takes up {found['share']:.0%} of the {to} < {min_share:.0%}"

    return Filter(measure, decide)
