"""The recipe ultrafeedback: who answers is drawn evenly, the pair is the best and the worst by the judge's
grades, and the order in which answers are shown cannot move it.
"""

import itertools
import json
import re
from collections import Counter

import pytest
import yaml

from distillgen.runs.directory import read_records
from tests.recipes.harness import Teacher, draw, drops, teach

MODELS = ("a", "b", "c", "d", "e", "f")
ASPECTS = ("instruction_following", "truthfulness", "honesty", "helpfulness")
TASK = re.compile(r"Task (\d+)")
ANSWER = re.compile(r"Answer (\d+) by (\w)\.")


def merit(number, model):
    """The planted grades of a model's answer, from 1 to 3."""
    lot = draw("merit", number, model)
    return {aspect: lot.randint(1, 3) for aspect in ASPECTS}


def mean(number, model):
    return sum(merit(number, model).values()) / 4


def fair(number, model, place):
    return merit(number, model)


def partial_to_the_first(number, model, place):
    """A judge that grades the first answer of a prompt two points too high."""
    return {aspect: grade + 2 * (place == 0) for aspect, grade in merit(number, model).items()}


def constant(number, model, place):
    return dict.fromkeys(ASPECTS, 3)


def teachers_of(judge):
    def answer(name):
        return lambda text, sample: f"Answer {TASK.findall(text)[-1]} by {name}."

    def grade(text, sample):
        ((number, model),) = ANSWER.findall(text)  # it sees one answer
        return json.dumps({"reason": "So it is.", **judge(number, model, 0)})

    def best(text, sample):
        answers = list(enumerate(ANSWER.findall(text)))
        _, (number, model) = max(answers, key=lambda at: sum(judge(*at[1], at[0]).values()))
        return f"Answer {number} by {model}."

    return {name: Teacher({"Task": answer(name)}, name) for name in MODELS} | {
        "judge": Teacher({"You grade": grade, "Which is the best": best}, "judge")
    }


@pytest.fixture
def paired(project):
    """Run the recipe with a judge on so many tasks."""

    def paired(judge, rows=60, out="run", **options):
        project.rows("tasks.jsonl", [{"instruction": f"Task {i}"} for i in range(rows)])
        return teach("ultrafeedback", teachers_of(judge), ["source.path=tasks.jsonl"], out=out, **options)

    return paired


def pairs(run):
    return [
        (record.fields["chosen"], record.fields["rejected"])
        for record in read_records(run.directory / "corpus.jsonl")
    ]


def test_four_of_six_models_answer_each_and_all_fifteen_choices_are_as_likely(paired):
    run = paired(fair, rows=600, until="answer")
    chosen = {}
    for record in read_records(next((run.directory / "stages").glob("*-answer.jsonl"))):
        chosen.setdefault(record.fields["instruction"], []).append(record.fields["by"])
    assert len(chosen) == 600 and sum(map(len, chosen.values())) == 2_400
    assert all(sorted(set(four)) == four and len(four) == 4 for four in chosen.values())
    counts = Counter(map(tuple, chosen.values()))
    assert chi_square(counts) < 29.14, "p > .01 with 14 degrees of freedom"
    always = Counter({("a", "b", "c", "d"): 80} | dict.fromkeys(list(counts)[1:], 520 / 14))
    assert chi_square(always) > 29.14, "the control: one choice twice as often"


def chi_square(counts):
    expected = sum(counts.values()) / 15
    return sum((counts[four] - expected) ** 2 / expected for four in itertools.combinations(MODELS, 4))


def test_the_pair_goes_the_way_that_the_judge_said(paired):
    run = paired(fair)
    rows = {record.fields["prompt"]: record.fields for record in read_records(run.directory / "corpus.jsonl")}
    answered = {}
    for record in read_records(next((run.directory / "stages").glob("*-grade.jsonl"))):
        answered.setdefault(record.fields["instruction"], []).append(record.fields["by"])
    clear = 0
    for task, four in answered.items():
        number = task.split()[-1]
        grades = {model: mean(number, model) for model in four}
        best, worst = max(grades.values()), min(grades.values())
        clear += best - worst >= 1
        assert (task in rows) == (best - worst >= 1)
        if task in rows:
            fields = rows[task]
            (_, better), (_, worse) = ANSWER.findall(fields["chosen"] + fields["rejected"])
            assert grades[better] == best and grades[worse] == worst and best > worst
            assert [part["by"] for part in fields["answers"]] == sorted(four, key=lambda m: -grades[m]), (
                "no grade that was paid for is lost, and equal ones stay in order"
            )
            assert float(fields["margin"]) == best - worst
    assert 0 < clear < 60 and drops(run)["filter", "where"] == 60 - clear
    assert set(rows[next(iter(rows))]) == {"prompt", "chosen", "rejected", "margin", "answers"}


AT_ONCE = """version: 1
models: {a: &a {provider: scripted, model: echo}, b: *a, c: *a, d: *a, e: *a, f: *a, judge: *a}
stages:
  - source: {path: tasks.jsonl}
  - generate: {model: [a, b, c, d, e, f], pick: 4, template: "{{ instruction }}", output: response}
  - gather: {into: answers, keep: [response]}
  - generate: {name: best, model: judge, output: best, template: "Which is the best?
      {% for answer in answers %}{{ answer.response }} {% endfor %}"}
"""


def test_a_judge_with_a_favourite_place_moves_no_pair(paired):
    fairly, partially = paired(fair, out="fair"), paired(partial_to_the_first, out="partial")
    assert pairs(fairly) == pairs(partially) and len(pairs(fairly)) > 10


def test_it_moves_many_where_the_answers_are_shown_at_once(project):
    """The control."""
    project.rows("tasks.jsonl", [{"instruction": f"Task {i}"} for i in range(60)])
    best = [
        [
            record.fields["best"]
            for record in read_records(
                teach(yaml.safe_load(AT_ONCE), teachers_of(judge), out=judge.__name__).directory
                / "corpus.jsonl"
            )
        ]
        for judge in (fair, partial_to_the_first)
    ]
    assert sum(one != other for one, other in zip(*best, strict=True)) > 20


def test_a_judge_that_always_says_the_same_makes_no_pair(paired):
    run = paired(constant)
    assert pairs(run) == [] and drops(run)["filter", "where"] == 60


def test_an_answer_without_grades_leaves_its_group_and_one_answer_is_no_group(paired):
    def silent(number, model, place):
        if model in "abc":
            raise ValueError("no grades")
        return merit(number, model)

    run = paired(silent, rows=30)
    assert all(model not in "abc" for pair in pairs(run) for _, model in ANSWER.findall("".join(pair)))
    assert drops(run)["grade", "failed"] + drops(run)["grade", "malformed"] > 0
    assert drops(run)["gather", "at_least"] > 0
