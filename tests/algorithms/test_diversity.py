"""Measures of diversity, compared with values computed by hand."""

import itertools
import math
import random

import numpy as np
import pytest

from distillgen.algorithms.diversity import coverage, distinct, self_bleu, vendi


def split(*texts):
    return [text.split() for text in texts]


def test_distinct():
    texts = split("a b a b", "b a")
    assert distinct(texts, 1) == 2 / 6
    assert distinct(texts, 2) == 2 / 4  # ab ba ab | ba
    assert distinct(split("a", ""), 2) == 1.0
    assert distinct(split("a b c"), 2) == 1.0


def test_self_bleu_by_hand():
    assert self_bleu(split("a b c d e", "a b c d e")) == pytest.approx(1)
    # 1-grams 3/4, 2-grams 2/3, for each of the two; lengths equal
    assert self_bleu(split("a b c x", "a b c y"), 2) == pytest.approx(math.sqrt(3 / 4 * 2 / 3))
    # "a a a" against "a b": one of three a's counts; 2-grams none of two, as 0.1; longer than the other, no
    # penalty
    one = math.sqrt(1 / 3 * 0.1 / 2)
    # "a b" against "a a a": one of two; 2-grams none of one, as 0.1; brevity exp(1 - 3/2)
    other = math.sqrt(1 / 2 * 0.1 / 1) * math.exp(1 - 3 / 2)
    assert self_bleu(split("a a a", "a b"), 2) == pytest.approx((one + other) / 2)
    assert self_bleu(split("one text", "")) == 0.0


def plain_self_bleu(texts, n):
    """Straight from the definition: each against all others."""
    total = 0.0
    for i, text in enumerate(texts):
        others, log = texts[:i] + texts[i + 1 :], 0.0
        for size in range(1, min(n, len(text)) + 1):
            grams = [tuple(text[k : k + size]) for k in range(len(text) - size + 1)]
            most = {
                g: max(sum(tuple(o[k : k + size]) == g for k in range(len(o) - size + 1)) for o in others)
                for g in grams
            }
            known = sum(min(grams.count(g), most[g]) for g in set(grams))
            log += math.log(max(known, 0.1) / len(grams))
        nearest = min((abs(len(o) - len(text)), len(o)) for o in others)[1]
        total += math.exp(log / min(n, len(text)) + min(0, 1 - nearest / len(text)))
    return total / len(texts)


@pytest.mark.parametrize("seed", range(10))
def test_self_bleu_is_what_its_definition_gives(seed):
    chance = random.Random(seed)
    texts = [chance.choices("abcde", k=chance.randint(1, 9)) for _ in range(12)]
    assert self_bleu(texts) == pytest.approx(plain_self_bleu(texts, 4))


def test_vendi():
    assert vendi(np.eye(7, dtype=np.float32)) == pytest.approx(7)
    assert vendi(np.eye(7, 20, dtype=np.float32)) == pytest.approx(7)
    assert vendi(np.ones((9, 1), np.float32)) == pytest.approx(1)
    assert vendi(np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)) == pytest.approx(3)


def test_coverage():
    axes = np.eye(4, dtype=np.float32)
    assert coverage(axes, axes) == 1 and coverage(axes[:1], axes) == 0.25 and coverage(axes[:0], axes) == 0


def test_what_is_more_diverse_measures_so():
    chance = random.Random(0)
    framed = [
        f"tell me about the {a} of the {b}".split() for a, b in itertools.product("abcdefgh", "ijklmnop")
    ]
    free = [[chance.choice("abcdefghijklmnopqrstuvwxyz") * 2 for _ in range(8)] for _ in range(64)]
    assert distinct(free, 2) > distinct(framed, 2) and self_bleu(free) < self_bleu(framed)
