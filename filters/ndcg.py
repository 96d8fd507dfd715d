"""Rankings of documents by their relevance: normalised discounted cumulative gain (Järvelin and Kekäläinen
2002).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from distillgen import FieldName, Filter, Record
from distillgen.algorithms.ranking import ndcg as gain_of
from distillgen.answers.ranked_lists import ranking_numbers


def ndcg(
    *,
    scores: FieldName | None = "answer",
    relevance: FieldName = "relevance",
    k: Annotated[int, Field(ge=1)] | None = 10,
    min_ndcg: float = 0.0,
) -> Filter:
    """Drop queries whose documents are ranked with a smaller NDCG than `min_ndcg`. Costs nothing.

    A record is a query with lists of the scores and of the relevance of its documents, in one order. The gain
    is the relevance, divided by log2(1 + rank); documents of equal score share their ranks. As a metric of
    `evaluate` its value is the NDCG, and not whether the record is kept. A record without a list of as many
    scores has an NDCG of 0; one without a relevant document has none, and is dropped.

    Options:
        scores: the scores, as a list or the JSON text of one; null: the documents stand in the order of
            the ranking
        relevance: the relevance of each document, from 0 on
        k: number of documents from the first on that count; null: all
        min_ndcg: smallest NDCG of a kept query
    """

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [ranking_numbers("ndcg", gain_of, record.fields, scores, relevance, k) for record in records]

    def decide(numbers: Mapping[str, Any]) -> str | None:
        if "ndcg" not in numbers:
            return f"'{relevance}' holds no relevant document"
        if not numbers["scored"]:
            return f"'{scores}' holds no list of as many scores as there are documents"
        value = numbers["ndcg"]
        return None if value >= min_ndcg else f"NDCG {value:.3f} < {min_ndcg:g}"

    return Filter(measure, decide, metric="ndcg")
