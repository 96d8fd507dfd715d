"""How diverse texts are: measures of a whole set. Compare only numbers of samples of one size."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any

from distillgen.text.ngrams import ngrams

Tokens = Sequence[Sequence[str]]


def distinct(texts: Tokens, n: int) -> float:
    """Distinct n-grams for each n-gram there is (Li et al. 2016, A Diversity-Promoting Objective Function, section 5): 1 where
    none comes twice.
    """
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def self_bleu(texts: Tokens, n: int = 4) -> float:
    """The mean BLEU of each text against all others (Zhu et al. 2018, Texygen, section 3): 1 where they repeat one another.

    BLEU as in Papineni et al. 2002, up to the n-grams that a text is long enough for; no match counts as a tenth of one.
    """
    texts = [text for text in texts if text]
    if len(texts) < 2:
        return 0.0
    lengths = sorted(map(len, texts))
    logs = [0.0] * len(texts)
    for size in range(1, n + 1):
        counts = [Counter(ngrams(text, size)) for text in texts]
        most: dict[
            tuple[str, ...], tuple[int, int, int]
        ] = {}  # the largest count, whose, and the largest of the others
        for i, own in enumerate(counts):
            for gram, count in own.items():
                first, whose, second = most.get(gram, (0, i, 0))
                most[gram] = (count, i, first) if count > first else (first, whose, max(second, count))
        for i, own in enumerate(counts):
            if own:
                known = sum(
                    min(count, most[gram][2 if most[gram][1] == i else 0]) for gram, count in own.items()
                )
                logs[i] += math.log(max(known, 0.1) / own.total())
    scores = []
    for text, log in zip(texts, logs, strict=True):
        brevity = min(0.0, 1 - _nearest_other(lengths, len(text)) / len(text))
        scores.append(math.exp(log / min(n, len(text)) + brevity))
    return sum(scores) / len(scores)


def vendi(vectors: Any) -> float:
    """The effective number of different items (Friedman and Dieng 2023, The Vendi Score, definition 3.1, cosine kernel): n for n
    orthogonal ones, 1 for n copies. `vectors` have length 1.
    """
    import numpy as np

    small = (
        vectors if vectors.shape[0] < vectors.shape[1] else vectors.T
    )  # the other Gram matrix has the same eigenvalues
    shares = np.linalg.eigvalsh(small.astype(np.float64) @ small.T.astype(np.float64) / len(vectors))
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def coverage(kept: Any, everything: Any) -> float:
    """How near what was kept comes to all there was: the mean, over `everything`, of the largest cosine to one of `kept`."""
    return float((everything @ kept.T).max(1).mean()) if len(kept) else 0.0


def _nearest_other(lengths: Sequence[int], own: int) -> int:
    """Of the sorted lengths, but for one that is `own`, the one nearest to it; the shorter of two."""
    at = bisect_left(lengths, own)
    others = [*lengths[max(0, at - 1) : at], *lengths[at + 1 : at + 2]]
    return min(others, key=lambda length: (abs(length - own), length))
