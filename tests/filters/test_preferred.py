"""Two texts compared in both orders by a planted judge."""

import json

import pytest

import distillgen
from distillgen.inference.request import Completion
from distillgen.plugins import filter_factory

OPTIONS = {"model": "judge", "rubric": "Which is right?", "field": "a", "over": "b", "fields": ["q"]}
FIRST, SECOND, NEITHER = (
    json.dumps({"reason": "so", "better": word}) for word in ("first", "second", "neither")
)
TEXTS = {"q": "Why?", "a": "So.", "b": "Not so."}

CASES = [
    (OPTIONS, TEXTS, None, [FIRST, SECOND]),
    (OPTIONS, TEXTS, "the b is preferred in both orders", [SECOND, FIRST]),
    (OPTIONS, TEXTS, "not preferred to the b in both orders", [FIRST, FIRST]),
    (OPTIONS, TEXTS, "not preferred to the b in both orders", [FIRST, NEITHER]),
    ({**OPTIONS, "keep_ties": True}, TEXTS, None, [SECOND, SECOND]),
    ({**OPTIONS, "keep_ties": True}, TEXTS, "the b is preferred", [SECOND, FIRST]),
    (
        OPTIONS,
        TEXTS,
        "not judged: better: 'third' is not one of",
        [FIRST, '{"reason": "so", "better": "third"}'],
    ),
]


def longer(request, sample):
    """A judge with a criterion: the longer answer is better."""
    text = request.messages[-1]["content"]
    first, second = text.split("First answer: ")[1].split("\n\nFirst say")[0].split("\n\nSecond answer: ")
    return SECOND if len(second) > len(first) else FIRST if len(first) > len(second) else NEITHER


def biased(request, sample):
    return FIRST


@pytest.mark.parametrize("judge, kept, findings", [(longer, 30, [0.0, 0.5]), (biased, 0, [1.0, 1.0])])
def test_a_judge_that_judges_and_one_that_always_takes_the_first(project, judge, kept, findings):
    rows = [{"q": str(i), "a": "x" * (1 + i % 3), "b": "xx"} for i in range(90)]
    project.rows("rows.jsonl", rows)
    options = {name: value for name, value in OPTIONS.items() if name != "rubric"} | {
        "rubric": "The longer one."
    }
    pipeline = {
        "version": 1,
        "models": {"judge": {"provider": "scripted", "model": "echo"}},
        "stages": [{"source": {"path": "rows.jsonl"}}, {"filter": [{"preferred": options}]}],
    }
    run = distillgen.run(pipeline, out="out", teachers={"judge": judge})
    assert [len(row["a"]) for row in project.read("out/corpus.jsonl")] == [3] * kept
    assert list(run.state["stages"][1]["measured"].values()) == pytest.approx(findings)
    assert run.state["totals"]["requests"] == 150  # two equal texts make the same request in both orders
    report = (project.path / "out/report.html").read_text()
    assert f"<li>preferred: share of verdicts that change with the order {findings[0]:.0f}</li>" in report
    again = distillgen.run(
        {
            **pipeline,
            "stages": [pipeline["stages"][0], {"filter": [{"preferred": {**options, "keep_ties": True}}]}],
        },
        out="out",
        teachers={"judge": judge},
    )
    assert again.state["totals"]["requests"] == 150 and again.state["kept"] == 60 + (judge is biased) * 30


def test_what_is_asked(project):
    root = distillgen.Project(project.path)
    made = filter_factory("preferred", root)(**OPTIONS, project=root)
    one, other = (request.messages[-1]["content"] for request in made.asks(distillgen.Record.read(TEXTS, "")))
    assert (
        "First answer: So.\n\nSecond answer: Not so." in one
        and "First answer: Not so.\n\nSecond answer: So." in other
    )
    assert json.loads(Completion(text=FIRST).text)["better"] == "first" and "q: Why?" in one
