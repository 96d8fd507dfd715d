"""The recipe kto: each answer has its own label, and none is lost."""

import re

import pytest

from distillgen.objectives.kto import Kto
from distillgen.runs.directory import read_records
from tests.recipes.harness import Teacher, chance, drops, teach


def answer(text, sample):
    n = int(re.search(r"plus (\d+)", text)[1])
    right = chance(0.6, n, sample)
    return f"Step {sample}. The answer is {n + 1 if right else n + 2 + sample}."


@pytest.fixture
def rows(project):
    project.rows("sums.jsonl", [{"question": f"What is 1 plus {n}?", "gold": n + 1} for n in range(20)])
    sets = ["source.path=sums.jsonl", "source.held_out=null", "train=null"]
    run = teach("kto", Teacher({"plus": answer}), sets)
    return run, project.read("run/corpus.jsonl")


def test_every_answer_has_the_planted_label(rows):
    run, corpus = rows
    assert len(corpus) == 80 and not drops(run)
    expected = [chance(0.6, n, sample) for n in range(20) for sample in range(4)]
    assert [row["label"] for row in corpus] == expected and 30 < sum(expected) < 60
    assert all({"prompt", "completion", "label"} <= row.keys() for row in corpus)


def test_the_objective_takes_the_rows(rows):
    run, corpus = rows
    records = list(read_records(run.directory / "corpus.jsonl"))
    taken = [Kto().row(record, {}) for record in records]
    assert [row["label"] for row in taken] == [row["label"] for row in corpus]
    assert set(taken[0]) == {"prompt", "completion", "label"}


def test_a_plain_filter_would_keep_no_undesirable_answer(rows, project):
    sets = ["source.path=sums.jsonl", "source.held_out=null", "train=null", "right.mark=null", "format=null"]
    run = teach("kto", Teacher({"plus": answer}), sets, out="plain")
    wrong = sum(not row["label"] for row in rows[1])
    assert drops(run) == {("right", "numeric"): wrong} and wrong > 10
