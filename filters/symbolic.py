"""Answers that computer algebra (math-verify) does not find equal to the gold one."""

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.answers.algebra import LATE, VERDICTS, compare_expressions
from distillgen.extras import need


def symbolic(
    *, field: FieldName = "answer", gold: FieldName = "gold", lenient: bool = True, timeout_s: float = 5.0
) -> Filter:
    r"""Drop answers that computer algebra does not find equal to `gold`, or to one of a list. Costs some 20
    ms a record.

    Compares expressions, sets, intervals, equations and matrices, in LaTeX or plain notation. The answer is
    the last \boxed{…}, the announced expression or, unless `lenient` is false, the end of the text. A
    comparison that takes longer than `timeout_s` drops the record. Measures the verdict. Comparisons run in a
    process of their own.

    Options:
        field: the text with the answer
        gold: the right answer, or a list of right answers
        lenient: whether the text's end counts where no answer is announced or boxed
        timeout_s: longest time for one comparison, in seconds
    """
    need("symbolic", "math_verify")

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        texts, gold_values = [r.text(field) for r in records], [r.fields[gold] for r in records]
        return [
            comparison.numbers
            for comparison in compare_expressions(texts, gold_values, lenient=lenient, timeout_s=timeout_s)
        ]

    def decide(numbers: Mapping[str, Any]) -> str | None:
        if numbers["right"]:
            return None
        if not numbers["golds"]:
            return f"the {gold} answer is no expression"
        if VERDICTS[int(numbers["verdict"])] == LATE:
            return f"not compared within {timeout_s:g} s"
        if not numbers["answered"]:
            return "no expression in it" if lenient else "announces no expression"
        return f"not equal to the {gold} answer"

    depends_on = {"version": 1, "field": field, "gold": gold, "lenient": lenient, "timeout_s": timeout_s}
    return Filter(measure, decide, depends_on=depends_on)
