"""Planted queries and documents: a document is relevant by the topics that it shares with its query."""

import random
from collections.abc import Iterator
from typing import Any


def rankings(
    *, seed: int, train: int = 240, test: int = 60, topics: int = 10, documents: int = 10, offset: float = 4.0
) -> Iterator[dict[str, Any]]:
    """Yield `test` queries with documents and `relevance`, then pairs and triples of `train` queries.

    A topic has two words. A query has a word of each of three topics; a document has six words, and its
    relevance is the number of shared topics. The teacher's score is 4 times that, plus one number for each
    query, of standard deviation `offset`, plus noise: its level says nothing, its margins do. A pair has a
    document and its `score`, divided by 20. A triple has two documents, `left` and `right`, and the `margin`
    of their scores; `better` and `worse` are the same two in the teacher's order.
    """
    chance = random.Random(seed)
    words = [[f"{first}{last}" for last in ("an", "or")] for first in _names(topics)]
    for place in range(train + test):
        subjects = chance.sample(range(topics), 3)
        others = [topic for topic in range(topics) if topic not in subjects]
        query = " ".join(chance.choice(words[topic]) for topic in subjects)
        level, row = chance.gauss(0, offset), {"query": query, "split": "test" if place < test else "train"}
        relevance = [number % 4 for number in range(documents)]
        chance.shuffle(relevance)
        texts = []
        for shared in relevance:
            of_document = chance.sample(subjects, shared) + chance.sample(others, 6 - shared)
            chance.shuffle(of_document)
            texts.append(" ".join(chance.choice(words[topic]) for topic in of_document))
        if place < test:
            yield row | {"kind": "query", "documents": texts, "relevance": relevance}
            continue
        scores = [4 * shared + level + chance.gauss(0, 0.5) for shared in relevance]
        for text, score in zip(texts, scores, strict=True):
            yield row | {"kind": "pair", "document": text, "score": score / 20}
        for _ in range(documents // 2):
            left, right = chance.sample(range(documents), 2)
            better, worse = sorted((left, right), key=lambda number: -scores[number])
            yield row | {
                "kind": "triple",
                "left": texts[left],
                "right": texts[right],
                "margin": scores[left] - scores[right],
                "better": texts[better],
                "worse": texts[worse],
            }


def _names(number: int) -> list[str]:
    """Return as many beginnings of made-up words."""
    return [a + b + c for c in "ltm" for a in "bdgkprs" for b in "aiou"][:number]
