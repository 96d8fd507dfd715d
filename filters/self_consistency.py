"""The share of samples that agree with an answer (Self-Consistency, Wang et al. 2023, section 2)."""

from collections import Counter
from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.answers.final_answer import Kind, final_answer
from distillgen.flow.filter import siblings


def self_consistency(
    *,
    field: FieldName = "answer",
    kind: Kind = "text",
    by: list[FieldName] | None = None,
    min_share: float = 0.0,
) -> Filter:
    """Drop answers with which too few of their samples agree; by default, drop none and keep the score. Costs
    nothing.

    Samples and final answers are defined as for `majority`; an answer agrees with itself. Measures the share.

    Options:
        field: the answer
        kind: how the final answer is read: number, choice, boxed or text
        by: fields whose values the samples of a question share; default: records of one parent
        min_share: smallest share of samples that agree with a kept answer
    """

    def measure(records: Sequence[Record]) -> list[float]:
        answers = [final_answer(record.text(field), kind) for record in records]
        votes = Counter(answers)
        return [0.0 if answer is None else votes[answer] / len(answers) for answer in answers]

    def decide(share: float) -> str | None:
        return None if share >= min_share else f"{share:.0%} of the samples agree < {min_share:.0%}"

    return Filter(measure, decide, together=siblings(by))
