"""Answers that computer algebra (math-verify) does not find equal to the gold one."""

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.algebra import EQUAL, GOLD_UNREADABLE, LATE, UNREADABLE, VERDICTS, equality, need_math_verify
from distillgen.answers import announced, boxed, golds

TAIL = 300  # characters of an answer that announces none


def symbolic(*, field: FieldName = "answer", gold: FieldName = "gold", lenient: bool = True, timeout_s: float = 5.0) -> Filter:
    r"""Drop answers that computer algebra does not find equal to the `gold` one, or to one of a list.

    Compared are expressions, sets, intervals, equations and matrices, in LaTeX or plain notation: in the last \boxed{…}, what is
    announced, or, unless `lenient` is false, the end. What takes longer than `timeout_s` is dropped. Measures the verdict.
    Costs some 20 ms a record, in a process of its own.
    """
    need_math_verify()

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        wanted = [golds(record.fields[gold]) for record in records]
        said = [final(str(record.fields[field])) for record in records]
        both = list(zip(said, wanted, strict=True))
        verdicts = iter(equality([(text, inside(each)) for text, own in both if text for each in own], timeout_s=timeout_s))
        return [compare(text, [next(verdicts) if text else UNREADABLE for _ in own]) for text, own in both]

    def final(text: str) -> str:
        return announced(text) or (text.strip()[-TAIL:] if lenient else "")

    def inside(text: str) -> str:
        return boxed(text) or text

    def compare(text: str, verdicts: list[str]) -> dict[str, float]:
        """The best of the verdicts, by its place among them."""
        best = min((VERDICTS.index(verdict) for verdict in verdicts), default=VERDICTS.index(GOLD_UNREADABLE))
        return {"answered": bool(text), "verdict": best}

    def decide(found: Mapping[str, Any]) -> str | None:
        verdict = VERDICTS[int(found["verdict"])]
        if verdict == GOLD_UNREADABLE:
            return f"the {gold} answer is no expression"
        if verdict == UNREADABLE:
            return "no expression in it" if found["answered"] else "announces no answer"
        if verdict == LATE:
            return f"not compared within {timeout_s:g} s"
        return None if verdict == EQUAL else f"not equal to the {gold} answer"

    depends_on = {"version": 1, "field": field, "gold": gold, "lenient": lenient, "timeout_s": timeout_s}
    return Filter(measure, decide, depends_on=depends_on)
