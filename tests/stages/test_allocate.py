"""allocate: it reads measures by model and group, whatever a group is called."""

import json
import math

import pytest

import distillgen
from distillgen.flow.measures import Measure
from distillgen.inference.request import Completion

# in nats a token; each name looks like a part of a measure's title
CROSS_ENTROPY = {"x": 0.5, "x, last round": 1.0, "cats in dogs": 1.5, "a.perplexity": 2.0}
TEACHERS = 0.25


def student(request, sample):
    domain = request.messages[-1]["content"].partition("|")[0]
    return Completion(logprobs=[["x", -CROSS_ENTROPY[domain], []]])


def teacher(request, sample):
    return Completion(logprobs=[["x", -TEACHERS, []]])


EVALUATE = {
    "evaluate": {
        "models": ["student", "teacher"],
        "by": "domain",
        "template": "{{ domain }}|{{ question }}",
        "gold": "answer",
        "perplexity": True,
    }
}


def allocate(stage, suffix=""):
    names = {model: f"{stage}.{model}.perplexity{suffix}" for model in ("student", "teacher")}
    return {"allocate": {"budget": 8, "group": "domain", **names}}


def measured(project, *stages):
    """Run a loop of two rounds; return the measures of its rounds, and of the stage."""
    rows = [{"domain": domain, "question": i, "answer": "x"} for domain in CROSS_ENTROPY for i in range(8)]
    project.rows("rows.jsonl", rows)
    rounds = {"rounds": {"n": 2, "repeat": True, "stages": [*stages]}}
    source = {"source": {"path": "rows.jsonl", "held_out": 0.25}}
    run = distillgen.run(
        {
            "version": 1,
            "models": {name: {"provider": "scripted", "model": "echo"} for name in ("student", "teacher")},
            "stages": [source, rounds],
        },
        out="out",
        teachers={"student": student, "teacher": teacher},
    )
    history = json.loads((run.directory / "rounds/rounds.json").read_text())["rounds"]
    return history, run.state["stages"][1]["measured"]


def test_groups_are_not_taken_for_parts_of_a_measure(project):
    rounds, last = measured(project, allocate("evaluate"), EVALUATE)
    for domain, nats in CROSS_ENTROPY.items():
        assert rounds[1][f"allocate.gap in {domain}, by perplexity"] == pytest.approx(
            math.exp(nats - TEACHERS)
        )
        title = f"evaluate.student.perplexity in {domain}, last round"
        assert last[title] == pytest.approx(math.exp(nats))


def test_a_loop_reads_the_groups_that_a_loop_inside_it_measured(project):
    inner = {"rounds": {"name": "inner", "n": 1, "repeat": True, "stages": [EVALUATE]}}
    rounds, _ = measured(project, allocate("inner.evaluate", ", last round"), inner)
    for domain, nats in CROSS_ENTROPY.items():
        gap = f"allocate.gap in {domain}, by perplexity"
        assert rounds[1][gap] == pytest.approx(math.exp(nats - TEACHERS))


@pytest.mark.parametrize(
    ("measure", "title"),
    [
        (Measure("kept"), "kept"),
        (Measure("vendi", "diversity"), "diversity.vendi"),
        (Measure("exact", "evaluate", "student"), "evaluate.student.exact"),
        (Measure("exact", model="student", group=""), "student.exact in "),
        (
            Measure("exact", "inner.evaluate", "student", "sentiment", True),
            "inner.evaluate.student.exact in sentiment, last round",
        ),
    ],
)
def test_a_title_is_what_people_write(measure, title):
    assert measure.title == title
    assert measure.of_stage("outer").title == f"outer.{title}"
