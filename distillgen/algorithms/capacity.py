"""Bits of knowledge in a model (Allen-Zhu and Li 2024, Physics of Language Models: Part 3.3, section 3).

A log-probability is in nats, and the sum over all tokens of a text. Nothing is clipped: a model that is
sure of what is wrong knows less than nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LN2 = math.log(2)


def bits_of_texts(choices: int, logprobs: Sequence[float]) -> float:
    """Return the bits known of texts that were each drawn from `choices` texts: N log2(N0 / e^p1) of names,
    and NK log2(D^C / e^p2) of values. They are 0 if each text has the probability 1 / `choices`.
    """
    return math.fsum(math.log(choices) + logprob for logprob in logprobs) / LN2


def most_bits_of_names(choices: int, people: int) -> float:
    """Return the bits known of different names by a model that knows all of them: N log2(N0 / N).

    It cannot know whose name comes next, so that p1 is at least ln N.
    """
    return people * (math.log(choices) - math.log(people)) / LN2


def bits_of_sets(attributes: int, strings: int, choices: int, logprobs: Sequence[float]) -> float:
    """Return the bits known of the sets of strings that values consist of: KD log2(T^L / (D e^p3)).

    Each of the `attributes` (K) has a set of `strings` (D) out of `choices` (T^L) strings. The
    log-probabilities are those of the first string of each value.
    """
    p3 = -math.fsum(logprobs) / len(logprobs)
    return attributes * strings * (math.log(choices) - math.log(strings) - p3) / LN2
