"""Texts that repeat the meaning of earlier ones; a word-based embedder stands in for a model."""

import pytest

from distillgen.plugins import filter_factory
from distillgen.project import Project
from distillgen.record import Record

WORDS = {"field": "x", "embedder": "words"}
CASES = [
    ({**WORDS, "beside": "library", "max_cosine": 0.8}, {"x": "the oven is cold", "library": []}, None),
    (
        {**WORDS, "beside": "library", "max_cosine": 0.8},
        {"x": "the oven is cold", "library": [{"cosine": 0.2}, {"cosine": 0.91}]},
        "cosine 0.91 to a known entry >= 0.8",
    ),
    (
        {**WORDS, "beside": "library", "max_cosine": 0.8},
        {"x": "the oven is cold", "library": [{"cosine": 0.79}]},
        None,
    ),
]


def test_novel_cases(reason):
    for options, fields, why in CASES:
        assert reason("novel", options, fields) == why


def test_what_is_close_to_one_that_was_dropped_only_is_kept(tmp_path):
    made = filter_factory("novel", Project(tmp_path))(field="x", max_cosine=0.7, embedder="words")
    texts = ["oven cold kitchen", "oven cold kitchen floor", "cold kitchen floor tiles", "a parcel is late"]
    numbers = made.measure([Record.read({"x": text}, "") for text in texts[:3]]) + made.measure(
        [Record.read({"x": texts[3]}, "")]
    )
    assert [made.decide(n) for n in numbers] == [None, "cosine 0.87 to an earlier text >= 0.7", None, None]


@pytest.mark.slow
def test_a_paraphrase_is_nothing_new_and_another_thing_is(tmp_path):
    pytest.importorskip("sentence_transformers")
    made = filter_factory("novel", Project(tmp_path))(field="x", max_cosine=0.75)
    texts = [
        "The oven stopped in the night.",
        "During the night the oven stopped working.",
        "My parcel has not arrived.",
    ]
    numbers = made.measure([Record.read({"x": text}, "") for text in texts])
    assert [made.decide(n) is None for n in numbers] == [True, False, True]
