"""Which of many items to take, by their vectors or groups: each gives all of them in the order of choice, so that the first
n are the choice of n. No matrix of n x n is held; a step costs one product of all vectors with one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

BLOCK = 1024  # rows of a product of vectors with vectors

Array = np.ndarray[Any, np.dtype[Any]]


def k_center(vectors: Array) -> Iterator[int]:
    """Always the one farthest from those chosen, from the most central on (Gonzalez 1985): no item is more than twice as far
    from the nearest chosen one as it would have to be.
    """
    chosen = int(_squared(vectors, vectors.mean(0)).argmin())
    distances = np.full(len(vectors), np.inf, vectors.dtype)
    for _ in range(len(vectors)):
        yield chosen
        np.minimum(distances, _squared(vectors, vectors[chosen]), out=distances)
        distances[chosen] = -1.0  # below every other for ever
        chosen = int(distances.argmax())


def herding(vectors: Array) -> Iterator[int]:
    """Always the one that brings the mean of the chosen nearest to the mean of all (Welling 2009; Rebuffi et al. 2017, iCaRL,
    algorithm 4).
    """
    mean, total = vectors.mean(0, dtype=np.float64), np.zeros(vectors.shape[1])
    norms, left = np.square(vectors).sum(1), np.zeros(len(vectors))
    for count in range(1, len(vectors) + 1):
        wanted = (count * mean - total).astype(vectors.dtype)
        chosen = int((2 * (vectors @ wanted) - norms + left).argmax())
        yield chosen
        left[chosen] = -np.inf
        total += vectors[chosen]


def facility_location(vectors: Array) -> Iterator[int]:
    """Always the one that adds most to the sum, over all items, of the cosine to the nearest chosen one (Nemhauser et al. 1978:
    at least 1 - 1/e of the best sum; Minoux 1978: gains only shrink, so few are computed anew). `vectors` have length 1.
    """
    covered = np.zeros(len(vectors), vectors.dtype)
    queue: list[tuple[float, int, int]] = []
    for start in range(0, len(vectors), BLOCK):
        gains = np.maximum(vectors @ vectors[start : start + BLOCK].T, 0).sum(0, dtype=np.float64)
        queue += [(-gain, start + i, 0) for i, gain in enumerate(gains.tolist())]
    heapq.heapify(queue)
    for count in range(len(vectors)):
        while True:
            _, chosen, at = queue[0]
            cosines = np.maximum(vectors @ vectors[chosen], covered)
            if at == count:
                break
            heapq.heapreplace(queue, (-float((cosines - covered).sum(dtype=np.float64)), chosen, count))
        heapq.heappop(queue)
        covered = cosines
        yield chosen


def in_turn(groups: Sequence[Sequence[int]], *, proportional: bool) -> Iterator[int]:
    """Groups taken in turn, each in its own order: equally often while they last, or, `proportional`, so that the first n are
    shared out by the groups' sizes as seats are by votes (Webster's method: off by less than one).
    """
    queue = [(0.5 / len(group) if proportional else 0.0, place, 0) for place, group in enumerate(groups)]
    heapq.heapify(queue)
    while queue:
        _, place, taken = queue[0]
        group = groups[place]
        yield group[taken]
        taken += 1
        if taken == len(group):
            heapq.heappop(queue)
        else:
            heapq.heapreplace(queue, ((taken + 0.5) / len(group) if proportional else float(taken), place, taken))


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
                _improve(best[row + 1 :], of[row + 1 :], among[row + 1 :, row : row + 1], np.array([start + row]))
    return leader, cosine


def _improve(best: Array, of: Array, cosines: Array, rows: Array) -> None:
    """Note where one of `rows` is more similar than what is known."""
    nearest = cosines.argmax(1)
    found = cosines[np.arange(len(nearest)), nearest]
    better = found > best
    best[better], of[better] = found[better], rows[nearest[better]]


def _squared(vectors: Array, point: Array) -> Array:
    """Squared distances to a point."""
    squares: Array = np.square(vectors).sum(1) - 2 * (vectors @ point) + point @ point
    return np.maximum(squares, 0, out=squares)
