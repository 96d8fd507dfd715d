"""Two texts graded in one prompt and in both orders, by a planted judge."""

import json
from pathlib import Path

import pytest

import distillgen
from distillgen.plugins import filter_factory

OPTIONS = {"model": "judge", "rubric": "Which is right?", "field": "a", "over": "b", "fields": ["q"]}
TEXTS = {"q": "Why?", "a": "So.", "b": "Not so."}


def grades(first, second):
    return json.dumps({"reason": "so", "first": first, "second": second})


CASES = [
    (OPTIONS, TEXTS, None, [grades(8, 5), grades(5, 8)]),
    (OPTIONS, TEXTS, None, [grades(8, 6), grades(8, 8)]),
    (OPTIONS, TEXTS, "graded 5, the b 8: a gap of -3 < 1", [grades(5, 8), grades(8, 5)]),
    (OPTIONS, TEXTS, "graded 7, the b 7: a gap of 0 < 1", [grades(9, 5), grades(9, 5)]),
    ({**OPTIONS, "min_gap": 0}, TEXTS, None, [grades(9, 5), grades(9, 5)]),
    (OPTIONS, TEXTS, "not judged: the grade 11 is not between", [grades(5, 8), grades(8, 11)]),
]


@pytest.mark.parametrize("options, fields, why, answers", CASES)
def test_graded_pair_cases(reason, options, fields, why, answers):
    drop = reason("graded_pair", options, fields, answers)
    assert drop == why if why is None else why in drop


def shown(request):
    text = request.messages[-1]["content"].split("First answer: ")[1].split("\n\nFirst say")[0]
    return text.split("\n\nSecond answer: ")


def biased_by(bias):
    """A judge that grades by length, and adds a bias to the answer shown first."""

    def judge(request, sample):
        first, second = shown(request)
        return grades(len(first) + bias, len(second))

    judge.__qualname__ = f"judge_{bias}"
    return judge


@pytest.mark.parametrize("bias", [0, 4])
def test_a_bias_for_a_place_changes_no_gap(project, bias):
    """The control shows that the bias is there: in a single order it turns pairs round."""
    rows = [{"q": str(i), "a": "x" * (1 + i % 5), "b": "xxx"} for i in range(30)]
    project.rows("rows.jsonl", rows)

    def run(min_gap, judge):
        options = {**OPTIONS, "min_gap": min_gap}
        pipeline = {
            "version": 1,
            "models": {"judge": {"provider": "scripted", "model": "echo"}},
            "stages": [{"source": {"path": "rows.jsonl"}}, {"filter": [{"graded_pair": options}]}],
        }
        return distillgen.run(pipeline, out="out", teachers={"judge": judge})

    finished = run(1, biased_by(bias))
    scores = [row["meta"]["scores"] for row in project.read("out/corpus.jsonl")]
    assert sorted(score["graded_pair.gap"] for score in scores) == [1] * 6 + [2] * 6
    dropped_gaps = sorted(record.scores["graded_pair.gap"] for record in finished.dropped)
    assert dropped_gaps == [-2] * 6 + [-1] * 6 + [0] * 6  # a paid verdict stays in the scores
    assert [*finished.state["stages"][1]["measured"].values()] == [bias]
    first, second = (json.loads(biased_by(bias)(request, 0)) for request in orders())
    assert (first["first"] > first["second"]) == (bias > 0) and first["first"] - first["second"] == bias - 2
    assert second["first"] - second["second"] == bias + 2
    paid = finished.state["totals"]["requests"]
    again = run(-9, biased_by(bias))
    assert again.state["kept"] == 30 and again.state["totals"]["requests"] == paid


def orders():
    project = distillgen.Project(Path())
    made = filter_factory("graded_pair", project)(**OPTIONS, project=project)
    return made.asks(distillgen.Record.read({"q": "0", "a": "x", "b": "xxx"}, ""))


def test_a_judge_that_gives_the_same_grades_to_places_keeps_no_pair(project):
    project.rows("rows.jsonl", [{"q": str(i), "a": "x" * i, "b": "xxx"} for i in range(1, 20)])
    pipeline = {
        "version": 1,
        "models": {"judge": {"provider": "scripted", "model": "echo"}},
        "stages": [{"source": {"path": "rows.jsonl"}}, {"filter": [{"graded_pair": OPTIONS}]}],
    }
    finished = distillgen.run(pipeline, out="out", teachers={"judge": lambda *_: grades(9, 2)})
    assert {record.scores["graded_pair.gap"] for record in finished.dropped} == {0.0}
    assert len(finished.dropped) == 19
