"""Runs of words, counted as the paper counts them, and draws in turns."""

import random
from collections import Counter

import pytest

from distillgen.algorithms.word_spans import draw_in_turns, word_spans


@pytest.mark.parametrize(
    "words, shortest, longest, count",
    [
        (9, 1, 5, 35),
        (12, 1, 5, 50),
        (5, 1, 5, 15),
        (3, 1, 5, 6),
        (1, 1, 5, 1),
        (0, 1, 5, 0),
        (9, 2, 3, 15),
        (4, 5, 6, 0),
    ],
)
def test_every_run_of_neighbours_is_there_once(words, shortest, longest, count):
    spans = word_spans(words, shortest, longest)
    assert len(spans) == len(set(spans)) == count
    runs = {
        (first, last)
        for first in range(words)
        for last in range(first, words)
        if shortest <= last - first + 1 <= longest
    }
    assert set(spans) == runs


def test_the_number_of_spans_is_the_sum_over_lengths():
    for words in range(5, 60):
        assert len(word_spans(words, 1, 5)) == sum(words - length + 1 for length in range(1, 6))


def test_no_number_comes_again_before_all_have_come_and_the_draw_is_even():
    for count, draws in ((1, 3), (6, 4), (6, 6), (6, 20), (35, 1000)):
        drawn = [*draw_in_turns(count, draws, random.Random(draws))]
        assert len(drawn) == draws and set(drawn) <= set(range(count))
        for start in range(0, draws, count):
            turn = drawn[start : start + count]
            assert len(set(turn)) == len(turn), "all are drawn before one comes again"
    turns = [*draw_in_turns(6, 12, random.Random(1))]
    assert turns[:6] != turns[6:], "each turn has its own order"
    firsts = Counter(next(draw_in_turns(6, 4, random.Random(seed))) for seed in range(1200))
    assert min(firsts.values()) > 150 and max(firsts.values()) < 250
