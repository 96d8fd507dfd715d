"""A student from end to end (slow): held-out rows, training, and evaluation beside its base in one pipeline;
and in rounds, where each student is asked in the next one.
"""

import importlib.util
import json
import re

import pytest

import distillgen
from distillgen.runs.directory import read_records
from tests.tiny_llama import make_model

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate")


def slow(test):
    missing = pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in PACKAGES),
        reason="needs pip install 'distillgen[train]'",
    )
    return pytest.mark.slow(pytest.mark.filterwarnings("default")(missing(test)))


COLOURS = ("red", "green", "blue", "white")


def teacher(request, sample):
    """The colour of a thing is that of its letter."""
    return COLOURS["abcd".index(request.messages[-1]["content"].split()[3])]


def rows(n):
    return [{"question": f"Which colour has {'abcd'[i * 7 % 4]} {i}?"} for i in range(n)]


ANSWER = {"generate": {"model": "teacher", "template": "{{ question }}", "output": "colour"}}
TRAIN = {
    "train": {
        "student": "tiny",
        "epochs": 8,
        "batch_size": 16,
        "learning_rate": 0.003,
        "prompt": "question",
        "completion": "colour",
    }
}
EVALUATE = {
    "evaluate": {
        "models": ["student", "base"],
        "template": "{{ question }}",
        "gold": "colour",
        "metrics": ["exact"],
        "temperature": 0,
        "max_tokens": 6,
    }
}


@slow
def test_a_student_is_better_than_its_base_on_what_neither_saw(project):
    project.rows("rows.jsonl", rows(300))
    pipeline = {
        "version": 1,
        "models": {"teacher": {"provider": "scripted", "model": "echo"}},
        "stages": [{"source": {"path": "rows.jsonl", "held_out": 0.15}}, ANSWER, TRAIN, EVALUATE],
    }
    run = distillgen.run(pipeline, out="out", teachers={"teacher": teacher})
    told = json.loads((run.directory / "evaluation.json").read_text())
    held_out = [r for r in read_records(run.directory / "corpus.jsonl") if r.held_out]
    manifest = json.loads((run.directory / "student/manifest.json").read_text())
    assert told["items"] == len(held_out) and manifest["data"]["rows"]["train"] + len(held_out) == 300
    assert (
        told["models"]["student"]["metrics"]["exact"]["mean"] > 0.8
        and told["models"]["base"]["metrics"]["exact"]["mean"] < 0.2
    )
    assert told["comparisons"][0]["p"] < 0.01
    again = project.cli(
        "evaluate",
        "out",
        "--template",
        "{{ question }}",
        "--gold",
        "colour",
        "--with",
        "exact",
        "--set",
        "evaluate.temperature=0",
        "--set",
        "evaluate.max_tokens=6",
        timeout=300,
    )
    share = f"{100 * told['models']['student']['metrics']['exact']['mean']:.1f}%"
    assert re.search(rf"exact +student +{re.escape(share)}", again.stdout) and re.search(
        "exact +base", again.stdout
    )


@slow
def test_in_rounds_each_student_is_asked_by_the_next_one(project, monkeypatch):
    """Also with a directory that is relative to another folder than the project's: there the students had no
    weights in their ledger keys, and another training got the answers of the first.
    """
    make_model(project.path / "base")
    project.rows("rows.jsonl", rows(240))
    guess = {
        "generate": {
            "name": "guess",
            "model": "student",
            "template": "{{ question }}",
            "output": "guess",
            "temperature": 0,
            "max_tokens": 6,
            "take_cut_off": True,
        }
    }
    train = {"train": {**TRAIN["train"], "student": str(project.path / "base"), "epochs": 8, "held_out": 0}}
    pipeline = {
        "version": 1,
        "models": {"teacher": {"provider": "scripted", "model": "echo"}},
        "stages": [
            {"source": {"path": "rows.jsonl"}},
            {"rounds": {"n": 2, "repeat": True, "stages": [guess, ANSWER, train]}},
        ],
    }
    path = project.write("pipelines/loop.yaml", json.dumps(pipeline))
    (project.path / "elsewhere").mkdir()
    monkeypatch.chdir(project.path / "elsewhere")
    run = distillgen.run(path, out="out", teachers={"teacher": teacher})
    right = [[], []]
    for record in read_records(run.directory / "corpus.jsonl"):
        right[record.fields["round"]].append(record.fields["guess"] == record.fields["colour"])
    first, second = (sum(each) / len(each) for each in right)
    assert first < 0.1 and second > 0.8, "the second round asked another than the student of the first"
    assert (run.directory / "rounds/last/student/manifest.json").exists()
    models = {
        record.row()["meta"]["made"][0]["model"] for record in read_records(run.directory / "corpus.jsonl")
    }
    assert len(models) == 2 and all(re.fullmatch(r"[\w-]+@[0-9a-f]{12}", model) for model in models), models


@slow
def test_that_the_filter_helped_is_measured_against_control_arms(project):
    """A teacher that is wrong on two of five in ways that can be learnt; the filter knows which."""
    project.rows(
        "rows.jsonl",
        [{**row, "gold": COLOURS["abcd".index(row["question"].split()[3])]} for row in rows(400)],
    )

    def shaky(request, sample):
        number = int(request.messages[-1]["content"].split()[4].strip("?"))
        right = COLOURS["abcd".index(request.messages[-1]["content"].split()[3])]
        return right if number % 5 < 3 else "black"

    arms = [{"train": {**TRAIN["train"], "name": name, "on": name}} for name in ("raw", "random", "shuffled")]
    names = ["student", "student-raw", "student-random", "student-shuffled"]
    pipeline = {
        "version": 1,
        "models": {"teacher": {"provider": "scripted", "model": "echo"}},
        "stages": [
            {"source": {"path": "rows.jsonl", "held_out": 0.15}},
            ANSWER,
            {"filter": [{"exact": {"field": "colour"}}]},
            TRAIN,
            *arms,
            {"evaluate": {**EVALUATE["evaluate"], "models": names, "gold": "gold"}},
        ],
    }
    run = distillgen.run(pipeline, out="out", teachers={"teacher": shaky})
    trained = {
        name: json.loads((run.directory / name / "manifest.json").read_text())["data"]["rows"]["train"]
        for name in names
    }
    assert len(set(trained.values())) == 1, "the arms have other numbers of rows"
    found = json.loads((run.directory / "evaluation.json").read_text())
    means = {name: found["models"][name]["metrics"]["exact"]["mean"] for name in names}
    assert means["student"] > 0.85 and all(means[name] < means["student"] - 0.15 for name in names[1:]), means
    assert means["student-shuffled"] < 0.5


WARM_UP = {"train": {**TRAIN["train"], "name": "warm-up"}}
PACKAGED = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in PACKAGES),
    reason="needs pip install 'distillgen[train]'",
)


def chained(*stages):
    return {
        "version": 1,
        "models": {"teacher": {"provider": "scripted", "model": "echo"}},
        "stages": [{"source": {"path": "rows.jsonl"}}, ANSWER, *stages],
    }


@PACKAGED
@pytest.mark.parametrize(
    "student, stages, says",
    [
        ("student-warm-up", (WARM_UP,), None),
        (
            "student-warmup",
            (WARM_UP,),
            "no earlier stage trains 'student-warmup'; did you mean 'student-warm-up'?",
        ),
        (
            "student-warm-up",
            (),
            "no earlier stage trains 'student-warm-up'; a folder of this name is ./student-warm-up",
        ),
        ("./student-warm-up", (), None),
        ("student", (WARM_UP,), "no earlier stage trains 'student'"),  # itself
    ],
)
def test_a_student_can_begin_as_one_that_an_earlier_stage_trains(project, student, stages, says):
    project.rows("rows.jsonl", rows(3))
    project.write("student-warm-up/config.json", "{}")
    pipeline = chained(*stages, {"train": {**TRAIN["train"], "student": student}})
    if says is None:
        distillgen.load(pipeline)
    else:
        with pytest.raises(distillgen.ConfigError) as told:
            distillgen.load(pipeline)
        assert says in str(told.value)


@slow
@pytest.mark.parametrize("lora", [None, {"r": 4}])
def test_a_second_training_continues_from_the_first(project, lora):
    project.rows("rows.jsonl", rows(200))

    def run(warm_up_steps):
        """The second training is too short to learn anything by itself."""
        warm_up = {**WARM_UP["train"], "max_steps": warm_up_steps, "lora": lora}
        second = {
            **TRAIN["train"],
            "student": "student-warm-up",
            "max_steps": 1,
            "learning_rate": 1e-6,
            "lora": lora,
        }
        done = distillgen.run(
            chained({"train": warm_up}, {"train": second}), out="out", teachers={"teacher": teacher}
        )
        return [
            json.loads((done.directory / name / "manifest.json").read_text())
            for name in ("student-warm-up", "student")
        ]

    warm, student = run(40)
    before, after = (warm["held_out"][name]["loss"] for name in ("base", "student"))
    assert after < 0.8 * before and student["held_out"]["base"]["loss"] == pytest.approx(after, rel=0.02)
    again = run(40)
    assert [each["sessions"] for each in again] == [warm["sessions"], student["sessions"]], (
        "it was trained once more"
    )
    warmer, student_of_it = run(41)
    assert student_of_it["fingerprint"] != student["fingerprint"]
    assert student_of_it["held_out"]["base"]["loss"] == pytest.approx(
        warmer["held_out"]["student"]["loss"], rel=0.02
    )
