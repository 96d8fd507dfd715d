"""The hashes of shingles, compared with those that rensa gives the same shingles one by one."""

import random

import numpy as np
import pytest
from rensa import RMinHash

from distillgen.algorithms import shingle_hashes as module
from distillgen.algorithms.shingle_hashes import shingle_hashes
from distillgen.text.ngrams import ngrams
from distillgen.text.words import words

LETTERS = "aB ßΣσς'’sS.,12٣²_\0\n湖は𝒳𐐀İ-é "


def one_by_one(texts, size, characters):
    tokens = [list(" ".join(words(text))) if characters else words(text) for text in texts]
    return RMinHash.hash_token_sets(
        [list(map(" ".join, ngrams(each, size))) or [" ".join(each)] for each in tokens]
    )


def split(hashes):
    return [part.tolist() for part in np.split(hashes.flat, hashes.ends[1:-1])]


@pytest.mark.parametrize("characters", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_random_texts(size, characters, monkeypatch):
    monkeypatch.setattr(module, "CHARACTERS", 150)
    chance = random.Random(size)
    for _ in range(200):
        texts = ["".join(chance.choices(LETTERS, k=chance.choice([0, 1, 3, 10, 60]))) for _ in range(5)]
        hashes = shingle_hashes(texts, size, characters=characters)
        assert split(hashes) == one_by_one(texts, size, characters), texts


@pytest.mark.parametrize("length", range(70))
def test_shingles_of_each_length(length):
    texts = [chr(97 + length % 26) + "bcdefghijk" * 7, "é" * length, ("x" * length)[:-1] + "q"]
    texts[0] = texts[0][:length]
    assert split(shingle_hashes(texts, 1)) == one_by_one(texts, 1, False)


def test_no_texts():
    hashes = shingle_hashes([], 3)
    assert len(hashes.flat) == 0 and hashes.ends.tolist() == [0]
