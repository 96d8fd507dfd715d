"""Answers in which the gold answer stands (match, Zhang et al. 2025, WikiDYK)."""

from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.answers.compare import golds


def contains(*, field: FieldName = "answer", gold: FieldName = "gold") -> Filter:
    """Drop answers in which no `gold` answer stands, letter for letter. Costs nothing.

    A gold answer inside of a longer word counts, too: `exact` compares the whole answer.

    Options:
        field: the answer
        gold: the right answer, or a list of right answers
    """

    def measure(records: Sequence[Record]) -> list[float]:
        return [_holds(r.text(field), golds(r.fields[gold])) for r in records]

    def decide(holds: float) -> str | None:
        if holds > 0:
            return None
        return f"no {gold} answer" if holds < 0 else f"the {gold} answer is not in it"

    return Filter(measure, decide)


def _holds(text: str, gold_answers: Sequence[str]) -> float:
    """Return 1 or 0, or -1 without a gold answer; an empty one is none."""
    gold_answers = [gold for gold in gold_answers if gold.strip()]
    return float(any(gold in text for gold in gold_answers)) if gold_answers else -1.0
