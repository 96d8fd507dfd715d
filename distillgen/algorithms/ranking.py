"""Figures of a ranking: normalised discounted cumulative gain, and the reciprocal rank.

Documents with equal scores are in every order at once: a figure is its mean over their orders, so that a
model that gives one score to all documents gains nothing by the order in which they are listed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby


def ndcg(scores: Sequence[float], relevance: Sequence[float], k: int | None = None) -> float | None:
    """Return the normalised discounted cumulative gain of the first `k` documents, or of all, from 0 to 1.

    The gain is the relevance, from 0 on, and is divided by log2(1 + rank) (Järvelin and Kekäläinen 2002, with
    that discount; McSherry and Najork 2008 for ties). None if no document is relevant.
    """
    best = _gain([[value] for value in sorted(relevance, reverse=True)], k)
    return min(1.0, _gain(_tied(scores, relevance), k) / best) if best else None


def _gain(ties: Sequence[Sequence[float]], k: int | None) -> float:
    total, rank = 0.0, 1
    for tie in ties:
        last = min(rank + len(tie), (k or math.inf) + 1)
        total += sum(tie) / len(tie) * sum(1 / math.log2(1 + place) for place in range(rank, int(last)))
        rank += len(tie)
    return total


def reciprocal_rank(
    scores: Sequence[float], relevance: Sequence[float], k: int | None = None
) -> float | None:
    """Return one over the rank of the first document whose relevance is above 0; 0 if it is beyond `k`
    (Voorhees 1999). None if no document is relevant.
    """
    if not any(value > 0 for value in relevance):
        return None
    before = 0
    for tie in _tied(scores, relevance):
        hits = sum(value > 0 for value in tie)
        if hits:
            return sum(
                math.comb(len(tie) - place, hits - 1) / math.comb(len(tie), hits) / (before + place)
                for place in range(1, len(tie) - hits + 2)
                if k is None or before + place <= k
            )
        before += len(tie)
    raise AssertionError("a relevant document has a place")


def _tied(scores: Sequence[float], relevance: Sequence[float]) -> list[list[float]]:
    """Return the relevance of documents by falling score, those of one score together."""

    def groups() -> Iterator[list[float]]:
        pairs = sorted(zip(scores, relevance, strict=True), key=lambda pair: -pair[0])
        for _, tie in groupby(pairs, key=lambda pair: pair[0]):
            yield [value for _, value in tie]

    return [*groups()]
