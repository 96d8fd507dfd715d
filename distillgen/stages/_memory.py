"""The entries of a memory, and the ways to choose some of them for a record."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from distillgen.algorithms.name_graph import connections, mentioned
from distillgen.record import Record, digest
from distillgen.text.words import words

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

Hits: TypeAlias = list[tuple[int, float]]
"""The numbers of entries, the best first, with their scores."""


@dataclass(frozen=True)
class Entry:
    """The fields of an entry, and the item that it is about."""

    fields: Mapping[str, Any]
    item: str


@dataclass(frozen=True)
class Eligibility:
    """The entries that a record may receive."""

    entries: Sequence[Entry]
    others: bool = False
    """Whether entries about the record's own item are left out."""
    within: str | None = None
    """The field that has the same value in the record and the entry."""
    across: str | None = None
    """The field whose value differs."""

    def allows(self, record: Record, place: int) -> bool:
        """Return whether a record may receive the entry of a number."""
        entry = self.entries[place]
        if self.others and entry.item == record.item:
            return False
        if self.within and entry.fields.get(self.within) != record.fields.get(self.within):
            return False
        return not (self.across and entry.fields.get(self.across) == record.fields.get(self.across))

    def best(self, record: Record, ranked: Iterator[tuple[int, float]], k: int) -> Hits:
        """Return the first `k` of the ranked entries that the record may receive."""
        hits: Hits = []
        for place, score in ranked:
            if len(hits) == k:
                break
            if self.allows(record, place):
                hits.append((place, score))
        return hits


def drawn(record: Record, eligibility: Eligibility, k: int, *seed: Any) -> Hits:
    """Return `k` entries at random, without repetition, that depend on the seed and the record alone."""
    draw = random.Random(digest([*seed, record.id]))
    places = _shuffled(len(eligibility.entries), draw)
    return eligibility.best(record, ((place, 0.0) for place in places), k)


def _shuffled(count: int, draw: random.Random) -> Iterator[int]:
    """Yield the numbers below `count` in random order; the first ones cost no more than they are."""
    swapped: dict[int, int] = {}
    for i in range(count):
        other = draw.randrange(i, count)
        yield swapped.get(other, other)
        swapped[other] = swapped.get(i, i)


def word_index(texts: Sequence[str]) -> Any:
    """Return a BM25 index of the words of texts (Robertson and Zaragoza 2009)."""
    from bm25s import BM25

    index = BM25()
    index.index([words(text) or ["\0"] for text in texts], show_progress=False)
    return index


def word_matches(record: Record, query: str, index: Any, eligibility: Eligibility, k: int) -> Hits:
    """Return the `k` entries with the greatest BM25; equal ones stay in order."""
    query_words = [word for word in words(query) if word in index.vocab_dict]
    if not query_words:
        return []
    ranked = _descending(index.get_scores(query_words), k, 0.0, math.inf)
    return eligibility.best(record, ranked, k)


def nearest(
    record: Record, vector: Array, keys: Array, eligibility: Eligibility, k: int, bounds: tuple[float, float]
) -> Hits:
    """Return the `k` entries with the greatest cosine within `bounds`; equal ones stay in order.

    `keys` has a row for each entry. A cosine of 0 or less is no match.
    """
    near = keys @ vector
    least, most = bounds
    return eligibility.best(record, _descending(near, k, least, most), k)


def _descending(scores: Array, k: int, least: float, most: float) -> Iterator[tuple[int, float]]:
    """Yield the numbers and scores above 0 in descending order. Sort only as many as are needed."""
    import numpy as np

    begin, end = 0, min(len(scores), 4 * k)
    while begin < len(scores):
        threshold = (
            np.partition(scores, len(scores) - end)[len(scores) - end] if end < len(scores) else -np.inf
        )
        candidates = np.flatnonzero(scores >= threshold)
        order = candidates[np.argsort(-scores[candidates], kind="stable")]
        for place in order[begin:].tolist():
            score = float(scores[place])
            if score <= 0 or score < least:
                return
            if score <= most:
                yield place, round(score, 4)
        begin, end = len(order), min(len(scores), 4 * max(end, len(order)))


def edge_finder(ends: Sequence[tuple[str, str]], k: int) -> Callable[[str], list[int]]:
    """Return a function that gives the numbers of at most `k` edges on the shortest paths between the nodes
    that a query names.
    """
    import networkx as nx

    places = defaultdict[frozenset[str], list[int]](list)
    for i, edge in enumerate(ends):
        places[frozenset(edge)].append(i)
    graph = nx.Graph()
    graph.add_edges_from((*edge, {"count": len(places[frozenset(edge)])}) for edge in ends)

    def edges_for(query: str) -> list[int]:
        edges = connections(graph, mentioned(graph, query), k)
        return [i for edge in edges for i in places[frozenset(edge)]][:k]

    return edges_for
