"""Several planted judges."""

import random
import re

import distillgen

OPTIONS = {"models": ["one", "two", "three"], "rubric": "Is it true?", "fields": ["a"], "min_score": 6}


def says(*grades):
    return [f'{{"reason": "so", "score": {grade}}}' for grade in grades]


CASES = [
    (OPTIONS, {"a": "Two."}, None, says(9, 8, 7)),
    (OPTIONS, {"a": "Two."}, None, says(6, 6, 6)),
    (OPTIONS, {"a": "Two."}, "graded 5.7 of 10 < 6", says(9, 4, 4)),
    ({**OPTIONS, "max_spread": 4}, {"a": "Two."}, "the judges are 5 apart > 4", says(10, 10, 5)),
    ({**OPTIONS, "max_spread": 5}, {"a": "Two."}, None, says(10, 10, 5)),
    (OPTIONS, {"a": "Two."}, "not judged: the grade 0 is not between 1 and 10", says(9, 0, 9)),
]


def run_panel(project, third):
    """A panel of two judges that see the planted truth with a little noise, and a third."""
    project.rows("rows.jsonl", [{"a": f"true to degree {1 + i % 10}, said {i} times"} for i in range(100)])

    def knows(request, sample):
        truth, times = re.search(r"degree (\d+), said (\d+)", request.messages[-1]["content"]).groups()
        return says(min(10, int(truth) + int(times) // 10 % 2))[0]

    models = {name: {"provider": "scripted", "model": "echo"} for name in OPTIONS["models"]}
    pipeline = {
        "version": 1,
        "models": models,
        "stages": [{"source": {"path": "rows.jsonl"}}, {"filter": [{"panel": OPTIONS}]}],
    }
    teachers = {"one": knows, "two": knows, "three": third or knows}
    return distillgen.run(pipeline, out="out", teachers=teachers).state["stages"][1]["measured"]


ALPHA = "panel: agreement of the judges (Krippendorff's alpha)"


def test_judges_that_know_agree_and_keep_what_is_true(project):
    found = run_panel(project, None)
    assert found[ALPHA] == 1
    kept = [int(re.search(r"degree (\d+)", row["a"])[1]) for row in project.read("out/corpus.jsonl")]
    assert min(kept) >= 5 and len(kept) == 55
    assert ALPHA in (project.path / "out/report.html").read_text().replace("&#39;", "'")


def test_a_constant_judge_is_exposed(project):
    found = run_panel(project, lambda request, sample: says(8)[0])
    assert (
        found["panel: standard deviation of three's grades"]
        == 0
        < 2
        < found["panel: standard deviation of one's grades"]
    )
    assert found[ALPHA] < 0.6


def test_a_judge_whose_grades_are_shuffled_agrees_less(project):
    draw = random.Random(3)
    found = run_panel(project, lambda request, sample: says(draw.randrange(1, 11))[0])
    assert found[ALPHA] < 0.6 and found["panel: standard deviation of three's grades"] > 2
