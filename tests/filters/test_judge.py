"""Grades by a rubric, from a planted judge."""

import re

import pytest

import distillgen

OPTIONS = {"model": "judge", "rubric": "Is it true?", "fields": ["answer"], "min_score": 6}

CASES = [
    (OPTIONS, {"answer": "Two."}, None, ['{"reason": "so", "score": 9}']),
    (OPTIONS, {"answer": "Two."}, None, ['Well: {"reason": "so", "score": 6}']),
    (OPTIONS, {"answer": "Two."}, "graded 5 of 10 < 6", ['{"reason": "so", "score": 5}']),
    (
        OPTIONS,
        {"answer": "Two."},
        "not judged: the grade 11 is not between 1 and 10",
        ['{"reason": "so", "score": 11}'],
    ),
    (OPTIONS, {"answer": "Two."}, "not judged: there is no JSON", ["nine"]),
]

SAYS = '{"reason": "so", "score": %d}'


def checks(request, sample):
    """A judge that compares each answer's number with its source's."""
    passage, answer = re.search(
        r"passage: .*?(\d+).*answer: .*?(\d+)", request.messages[-1]["content"], re.S
    ).groups()
    return SAYS % (10 if passage == answer else 1)


@pytest.mark.parametrize(
    "judge, deviation, kept", [(checks, 4.5, 20), (lambda request, sample: SAYS % 8, 0, 40)]
)
def test_a_factual_judge_sees_the_source_and_a_constant_one_is_exposed(project, judge, deviation, kept):
    rows = [
        {"passage": f"The lake is {i} metres deep.", "answer": f"It is {i + i % 2} metres deep."}
        for i in range(40)
    ]
    project.rows("rows.jsonl", rows)
    options = {
        "model": "judge",
        "prompt": "judge/factual",
        "rubric": "the answer",
        "fields": ["passage", "answer"],
    }
    stages = [{"source": {"path": "rows.jsonl"}}, {"filter": [{"judge": options}]}]
    pipeline = {
        "version": 1,
        "models": {"judge": {"provider": "scripted", "model": "echo"}},
        "stages": stages,
    }
    run = distillgen.run(pipeline, out="out", teachers={"judge": judge})
    assert run.state["stages"][1]["measured"] == {"judge: standard deviation of the grades": deviation}
    assert run.state["kept"] == kept
