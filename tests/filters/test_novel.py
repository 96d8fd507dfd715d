"""Texts that repeat the meaning of earlier ones; a word-based embedder stands in for a model."""

import random
import re

import pytest

import distillgen
from distillgen.errors import ConfigError
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


def sequences_of(count, seed):
    draw = random.Random(seed)
    return [" ".join(draw.choices("abcdefgh", k=draw.randint(1, 12))) for _ in range(count)]


def test_rouge_l_is_that_of_the_formula_to_the_closest_kept_text(tmp_path):
    pytest.importorskip("rapidfuzz")
    texts = sequences_of(300, 1)
    made = filter_factory("novel", Project(tmp_path))(field="x", max_rouge_l=0.7)
    numbers = made.measure([Record.read({"x": text}, "") for text in texts])
    kept: list[str] = []
    pairs = 0
    for text, measured in zip(texts, numbers, strict=True):
        scores = [lcs_f1(text.split(), other.split()) for other in kept]
        pairs += len(scores)
        assert measured["rouge_l"] == pytest.approx(max(scores, default=0.0), abs=1e-12)
        assert (made.decide(measured) is None) == (max(scores, default=0.0) <= 0.7)
        if made.decide(measured) is None:
            kept.append(text)
    assert pairs > 1000 and 5 < len(kept) < 290
    assert made.decide({"rouge_l": 0.75}) == "ROUGE-L 0.75 to an earlier text > 0.7"


def lcs_f1(first, second):
    """Return 2 LCS / (m + n), by the table of Wagner and Fischer."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return 2 * table[-1][-1] / (len(first) + len(second))


def test_a_loop_drops_what_its_pool_and_earlier_rounds_have(project):
    pytest.importorskip("rapidfuzz")
    project.rows("rows.jsonl", [{"task": "name three green fruits"}, {"task": "describe the sea at night"}])
    answers = iter(["name three green fruits", "count the stars", "count the stars", "write a poem"])
    novel = {"field": "task", "max_rouge_l": 0.7, "pool": True}
    stages = [
        {"source": {"path": "rows.jsonl"}},
        {
            "rounds": {
                "n": 2,
                "repeat": True,
                "stages": [
                    {"generate": {"model": "t", "template": "{{ round }} {{ task }}", "output": "task"}},
                    {"filter": [{"novel": novel}]},
                ],
            }
        },
    ]
    models = {"t": {"provider": "scripted", "model": "echo", "max_concurrency": 1}}
    pipeline = {"version": 1, "models": models, "stages": stages}
    run = distillgen.run(pipeline, out="run", teachers={"t": lambda request, sample: next(answers)})
    assert [row["task"] for row in run.corpus] == ["count the stars", "write a poem"]
    outside = {"version": 1, "models": {}, "stages": [stages[0], {"filter": [{"novel": novel}]}]}
    with pytest.raises(ConfigError, match="works only inside 'rounds'"):
        distillgen.load(outside)


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


@pytest.mark.slow
def test_rouge_l_of_1000_pairs_is_that_of_rouge_score_s_tokens(tmp_path):
    """Possessives, decimals and underscores are where another tokenizer gives other numbers."""
    parts = "Tom's 7.5 kg_per don't 1,000 apples, well-known the the a (b) Mary's 12:30 box".split()
    draw = random.Random(3)

    def tokens(text):
        return re.sub(r"[^a-z0-9]+", " ", text.lower()).split()

    def longest(one, other):
        row = [0] * (len(other) + 1)
        for word in one:
            before = 0
            for i, another in enumerate(other, 1):
                before, row[i] = row[i], before + 1 if word == another else max(row[i], row[i - 1])
        return row[-1]

    for _ in range(1000):
        one, other = (" ".join(draw.choices(parts, k=draw.randint(1, 12))) for _ in range(2))
        made = filter_factory("novel", Project(tmp_path))(field="x", max_rouge_l=1.0)
        _, measured = made.measure([Record.read({"x": text}, "") for text in (other, one)])
        lengths = len(tokens(one)) + len(tokens(other))
        expected = 2 * longest(tokens(one), tokens(other)) / lengths
        assert measured["rouge_l"] == pytest.approx(expected, abs=1e-12), (one, other)
