"""Rankings of documents by the first relevant one: the mean reciprocal rank (Voorhees 1999)."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from distillgen import FieldName, Filter, Record
from distillgen.algorithms.ranking import reciprocal_rank as rank_of
from distillgen.answers.ranked_lists import ranking_numbers


def reciprocal_rank(
    *,
    scores: FieldName | None = "answer",
    relevance: FieldName = "relevance",
    k: Annotated[int, Field(ge=1)] | None = None,
    min_rank: float = 0.0,
) -> Filter:
    """Drop queries whose first relevant document has a reciprocal rank below `min_rank`. Costs nothing.

    A record is a query with lists of the scores and of the relevance of its documents, in one order. A
    document is relevant if its relevance is above 0; documents of equal score share their ranks. As a metric
    of `evaluate` its value is the reciprocal rank, whose mean is the MRR, and not whether the record is kept.
    A record without a list of as many scores has a reciprocal rank of 0; one without a relevant document has
    none, and is dropped.

    Options:
        scores: the scores, as a list or the JSON text of one; null: the documents stand in the order of
            the ranking
        relevance: the relevance of each document, from 0 on
        k: last rank that counts; beyond it the reciprocal rank is 0; null: all
        min_rank: smallest reciprocal rank of a kept query
    """

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [
            ranking_numbers("reciprocal_rank", rank_of, record.fields, scores, relevance, k)
            for record in records
        ]

    def decide(numbers: Mapping[str, Any]) -> str | None:
        if "reciprocal_rank" not in numbers:
            return f"'{relevance}' holds no relevant document"
        if not numbers["scored"]:
            return f"'{scores}' holds no list of as many scores as there are documents"
        value = numbers["reciprocal_rank"]
        return None if value >= min_rank else f"reciprocal rank {value:.3f} < {min_rank:g}"

    return Filter(measure, decide, metric="reciprocal_rank")
