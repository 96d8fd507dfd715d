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
        np.minimum(distances, np.maximum(norms - 2 * (vectors @ vectors[chosen]) + norms[chosen], 0), out=distances)
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
        places = chance.choice(len(left), size, replace=False, shuffle=False) if size < len(left) else np.arange(len(left))
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


def _norms(vectors: Array) -> Array:
    """Their squared lengths."""
    norms: Array = np.einsum("ij,ij->i", vectors, vectors)
    return norms
