"""Gradient matching chooses items that stand for all: their gradients, and what a student learns of them."""

from itertools import islice

import numpy as np
import pytest

from distillgen.algorithms.gradient_matching import ProbeGradients, gradient_matching, matching_weights


def classes_on_a_sphere(seed, n=2000, d=16):
    chance = np.random.default_rng(seed)
    classes = chance.integers(0, 4, n)
    vectors = chance.normal(size=(4, d))[classes] + chance.normal(size=(n, d))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), classes.tolist()


def mismatch(probe, items, weights=None):
    """The length of what the items' gradients lack of the mean gradient, as a share of it."""
    gradients, target = np.array([probe.of(i) for i in items]), probe.mean()
    weights = np.full(len(items), 1 / len(items)) if weights is None else weights(gradients, target)
    return np.linalg.norm(target - weights @ gradients) / np.linalg.norm(target)


def test_gradient_matching_beats_random_subsets_with_the_best_weights():
    vectors, classes = classes_on_a_sphere(0)
    probe = ProbeGradients(vectors, classes)
    assert np.allclose(probe.mean(), np.mean([probe.of(i) for i in range(2000)], 0))
    assert probe.along(probe.mean())[7] == pytest.approx(probe.of(7) @ probe.mean())
    matched = list(islice(gradient_matching(vectors, classes), 20))
    assert len(set(matched)) == 20
    ours = mismatch(probe, matched, matching_weights)
    chance = np.random.default_rng(1)
    for _ in range(20):
        subset = chance.choice(2000, 20, replace=False)
        assert ours < mismatch(probe, subset, matching_weights) < mismatch(probe, subset)


def accuracy(vectors, classes, items, tests):
    """The share of right answers of softmax regression that learns from the items alone."""
    inputs, right = vectors[items], np.eye(4)[np.asarray(classes)[items]]
    weights = np.zeros((4, vectors.shape[1]))
    for _ in range(100):
        scores = np.exp(inputs @ weights.T)
        weights -= (scores / scores.sum(1, keepdims=True) - right).T @ inputs / len(items)
    return np.mean((vectors[tests] @ weights.T).argmax(1) == np.asarray(classes)[tests])


def test_a_student_learns_more_from_the_selection_than_from_a_random_subset():
    ours, theirs = [], []
    for seed in range(5):
        vectors, classes = classes_on_a_sphere(seed, n=1500)
        train, tests = np.arange(1000), np.arange(1000, 1500)
        matched = list(islice(gradient_matching(vectors[train], classes[:1000]), 20))
        ours.append(accuracy(vectors, classes, matched, tests))
        chance = np.random.default_rng(seed)
        subsets = [chance.choice(1000, 20, replace=False) for _ in range(10)]
        theirs.append(np.mean([accuracy(vectors, classes, subset, tests) for subset in subsets]))
    assert min(np.array(ours) - theirs) > 0
