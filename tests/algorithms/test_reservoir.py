"""A sample of a stream: every item is as likely to be in it."""

import random
from collections import Counter

import pytest

from distillgen.algorithms.reservoir import Reservoir


def test_a_short_stream_is_its_sample():
    sample = Reservoir[int](5, random.Random(0))
    for item in range(3):
        sample.add(item)
    assert sample.items == [0, 1, 2]


def test_each_item_is_as_likely_to_be_in_the_sample():
    counts, runs = Counter[int](), 4000
    for seed in range(runs):
        sample = Reservoir[int](3, random.Random(seed))
        for item in range(12):
            sample.add(item)
        assert len(set(sample.items)) == 3
        counts.update(sample.items)
    assert [counts[item] / runs for item in range(12)] == pytest.approx([0.25] * 12, abs=0.035)
