"""Answers that are not the gold one, word for word (exact match: Rajpurkar et al. 2016, section 6.1)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from distillgen import FieldName, Filter, Record
from distillgen.answers import announced, golds, normalised


def exact(
    *, field: FieldName = "answer", gold: FieldName = "gold", normalise: bool = True, part: Literal["all", "announced"] = "all"
) -> Filter:
    """Drop answers that match none of the `gold` ones, after case, punctuation, articles and spaces are levelled.

    Without `normalise`, they must match to the letter. What is compared is all of the answer, or the `part` that it announces:
    "the answer is …". Measures whether there is one, whether it matches to the letter, and levelled. Costs nothing.
    """

    def compare(record: Record) -> dict[str, float]:
        wanted, text = golds(record.fields[gold]), str(record.fields[field]).strip()
        said = text if part == "all" else announced(text)
        if said is None:
            return {"golds": len(wanted), "answered": False, "exact": False, "normalised": False}
        same = {"exact": said in map(str.strip, wanted), "normalised": normalised(said) in map(normalised, wanted)}
        return {"golds": len(wanted), "answered": True, **same}

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare(record) for record in records]

    def decide(found: Mapping[str, Any]) -> str | None:
        if found["exact"] or normalise and found["normalised"]:
            return None
        if not found["golds"]:
            return f"no {gold} answer"
        if not found["answered"]:
            return "announces no answer"
        return f"not the {gold} answer to the letter" if found["normalised"] else f"not the {gold} answer"

    return Filter(measure, decide)
