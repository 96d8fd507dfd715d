"""BM25, which ranks texts by the words that they share with a query."""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence

from distillgen.text.words import words

K1, B = 1.5, 0.75


class Bm25:
    """An index of texts by their words (Robertson and Zaragoza 2009, The Probabilistic Relevance Framework).

    The weight of a word is that of Lucene: log(1 + (N - n + 0.5) / (n + 0.5)), which is never negative.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        counts_by_text = [Counter(words(text)) for text in texts]
        lengths = [counts.total() for counts in counts_by_text]
        mean = sum(lengths) / max(1, len(lengths)) or 1.0
        self._places: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self._scores: dict[str, array[float]] = defaultdict(lambda: array("d"))
        for place, counts in enumerate(counts_by_text):
            norm = K1 * (1 - B + B * lengths[place] / mean)
            for word, count in counts.items():
                self._places[word].append(place)
                self._scores[word].append(count * (K1 + 1) / (count + norm))
        for word, scores in self._scores.items():
            weight = math.log(1 + (len(texts) - len(scores) + 0.5) / (len(scores) + 0.5))
            self._scores[word] = array("d", [score * weight for score in scores])

    def scores(self, query: str) -> dict[int, float]:
        """Return the scores of the texts that share a word with the query, by the places of the texts."""
        scores = defaultdict[int, float](float)
        for word in dict.fromkeys(words(query)):
            if word in self._places:
                for place, score in zip(self._places[word], self._scores[word], strict=True):
                    scores[place] += score
        return scores
