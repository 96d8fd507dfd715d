"""The entries of a memory, and the ways to choose some of them for a record."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from distillgen.algorithms.bm25 import Bm25
from distillgen.algorithms.name_graph import connections, mentioned
from distillgen.record import Record, digest

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


def word_matches(record: Record, query: str, index: Bm25, eligibility: Eligibility, k: int) -> Hits:
    """Return the `k` entries with the greatest BM25; equal ones stay in order."""
    scores = index.scores(query)
    ranked = sorted(scores, key=lambda place: (-scores[place], place))
    return eligibility.best(record, ((place, round(scores[place], 4)) for place in ranked), k)


def nearest(
    record: Record, vector: Array, keys: Array, eligibility: Eligibility, k: int, bounds: tuple[float, float]
) -> Hits:
    """Return the `k` entries with the greatest cosine within `bounds`; equal ones stay in order.

    `keys` has a row for each entry. A cosine of 0 or less is no match.
    """
    near = keys @ vector
    least, most = bounds
    return eligibility.best(record, _descending(near, k, least, most), k)


def _descending(near: Array, k: int, least: float, most: float) -> Iterator[tuple[int, float]]:
    """Yield the numbers and cosines in descending order. Sort only as many as are needed."""
    import numpy as np

    begin, end = 0, min(len(near), 4 * k)
    while begin < len(near):
        threshold = np.partition(near, len(near) - end)[len(near) - end] if end < len(near) else -np.inf
        candidates = np.flatnonzero(near >= threshold)
        order = candidates[np.argsort(-near[candidates], kind="stable")]
        for place in order[begin:].tolist():
            cosine = float(near[place])
            if cosine <= 0 or cosine < least:
                return
            if cosine <= most:
                yield place, round(cosine, 4)
        begin, end = len(order), min(len(near), 4 * max(end, len(order)))


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
