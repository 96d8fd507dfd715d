"""Runs of neighbouring words, and draws of them."""

from __future__ import annotations

import random
from collections.abc import Iterator


def word_spans(words: int, shortest: int, longest: int) -> list[tuple[int, int]]:
    """Return first and last word, counted from 0, of every run of `shortest` to `longest` words of a text.

    These are the sum of words - length + 1 over the lengths: 35 of 1 to 5 words for a text of 9.
    """
    return [
        (first, first + length - 1)
        for length in range(shortest, min(longest, words) + 1)
        for first in range(words - length + 1)
    ]


def draw_in_turns(count: int, draws: int, chance: random.Random) -> Iterator[int]:
    """Yield `draws` random numbers below `count`; none comes again before all have come equally often."""
    for start in range(0, draws, count):
        yield from chance.sample(range(count), min(count, draws - start))
