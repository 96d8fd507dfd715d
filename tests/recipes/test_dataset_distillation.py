"""The recipes of dataset distillation: few rows that stand for many, against random ones."""

from collections import Counter

import distillgen
from distillgen.runs.directory import read_records
from tests.recipes.harness import Teacher, draw, teach


def fields(run):
    return [record.fields for record in read_records(run.directory / "corpus.jsonl")]


def test_a_core_set_reaches_every_domain(project):
    run = distillgen.run("core-set", out="run")
    rows = fields(run)
    assert len(rows) == 12 and {"prompt", "completion"} <= rows[0].keys()
    assert len({row["domain"] for row in rows}) == 3


def test_gradients_take_from_every_class_and_chance_may_not(project):
    run = distillgen.run("gradient-matching", out="run")
    counts = Counter(row["completion"] for row in fields(run))
    assert sum(counts.values()) == 9 and len(counts) == 3
    control = ["select.by=random", "select.field=null", "select.group=null"]
    random_rows = fields(distillgen.run("gradient-matching", out="control", sets=control))
    assert len(random_rows) == 9 and {r["question"] for r in random_rows} != {
        r["question"] for r in fields(run)
    }


def review(text, sample):
    label, _, topic = text.rpartition("Write a ")[2].rstrip(".").partition(" review of ")
    word = draw(text).choice(["lovely", "great"] if label == "positive" else ["awful", "poor"])
    return f"It was {word} to see {topic} in this way."


def test_examples_are_written_by_class_topic_and_tone(project):
    teacher = Teacher({"Write a ": review})
    rows = fields(teach("class-synthesis", teacher))
    assert len(rows) == 16 and Counter(row["completion"] for row in rows).keys() == {"positive", "negative"}
    assert len({text.rpartition("Write a ")[2] for text in teacher.asked()}) == 24
    tones = {text.partition("in a ")[2].partition(" tone")[0] for text in teacher.asked()}
    assert len(tones) >= 4
    wrong = [
        r for r in rows if ("lovely" in r["review"] or "great" in r["review"]) != (r["label"] == "positive")
    ]
    assert not wrong


def test_a_teacher_that_speaks_of_itself_writes_no_example(project):
    run = teach("class-synthesis", Teacher({"Write a ": "As an AI language model, I cannot review a thing."}))
    assert not fields(run)
