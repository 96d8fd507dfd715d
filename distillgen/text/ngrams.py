"""N-grams: runs of n words or characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice


def ngrams(tokens: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """Yield the n-grams of a text in order; none where it has fewer than `n` tokens."""
    return zip(*(islice(tokens, start, None) for start in range(n)), strict=False)


def ngram_hashes(tokens: Sequence[str], n: int) -> Iterator[int]:
    """Yield the hashes of the n-grams, which take less memory. Hashes of strings differ from process to
    process.
    """
    return map(hash, ngrams(tokens, n))
