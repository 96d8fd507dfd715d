"""Answers of the majority among the samples of a question (Self-Consistency, Wang et al. 2023, section 2)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.answers.final_answer import Kind, final_answer
from distillgen.flow.filter import siblings


def majority(
    *,
    field: FieldName = "answer",
    kind: Kind = "text",
    others: list[FieldName] | None = None,
    by: list[FieldName] | None = None,
    min_share: float = 0.5,
    min_votes: int = 2,
) -> Filter:
    """Drop answers that differ from the most frequent answer of their samples. Costs nothing.

    Samples are the records of one parent, or adjacent records with equal fields `by`. `others` are fields
    with more votes, such as answers of other teachers. Votes are final answers, read as `kind`; a sample
    without one counts as a vote for none. A tie goes to the answer that came first. All samples are dropped
    if the majority has too small a share or too few votes. Measures the majority's share, whether the record
    agrees with it, and the number of votes.

    Options:
        field: the answer
        kind: how the final answer is read: number, choice, boxed or text
        others: fields with further votes, such as other teachers' answers
        by: fields whose values the samples of a question share; default: records of one parent
        min_share: smallest share of the votes that the majority needs
        min_votes: fewest votes that the majority needs
    """

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        answers = [final_answer(record.text(field), kind) for record in records]
        votes = answers + [
            final_answer(record.text(name), kind) for name in others or () for record in records
        ]
        counts = Counter(vote for vote in votes if vote is not None)
        winner = max(counts, key=counts.__getitem__, default=None)  # of the largest, the first
        numbers = {"share": counts[winner] / len(votes) if winner is not None else 0.0, "votes": len(votes)}
        return [
            {"answered": vote is not None, "agrees": vote is not None and vote == winner, **numbers}
            for vote in answers
        ]

    def decide(numbers: Mapping[str, Any]) -> str | None:
        if not numbers["answered"]:
            return "gives no answer"
        if numbers["votes"] < min_votes:
            return f"{numbers['votes']:.0f} vote < {min_votes}"
        if numbers["share"] < min_share:
            return f"no majority: {numbers['share']:.0%} of the votes < {min_share:.0%}"
        return None if numbers["agrees"] else f"not the answer of {numbers['share']:.0%} of the votes"

    return Filter(measure, decide, together=siblings(by))
