"""Which of many items to take, by their vectors or groups: each gives all of them in the order of choice, so that the first
n are the choice of n. No matrix of n x n is held.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

BLOCK = 1024  # rows of a product of vectors with vectors
SAMPLE = 32

Array = np.ndarray[Any, np.dtype[Any]]


def k_center(vectors: Array) -> Iterator[int]:
    """Always the one farthest from those chosen, from the most central on (Gonzalez 1985): no item is more than twice as far
    from the nearest chosen one as it would have to be.
    """
    norms = _norms(vectors)
    chosen = int((norms - 2 * (vectors @ vectors.mean(0))).argmin())
    distances = np.full(len(vectors), np.inf, vectors.dtype)  # squared
    for _ in range(len(vectors)):
        yield chosen
        np.minimum(
            distances, np.maximum(norms - 2 * (vectors @ vectors[chosen]) + norms[chosen], 0), out=distances
        )
        distances[chosen] = -1.0  # below every other for ever
        chosen = int(distances.argmax())


def herding(vectors: Array) -> Iterator[int]:
    """Always the one that brings the mean of the chosen nearest to the mean of all (Welling 2009; Rebuffi et al. 2017, iCaRL,
    algorithm 4).
    """
    mean, total = vectors.mean(0, dtype=np.float64), np.zeros(vectors.shape[1])
    norms, left = _norms(vectors), np.zeros(len(vectors))
    for count in range(1, len(vectors) + 1):
        wanted = (count * mean - total).astype(vectors.dtype)
        chosen = int((2 * (vectors @ wanted) - norms + left).argmax())
        yield chosen
        left[chosen] = -np.inf
        total += vectors[chosen]


def facility_location(vectors: Array, wanted: int, seed: int = 0) -> Iterator[int]:
    """Always the one that adds most to the sum, over all items, of the cosine to the nearest chosen one. `vectors` have length 1.

    For sets of up to SAMPLE the plain greedy choice: at least 1 - 1/e of the best sum (Nemhauser et al. 1978). For larger ones
    the best of a sample that shrinks as more are `wanted`: 0.05 less in expectation, and three products of all with all
    altogether (Mirzasoleiman et al. 2015, Lazier Than Lazy Greedy, theorem 1). Lazy evaluation alone has no such bound: with
    vectors in all directions, nearly every gain is computed anew for every choice.
    """
    chance, left = np.random.default_rng(seed), np.arange(len(vectors))
    covered = np.zeros(len(vectors), vectors.dtype)
    size = max(SAMPLE, math.ceil(len(vectors) / max(1, wanted) * math.log(1 / 0.05)))
    while len(left):
        places = (
            chance.choice(len(left), size, replace=False, shuffle=False)
            if size < len(left)
            else np.arange(len(left))
        )
        candidates, gains = vectors[left[places]], np.zeros(len(places))
        for start in range(0, len(vectors), BLOCK):
            rows = slice(start, start + BLOCK)
            gains += np.maximum(vectors[rows] @ candidates.T - covered[rows, None], 0).sum(0)
        place = places[gains.argmax()]
        chosen = int(left[place])
        yield chosen
        covered = np.maximum(covered, vectors @ vectors[chosen])
        left = np.delete(left, place)


def in_turn(groups: Sequence[Sequence[int]], *, proportional: bool) -> Iterator[int]:
    """Groups taken in turn, each in its own order: equally often while they last, or, `proportional`, so that of the
    first n, for every n, each group has its size's share but for less than one (Tijdeman 1980, The chairman
    assignment problem).
    """
    if not proportional:
        most = max(map(len, groups), default=0)
        yield from (group[taken] for taken in range(most) for group in groups if taken < len(group))
        return
    sizes, total, parts = [len(group) for group in groups], sum(map(len, groups)), max(1, 2 * len(groups) - 2)

    def first(place: int, taken: int) -> tuple[int, int, int]:
        """The first turn in which it may be a group's for the next time: by then 1 / parts of it is due."""
        return -(-(taken * parts + 1) * total // (parts * sizes[place])), place, taken

    early, due = [first(place, 0) for place, size in enumerate(sizes) if size], list[tuple[float, int, int]]()
    heapq.heapify(early)
    for turn in range(1, total + 1):
        while early and early[0][0] <= turn:
            _, place, taken = heapq.heappop(early)
            heapq.heappush(
                due, (((taken + 1) * parts - 1) / sizes[place], place, taken)
            )  # the last turn, but for a factor
        _, place, taken = heapq.heappop(due)
        yield groups[place][taken]
        if taken + 1 < sizes[place]:
            heapq.heappush(early, first(place, taken + 1))


def leaders(vectors: Array, min_cosine: float) -> tuple[Array, Array]:
    """For each vector, of length 1, the row of its leader, and the cosine to it: of the leaders before it the most similar, if
    `min_cosine` or more; otherwise it leads itself (leader clustering, Hartigan 1975). Two leaders are never that similar.
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


def _improve(best: Array, of: Array, cosines: Array, rows: Array) -> None:
    """Note where one of `rows` is more similar than what is known."""
    nearest = cosines.argmax(1)
    found = cosines[np.arange(len(nearest)), nearest]
    better = found > best
    best[better], of[better] = found[better], rows[nearest[better]]


def _norms(vectors: Array) -> Array:
    """Their squared lengths."""
    norms: Array = np.einsum("ij,ij->i", vectors, vectors)
    return norms
