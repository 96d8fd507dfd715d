"""ROUGE computed by hand, and the longest common subsequence against the textbook's table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.rouge import common_sequence, rouges

CASES = [
    ({}, {"answer": "The cat sat on the mat.", "gold": "the cat sat on a mat"}, None),
    (
        {},
        {"answer": "Buy cheap tyres!", "gold": "the cat sat on a mat"},
        "ROUGE-L 0.00 with the gold text < 0.2",
    ),
    ({"min_rouge_l": 0.5}, {"answer": "one two three four", "gold": ["nothing", "four one two nine"]}, None),
    (
        {"min_rouge_l": 0.51},
        {"answer": "one two three four", "gold": "four one two nine"},
        "ROUGE-L 0.50 with the gold text < 0.51",
    ),
    ({}, {"answer": "", "gold": "x"}, "ROUGE-L 0.00 with the gold text < 0.2"),
    ({}, {"answer": 7, "gold": None}, "ROUGE-L 0.00 with the gold text < 0.2"),
]


def test_the_papers_own_example():
    """Lin 2004, section 3: of two candidates with the same pairs of words, the one in the reference's order
    is nearer.
    """
    reference = "police killed the gunman".split()
    ordered, reversed_ = (
        rouges("police kill the gunman".split(), reference),
        rouges("the gunman kill police".split(), reference),
    )
    assert (ordered["rouge_l"], reversed_["rouge_l"]) == (0.75, 0.5)
    assert ordered["rouge_2"] == reversed_["rouge_2"] == pytest.approx(1 / 3) and ordered["rouge_1"] == 0.75


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
def test_the_common_sequence_is_that_of_the_table(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    assert common_sequence(a, b) == table[-1][-1]
