"""The recipes of dataset distillation: few rows that stand for many, against random ones."""

import json
import math
import random
import re
from collections import Counter
from statistics import mean

import pytest
import yaml

import distillgen
from distillgen.inference.request import Completion
from distillgen.project import home
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


COLOURS = ("red", "green", "blue", "white")
TEACH = {"student": "tiny", "held_out": 0, "epochs": 30, "batch_size": 8, "learning_rate": 0.003}
ASK = {
    "models": ["student"],
    "data": "test.jsonl",
    "about": "trained",
    "template": "{{ question }}",
    "gold": "answer",
    "temperature": 0,
    "max_tokens": 6,
    "metrics": ["exact"],
}


def houses(seed):
    """96 questions about the colours of 30 things, 72 of them about the same 6; and a test about all 30."""
    chance = random.Random(seed)
    things = [a + b for a in "bar kel mon fas tul nor".split() for b in "do mi ra ve zu".split()]
    chance.shuffle(things)
    colours = {thing: chance.choice(COLOURS) for thing in things}
    subjects = [thing for thing in things[:6] for _ in range(12)] + things[6:]
    chance.shuffle(subjects)

    def row(thing, number):
        question = f"Which colour has the {thing} of house {number}?"
        return {"question": question, "answer": colours[thing]}

    train = [row(thing, chance.randrange(10, 99)) for thing in subjects]
    return train, [row(thing, number) for thing in things for number in (100, 101)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_student_learns_no_less_from_a_selected_half_than_from_a_random_one(project, monkeypatch):
    """The mean of twelve paired seeds: a few pairs may be the other way round, as the recipe's page says."""
    pytest.importorskip("torch")
    pytest.importorskip("trl")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arms = {"selected": [], "random": ["select.by=random", "select.field=null"]}
    right, subjects = {arm: [] for arm in arms}, {arm: [] for arm in arms}
    for seed in range(12):
        train, test = houses(seed)
        project.rows("train.jsonl", train)
        project.rows("test.jsonl", test)
        pipeline = yaml.safe_load((home("pipelines") / "core-set.yaml").read_text())
        pipeline |= {"seed": seed, "stages": [*pipeline["stages"], {"train": TEACH}, {"evaluate": ASK}]}
        for arm, sets in arms.items():
            sets = ["source.path=train.jsonl", "select.n=48", *sets]
            run = distillgen.run(pipeline, out=f"{arm}-{seed}", sets=sets)
            evaluation = json.loads((run.directory / "evaluation.json").read_text())
            right[arm].append(evaluation["models"]["student"]["metrics"]["exact"]["mean"])
            questions = [row["question"] for row in fields(run)]
            assert len(questions) == 48
            subjects[arm].append(len({re.search(r"the (\w+) of", text)[1] for text in questions}))
    assert min(subjects["selected"]) > max(subjects["random"])
    assert mean(right["selected"]) >= mean(right["random"]) > 0.4, right


def half_sure(text, sample):
    tops = [["yes", math.log(0.6)], ["no", math.log(0.3)]]
    return Completion(text="yes", logprobs=[["yes", math.log(0.6), tops]])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_soft_labels_teach_how_sure_the_teacher_is_and_texts_do_not(project, monkeypatch):
    """The teacher's first choice leads by 0.3; its text alone, always the same, makes the student sure.

    The answer has two tokens, the word and the end, and the student is sure of the end.
    """
    pytest.importorskip("torch")
    pytest.importorskip("trl")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pipeline = yaml.safe_load((home("pipelines") / "soft-labels.yaml").read_text())
    ask = {
        "name": "asked",
        "model": "student",
        "template": "{{ question }} Answer in one word.",
        "output": "said",
    }
    pipeline["stages"].append({"generate": ask | {"max_tokens": 4, "temperature": 0, "logprobs": 2}})
    small = ["train.student=tiny", "train.lora=null", "train.max_steps=60", "train.learning_rate=0.003"]
    margins = {}
    for arm, sets in {"distribution": [], "texts": ["train.losses=[cross_entropy]"]}.items():
        run = teach(pipeline, Teacher({"one word": half_sure}), [*small, *sets], out=arm)
        records = [r for r in read_records(run.directory / "corpus.jsonl") if r.held_out]
        assert len(records) > 10
        assert {r.fields["said"] for r in records} == {"yes"}
        margins[arm] = 2 * mean(r.scores["asked.margin"] for r in records) - 1
    assert abs(margins["distribution"] - 0.3) < 0.1 and margins["texts"] > 0.8, margins
