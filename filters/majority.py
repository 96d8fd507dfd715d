"""Answers in the minority among the samples of their question (Self-Consistency, Wang et al. 2023, section 2)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.answers.final_answer import Kind, final_answer
from distillgen.stages.filter import siblings


def majority(
    *,
    field: FieldName = "answer",
    kind: Kind = "text",
    others: list[FieldName] | None = None,
    by: list[FieldName] | None = None,
    min_share: float = 0.5,
    min_votes: int = 2,
) -> Filter:
    """Drop answers that are not the most frequent one of their samples, or all where that one has too few votes.

    The samples are the records of one parent, or those next to each other with the same fields `by`; `others` are fields with
    further votes, such as other teachers' answers. The final answer counts, read as `kind`; a sample without one is a vote for
    none; a tie goes to what came first. Measures the majority's share, whether the record is of it, and the votes. Costs nothing.

    Options:
        field: the answer
        kind: how the final answer is read: number, choice, boxed or text
        others: fields with further votes, such as other teachers' answers
        by: fields whose values the samples of a question share; default: records of one parent
        min_share: smallest share of the votes that the majority needs
        min_votes: fewest votes that the majority needs
    """

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        own = [final_answer(record.text(field), kind) for record in records]
        votes = own + [final_answer(record.text(name), kind) for name in others or () for record in records]
        counts = Counter(vote for vote in votes if vote is not None)
        winner = max(counts, key=counts.__getitem__, default=None)  # of the largest, the first
        numbers = {"share": counts[winner] / len(votes) if winner is not None else 0.0, "votes": len(votes)}
        return [
            {"answered": vote is not None, "agrees": vote is not None and vote == winner, **numbers}
            for vote in own
        ]

    def decide(found: Mapping[str, Any]) -> str | None:
        if not found["answered"]:
            return "gives no answer"
        if found["votes"] < min_votes:
            return f"{found['votes']:.0f} vote < {min_votes}"
        if found["share"] < min_share:
            return f"no majority: {found['share']:.0%} of the votes < {min_share:.0%}"
        return None if found["agrees"] else f"not the answer of {found['share']:.0%} of the votes"

    return Filter(measure, decide, together=siblings(by))
