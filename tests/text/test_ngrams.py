"""N-grams, in one place."""

import pytest

from distillgen.text.ngrams import ngram_hashes, ngrams


@pytest.mark.parametrize(
    ("tokens", "n", "grams"),
    [
        ("a b c".split(), 1, [("a",), ("b",), ("c",)]),
        ("a b c".split(), 2, [("a", "b"), ("b", "c")]),
        ("a b c".split(), 3, [("a", "b", "c")]),
        ("a b c".split(), 4, []),
        ("abc", 2, [("a", "b"), ("b", "c")]),
        ([], 1, []),
    ],
)
def test_ngrams(tokens, n, grams):
    assert list(ngrams(tokens, n)) == grams
    assert list(ngram_hashes(tokens, n)) == list(map(hash, grams))
