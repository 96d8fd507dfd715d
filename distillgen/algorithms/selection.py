"""Selections of items by their vectors or groups. Each function yields all items in the order of choice, so
that the first n are the selection of n. `vectors` is n x d; no function holds an n x n matrix.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

BLOCK = 1024  # rows of a product of vectors with vectors
SAMPLE = 32
MOST_ROUNDS = 100  # of k-means

Array = np.ndarray[Any, np.dtype[Any]]


def k_center(vectors: Array) -> Iterator[int]:
    """Yield, from the most central item on, always the item farthest from the selected ones (Gonzalez 1985).

    The largest distance of an item to the nearest selected one is at most twice the optimum.
    """
    norms = _norms(vectors)
    chosen = int((norms - 2 * (vectors @ vectors.mean(0))).argmin())
    distances = np.full(len(vectors), np.inf, vectors.dtype)  # squared
    for _ in range(len(vectors)):
        yield chosen
        np.minimum(
            distances, np.maximum(norms - 2 * (vectors @ vectors[chosen]) + norms[chosen], 0), out=distances
        )
        distances[chosen] = -1.0  # never the largest again
        chosen = int(distances.argmax())


def herding(vectors: Array) -> Iterator[int]:
    """Yield always the item that brings the mean of the selected items nearest to the mean of all (Welling
    2009; Rebuffi et al. 2017, iCaRL, algorithm 4).
    """
    mean, total = vectors.mean(0, dtype=np.float64), np.zeros(vectors.shape[1])
    norms, removed = _norms(vectors), np.zeros(len(vectors))
    for count in range(1, len(vectors) + 1):
        target = (count * mean - total).astype(vectors.dtype)
        chosen = int((2 * (vectors @ target) - norms + removed).argmax())
        yield chosen
        removed[chosen] = -np.inf
        total += vectors[chosen]


def facility_location(vectors: Array, count: int, seed: int = 0) -> Iterator[int]:
    """Yield always the item that adds most to the sum, over all items, of the cosine to the nearest selected
    item. `vectors` has rows of length 1; `count` is the size of the selection.

    For sets of up to SAMPLE items this is the greedy choice, whose sum is at least 1 - 1/e of the optimum
    (Nemhauser et al. 1978). For larger sets it is the best of a random sample, whose size falls with `count`:
    0.05 less in expectation, at the cost of three products of all vectors with all (Mirzasoleiman et al.
    2015, Lazier Than Lazy Greedy, theorem 1). Lazy evaluation alone has no such bound: with vectors in all
    directions, nearly every gain is computed again for every choice.
    """
    chance, rest = np.random.default_rng(seed), np.arange(len(vectors))
    covered = np.zeros(len(vectors), vectors.dtype)
    size = max(SAMPLE, math.ceil(len(vectors) / max(1, count) * math.log(1 / 0.05)))
    while len(rest):
        places = (
            chance.choice(len(rest), size, replace=False, shuffle=False)
            if size < len(rest)
            else np.arange(len(rest))
        )
        candidates, gains = vectors[rest[places]], np.zeros(len(places))
        for start in range(0, len(vectors), BLOCK):
            rows = slice(start, start + BLOCK)
            gains += np.maximum(vectors[rows] @ candidates.T - covered[rows, None], 0).sum(0)
        place = places[gains.argmax()]
        chosen = int(rest[place])
        yield chosen
        covered = np.maximum(covered, vectors @ vectors[chosen])
        rest = np.delete(rest, place)


def in_turn(groups: Sequence[Sequence[int]], *, proportional: bool) -> Iterator[int]:
    """Yield the items of the groups in turn, each group in its own order.

    The groups take turns equally often until they are used up. With `proportional`, the first n items, for
    every n, hold of each group its share by size within less than one item (Tijdeman 1980, The chairman
    assignment problem).
    """
    if not proportional:
        most = max(map(len, groups), default=0)
        yield from (group[position] for position in range(most) for group in groups if position < len(group))
        return
    sizes, total, parts = [len(group) for group in groups], sum(map(len, groups)), max(1, 2 * len(groups) - 2)

    def first(place: int, position: int) -> tuple[int, int, int]:
        """Return the first turn in which a group may have its next item: 1 / parts of that item is due by
        then.
        """
        return -(-(position * parts + 1) * total // (parts * sizes[place])), place, position

    early, due = [first(place, 0) for place, size in enumerate(sizes) if size], list[tuple[float, int, int]]()
    heapq.heapify(early)
    for turn in range(1, total + 1):
        while early and early[0][0] <= turn:
            _, place, position = heapq.heappop(early)
            heapq.heappush(
                due, (((position + 1) * parts - 1) / sizes[place], place, position)
            )  # the last turn, times a constant
        _, place, position = heapq.heappop(due)
        yield groups[place][position]
        if position + 1 < sizes[place]:
            heapq.heappush(early, first(place, position + 1))


def leaders(vectors: Array, min_cosine: float) -> tuple[Array, Array]:
    """Return for each vector the row of its leader, and the cosine to it (leader clustering, Hartigan 1975).

    The leader is the most similar earlier leader with a cosine of at least `min_cosine`; a vector without one
    becomes a leader. So the cosine of two leaders is below `min_cosine`. `vectors` has rows of length 1.
    """
    leader, cosine = np.arange(len(vectors)), np.ones(len(vectors), vectors.dtype)
    leading: list[int] = []
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        best, of = np.full(len(block), -2, vectors.dtype), np.zeros(len(block), np.int64)
        for first in range(0, len(leading), BLOCK):
            rows = np.array(leading[first : first + BLOCK])
            _improve(best, of, block @ vectors[rows].T, rows)
        among = block @ block.T
        for row in range(len(block)):
            if best[row] >= min_cosine:
                leader[start + row], cosine[start + row] = of[row], best[row]
            else:
                leading.append(start + row)
                _improve(
                    best[row + 1 :], of[row + 1 :], among[row + 1 :, row : row + 1], np.array([start + row])
                )
    return leader, cosine


def k_means(vectors: Array, k: int) -> Array:
    """Return the cluster of each vector, from 0 on: the one with the most similar mean (spherical k-means,
    Dhillon and Modha 2001). `vectors` has rows of length 1.

    The first means are those that `k_center` selects, so that equal vectors give equal clusters. Clusters are
    numbered in the order of their first vectors; there are fewer than `k` if fewer vectors differ.
    """
    means = vectors[list(islice(k_center(vectors), k))]
    nearest = (vectors @ means.T).argmax(1)
    for _ in range(MOST_ROUNDS):
        for cluster in set(nearest.tolist()):
            total = vectors[nearest == cluster].sum(0)
            means[cluster] = total / max(float(np.linalg.norm(total)), 1e-12)
        before, nearest = nearest, (vectors @ means.T).argmax(1)
        if (nearest == before).all():
            break
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(nearest.tolist()))}
    return np.array([numbers[cluster] for cluster in nearest.tolist()], np.int64)


def _improve(best: Array, of: Array, cosines: Array, rows: Array) -> None:
    """Update the largest cosines, and the rows that they belong to, with the cosines to `rows`."""
    nearest = cosines.argmax(1)
    largest = cosines[np.arange(len(nearest)), nearest]
    better = largest > best
    best[better], of[better] = largest[better], rows[nearest[better]]


def _norms(vectors: Array) -> Array:
    """Return the squared length of each vector."""
    norms: Array = np.einsum("ij,ij->i", vectors, vectors)
    return norms
