"""Answers that match the gold one word for word (exact match, Rajpurkar et al. 2016, section 6.1)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from distillgen import FieldName, Filter, Record
from distillgen.answers.compare import compare_texts


def exact(
    *,
    field: FieldName = "answer",
    gold: FieldName = "gold",
    normalise: bool = True,
    min_f1: float | None = None,
    part: Literal["all", "announced"] = "all",
) -> Filter:
    """Drop answers that match no `gold` answer, after case, punctuation, articles and spaces are normalised.

    With `normalise: false`, they must match to the letter. With `min_f1`, a token F1 of at least that is
    enough. Compares the whole answer, or the `part` that it announces: "the answer is …". Measures whether
    there is an answer, whether it matches normalised and to the letter, and the F1. Costs nothing.

    Options:
        field: the answer
        gold: the right answer, or a list of right answers
        normalise: whether case, punctuation, articles and spaces are levelled before answers are
            compared
        min_f1: token F1 from which an answer is right; default: all words must match
        part: the part to compare: all of the answer, or the part that it announces
    """
    if min_f1 is not None and not normalise:
        raise ValueError("'min_f1' compares levelled words, and normalise: false forbids that")

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare_texts(r.text(field), r.fields[gold], part=part).numbers for r in records]

    def decide(numbers: Mapping[str, Any]) -> str | None:
        if not numbers["golds"]:
            return f"no {gold} answer"
        if not numbers["answered"]:
            return "announces no answer"
        if numbers["exact"] or normalise and numbers["right"]:
            return None
        if min_f1 is not None:
            return (
                None
                if numbers["f1"] >= min_f1
                else f"F1 {numbers['f1']:.2f} with the {gold} answer < {min_f1:g}"
            )
        return f"not the {gold} answer to the letter" if numbers["right"] else f"not the {gold} answer"

    return Filter(measure, decide)
