"""Statements that a folder of texts does not support."""

from distillgen.local_models.passages import Passages
from tests.filters.models import NLI, embedder

OPTIONS = {"field": "a", "knowledge": "tests/filters/knowledge", "passages": 1}

CASES = [
    (OPTIONS, {"a": "Lake Baikal is 1,642 metres deep. Yeast makes bread rise."}, None),
    (
        OPTIONS,
        {"a": "Lake Baikal is deep. Monks painted icons."},
        "a sentence without support in tests/filters/knowledge: its words at most 0.00 < 0.5",
    ),
    (OPTIONS, {"a": "Baikal has monks."}, None),  # one of its two words
    ({**OPTIONS, "min_support": 0.51}, {"a": "Baikal has monks."}, "its words at most 0.50 < 0.51"),
    (
        {**OPTIONS, "min_mean": 0.9},
        {"a": "Yeast makes bread. Baikal has monks."},
        "support in tests/filters/knowledge is 0.75 on average < 0.9",
    ),
    ({**OPTIONS, "model": NLI}, {"a": "It is 1,642 metres deep."}, None),
    ({**OPTIONS, "model": NLI}, {"a": "It is 1,700 metres deep and cold."}, "entailed with 0.33 < 0.5"),
    ({**OPTIONS, "embedder": embedder(), "min_support": 0.0}, {"a": "Dough."}, None),
    (OPTIONS, {"a": ""}, "without support"),
    (OPTIONS, {"a": 7}, "without support"),
]


def test_an_embedder_finds_what_shares_no_word():
    texts = ["Yeast makes bread rise.", "The forum was large.", "Lakes."]
    assert Passages(texts).about(["Caesar"], 1) == [[]]
    assert Passages(texts, embedder=embedder()).about(["Yeast", "Caesar"], 1) == [[texts[0]], [texts[1]]]


def test_each_statement_finds_its_own_passage_among_many():
    texts = [f"Number {i} is called n{i} by the {i % 7} who count." for i in range(500)]
    found = Passages(texts).about([f"What is called n{i}?" for i in range(500)], 1)
    assert found == [[text] for text in texts]
