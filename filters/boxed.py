r"""Compare the last \boxed{…} of an answer with the gold one (O1 Replication Journey, part 2, Huang et al.
2024).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.answers.compare import compare_boxed


def boxed(*, field: FieldName = "answer", gold: FieldName = "gold") -> Filter:
    r"""Drop answers without \boxed{…}, or whose last one differs from `gold`. Costs nothing.

    Spelling does not matter: \dfrac12, 0.5 and \frac{1}{2} are equal. Different expressions of equal value
    are not equal; use `symbolic` to compare those. Gold is an expression, a text with a \boxed{…}, or a list
    of either. Measures whether there is a box and whether it is right.

    Options:
        field: the text with the answer
        gold: the right answer, or a list of right answers
    """

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare_boxed(r.text(field), r.fields[gold]).numbers for r in records]

    def decide(numbers: Mapping[str, Any]) -> str | None:
        if not numbers["golds"]:
            return f"the {gold} answer is empty"
        if not numbers["answered"]:
            return "no \\boxed{…} in it"
        return None if numbers["right"] else f"another \\boxed{{…}} than the {gold} answer"

    return Filter(measure, decide)
