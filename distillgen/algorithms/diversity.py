"""Measures of how diverse a set of texts is. They depend on the size of the set: compare only sets of equal
size.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any

from distillgen.text.ngrams import ngrams

Tokens = Sequence[Sequence[str]]


def distinct(texts: Tokens, n: int) -> float:
    """Return the number of distinct n-grams divided by the number of n-grams (Li et al. 2016, A
    Diversity-Promoting Objective Function, section 5): 1 if no n-gram occurs twice.
    """
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def self_bleu(texts: Tokens, n: int = 4) -> float:
    """Return the mean BLEU of each text against all others (Zhu et al. 2018, Texygen, section 3): 1 if all
    are equal.

    BLEU is that of Papineni et al. 2002 with n-grams up to `n`, or up to the length of a shorter text; where
    no n-gram matches, 0.1 match is counted.
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
        ] = {}  # the largest count, the text that has it, and the largest count in the other texts
        for i, gram_counts in enumerate(counts):
            for gram, count in gram_counts.items():
                first, whose, second = most.get(gram, (0, i, 0))
                most[gram] = (count, i, first) if count > first else (first, whose, max(second, count))
        for i, gram_counts in enumerate(counts):
            if gram_counts:
                matches = sum(
                    min(count, most[gram][2 if most[gram][1] == i else 0])
                    for gram, count in gram_counts.items()
                )
                logs[i] += math.log(max(matches, 0.1) / gram_counts.total())
    scores = []
    for text, log in zip(texts, logs, strict=True):
        brevity = min(0.0, 1 - _nearest_other(lengths, len(text)) / len(text))
        scores.append(math.exp(log / min(n, len(text)) + brevity))
    return sum(scores) / len(scores)


def vendi(vectors: Any) -> float:
    """Return the effective number of different items (Friedman and Dieng 2023, The Vendi Score, definition
    3.1) with the cosine kernel: n for n orthogonal vectors, 1 for n equal ones. `vectors` is n x d, of rows
    with length 1.
    """
    import numpy as np

    small = (
        vectors if vectors.shape[0] < vectors.shape[1] else vectors.T
    )  # both Gram matrices have the same positive eigenvalues
    shares = np.linalg.eigvalsh(small.astype(np.float64) @ small.T.astype(np.float64) / len(vectors))
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def coverage(kept: Any, everything: Any) -> float:
    """Return the mean, over the rows of `everything`, of the largest cosine to a row of `kept`: 1 if nothing
    is lost.

    Both have rows of length 1.
    """
    return float((everything @ kept.T).max(1).mean()) if len(kept) else 0.0


def _nearest_other(lengths: Sequence[int], length: int) -> int:
    """Return the length nearest to `length` among the other texts; the shorter of two. Sorted `lengths`."""
    at = bisect_left(lengths, length)
    others = [*lengths[max(0, at - 1) : at], *lengths[at + 1 : at + 2]]
    return min(others, key=lambda other: (abs(other - length), other))
