"""Selection by gradient matching: items whose gradients together are like the gradient of all items
(Killamsetty et al. 2021, GRAD-MATCH, algorithm 2: orthogonal matching pursuit).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

STEPS = (0, 4, 16)  # steps of the probe's training at which gradients are compared
RATE = 4.0  # learning rate of the probe, for vectors of length 1
SWEEPS = 30  # of the coordinate descent for the weights


class ProbeGradients:
    """The gradients of each item in the last layer of a probe: softmax regression on the vectors.

    A gradient is the outer product of the error of the predicted classes and the vector. Only the two factors
    are held, for each of STEPS. `vectors` is n x d; `classes` holds a number from 0 for each item.
    """

    def __init__(self, vectors: Array, classes: Sequence[int]) -> None:
        """Train the probe, and keep the errors of its predictions on the way."""
        self._inputs = np.hstack([vectors, np.ones((len(vectors), 1))])
        right = np.eye(max(classes) + 1)[np.asarray(classes)]
        weights, errors = np.zeros((right.shape[1], self._inputs.shape[1])), []
        for step in range(max(STEPS) + 1):
            scores = self._inputs @ weights.T
            likelihoods = np.exp(scores - scores.max(1, keepdims=True))
            error = likelihoods / likelihoods.sum(1, keepdims=True) - right
            if step in STEPS:
                errors.append(error)
            weights -= RATE * error.T @ self._inputs / len(vectors)
        self._errors = errors

    def of(self, item: int) -> Array:
        """Return the gradient of an item, those of all STEPS one after the other."""
        return np.concatenate([np.outer(error[item], self._inputs[item]).ravel() for error in self._errors])

    def mean(self) -> Array:
        """Return the mean gradient of all items."""
        return np.concatenate([(error.T @ self._inputs).ravel() for error in self._errors]) / len(
            self._inputs
        )

    def along(self, direction: Array) -> Array:
        """Return the product of each item's gradient with a direction."""
        parts = np.split(direction, len(self._errors))
        total: Array = np.zeros(len(self._inputs))
        for error, part in zip(self._errors, parts, strict=True):
            total += ((self._inputs @ part.reshape(error.shape[1], -1).T) * error).sum(1)
        return total


def matching_weights(gradients: Array, target: Array, start: Array | None = None) -> Array:
    """Return weights of at least 0 with which the rows of `gradients` add up to nearly the target."""
    products, goal = gradients @ gradients.T, gradients @ target
    weights = np.zeros(len(gradients))
    if start is not None:
        weights[: len(start)] = start
    for _ in range(SWEEPS):
        for i in range(len(weights)):
            if products[i, i] > 0:
                weights[i] = max(0.0, weights[i] + (goal[i] - products[i] @ weights) / products[i, i])
    return weights


def gradient_matching(vectors: Array, classes: Sequence[int]) -> Iterator[int]:
    """Yield always the item whose gradient is most along what the mean gradient of all items has and the
    weighted gradients of the selected items lack.

    The time grows with the cube of the number of selected items.
    """
    probe = ProbeGradients(vectors, classes)
    target = probe.mean()
    rest, free = target.copy(), np.ones(len(vectors), bool)
    gradients, weights = np.empty((0, len(target))), np.empty(0)
    for _ in range(len(vectors)):
        chosen = int(np.where(free, probe.along(rest), -np.inf).argmax())
        yield chosen
        free[chosen] = False
        gradients = np.vstack([gradients, probe.of(chosen)])
        weights = matching_weights(gradients, target, weights)
        rest = target - weights @ gradients
