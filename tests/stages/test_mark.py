"""`mark` records verdicts and drops nothing; `where` chooses the rows of a training."""

import json
import random

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.inference.request import Completion
from tests.filters.test_shipped import CASES, NAMES, param
from tests.training.test_arms import FORM, asked, questions, taught  # noqa: F401 (a fixture)

ROWS = [
    {"text": "one two three"},
    {"text": "one"},
    {"text": "one two three"},
    {"text": "as an AI language model, no"},
]
FILTERS = [
    {"word_count": {"field": "text", "min_words": 2}},
    {"unique": {"by": ["text"]}},
    {"boilerplate": {"fields": ["text"]}},
]
MODELS = {"t": {"provider": "scripted", "model": "echo"}}


def run(project, *stages, rows=ROWS, out="r", script=None):
    project.rows("rows.jsonl", rows)
    pipeline = {"version": 1, "models": MODELS, "stages": [{"source": {"path": "rows.jsonl"}}, *stages]}
    return distillgen.run(pipeline, out=out, teachers={"t": script} if script else None)


@pytest.mark.parametrize(
    "chosen", [FILTERS, *([each] for each in FILTERS)], ids=["all", "words", "unique", "boilerplate"]
)
def test_a_filter_that_marks_says_what_the_plain_one_drops_and_why(project, chosen):
    run(project, {"filter": chosen}, out="plain")
    run(project, {"filter": {"mark": "fit", "filters": chosen}}, out="marked")
    plain = {
        row["meta"]["source"]: row["meta"]["dropped"]["reason"] for row in project.read("plain/dropped.jsonl")
    }
    rows = project.read("marked/corpus.jsonl")
    assert len(rows) == 4 and plain and not project.read("marked/dropped.jsonl")
    assert {row["meta"]["source"]: row["fit_why"] for row in rows if not row["fit"]} == plain
    assert all(row["fit_why"] == "" for row in rows if row["fit"])


def test_what_an_earlier_stage_dropped_stays_dropped(project):
    judged = {
        "filter": {
            "name": "again",
            "mark": "fit",
            "filters": [{"charset": {"field": "text", "characters": "a-z "}}],
        }
    }
    run(project, {"filter": FILTERS[:1]}, judged)
    assert [row["fit"] for row in project.read("r/corpus.jsonl")] == [True, True, False]
    assert [row["meta"]["dropped"]["filter"] for row in project.read("r/dropped.jsonl")] == ["word_count"]


def test_an_answer_that_cannot_be_used_is_marked(project):
    def script(request, sample):
        text = request.messages[-1]["content"]
        return Completion(text="half of", status="length") if text == "one" else "A whole answer."

    ask = {"generate": {"model": "t", "template": "{{ text }}", "output": "answer", "mark": "whole"}}
    made = run(project, ask, rows=ROWS[:2], script=script)
    first, second = project.read("r/corpus.jsonl")
    assert (first["answer"], first["whole"], first["whole_why"]) == ("A whole answer.", True, "")
    assert (second["answer"], second["whole"]) == ("half of", False) and "cut off" in second["whole_why"]
    assert made.state["failed"] == 0


def test_items_beyond_the_most_are_still_dropped(project):
    project.write("prompts/items.md", "---\nabout: items\noutput: lines\n---\n{{ text }}\n")
    ask = {"generate": {"model": "t", "prompt": "items", "output": "item", "mark": "whole", "max_items": 2}}
    run(project, ask, rows=ROWS[:1], script=lambda request, sample: "a\nb\nc")
    assert [row["item"] for row in project.read("r/corpus.jsonl")] == ["a", "b"]
    assert project.read("r/dropped.jsonl")[0]["meta"]["dropped"]["filter"] == "max_items"


@pytest.mark.parametrize(
    "stage",
    [
        {"filter": {"mark": "meta", "filters": FILTERS}},
        {"generate": {"model": "t", "template": "x", "mark": "meta"}},
    ],
)
def test_a_mark_of_our_own_name_is_refused(project, stage):
    with pytest.raises(ConfigError, match="mark: the field 'meta' is distillgen's own"):
        run(project, stage)


def test_a_training_learns_from_the_records_where_its_condition_holds(taught):  # noqa: F811
    even = {"filter": {"mark": "even", "filters": ["only_even"]}}
    rows, data, _ = taught([even, FORM], questions(6), arms=("kept", "shuffled"), where="{{ even }}")
    assert asked(rows["kept"]) == [0, 2, 4] == asked(rows["shuffled"])
    assert data["kept"]["rows"]["left out: by 'where'"] == 3
    rows, _, _ = taught([even, FORM], questions(6), arms=("kept",))
    assert asked(rows["kept"]) == [0, 1, 2, 3, 4, 5], "without the condition all are learnt from"


def test_a_condition_that_some_row_cannot_fill_leaves_it_out(taught):  # noqa: F811
    given = [{**row, "note": None if row["n"] == 1 else row["n"] != 2} for row in questions(4)]
    rows, data, _ = taught([FORM], given, arms=("kept",), where="{{ note }}")
    assert asked(rows["kept"]) == [0, 3]
    assert any("'where': " in why for why in data["kept"]["rows"])


@pytest.mark.parametrize(
    "train, message",
    [
        ({"where": "{{ evn }}"}, "'where' needs the field 'evn'"),
        (
            {"where": "{{ even }}", "arms": ("raw",)},
            "on: raw learns from records that filters dropped, and 'where' drops none",
        ),
    ],
)
def test_a_condition_that_cannot_hold_is_refused(taught, train, message):  # noqa: F811
    stages = [
        {"filter": {"mark": "even", "filters": ["only_even"]}},
        {"filter": {"name": "x", "filters": [{"finished": {"fields": ["answer"]}}]}},
        FORM,
    ]
    with pytest.raises(ConfigError, match=message):
        taught(stages, questions(4), arms=train.pop("arms", ("kept",)), **train)


def test_a_filter_that_only_marks_makes_no_arm(taught):  # noqa: F811
    with pytest.raises(ConfigError, match="on: raw: the arm would equal the kept rows"):
        taught([{"filter": {"mark": "even", "filters": ["only_even"]}}, FORM], questions(4), arms=("raw",))


PLANTED = '''
from distillgen import Filter


def planted(*, label: str) -> Filter:
    """Give the scores that a row brings along. Costs nothing."""
    def measure(records):
        return [r.fields["planted"].get(label) or {"none": 0.0} for r in records]

    return Filter(measure, lambda number: None)
'''


def catalogue_case(name):
    """The options that most cases of a filter share, the rows of these cases with their scores by label, and
    what its models can answer.
    """
    cases = [case for case in CASES[name] if "NaN" not in json.dumps(case[1])]  # which no file of rows holds
    options = max((case[0] for case in cases), key=lambda each: sum(case[0] == each for case in cases))
    rows, answers = [], ["6", "9"]
    for _, fields, _, *said in (case for case in cases if case[0] == options):
        row = {key: value for key, value in fields.items() if key != "meta"}
        planted = {}
        for score, number in fields.get("meta", {}).get("scores", {}).items():
            label, _, part = score.partition(".")
            planted.setdefault(label, {})[part] = number
        rows.append({**row, "planted": planted, "number": len(rows)})
        answers += [answer for each in said for answer in each]
    return options, rows, answers


@pytest.mark.parametrize("name", [param(name) for name in NAMES])
def test_mark_then_where_is_the_plain_filter(project, name):
    options, rows, answers = catalogue_case(name)
    project.write("filters/planted.py", PLANTED)
    rows = rows * 2  # a filter that compares records sees each twice
    every = {**dict.fromkeys(key for row in rows for key in row)}
    rows = [{key: row.get(key, every[key]) for key in every} | {"number": i} for i, row in enumerate(rows)]
    labels = {label for row in rows for label in row["planted"]}
    planted = [{"planted": {"name": label, "label": label}} for label in sorted(labels)]
    given = [{"filter": {"name": "given", "filters": planted}}] if planted else []
    project.rows("rows.jsonl", rows)
    models = {options.get("model", ""), *options.get("models", ())}
    models = {model for model in models if model and ".py" not in model}  # a script in a file is no model

    def script(request, sample):
        text = json.dumps([turn["content"] for turn in request.messages])
        return random.Random(text).choice(answers)

    def carried_out(out, *stages):
        source = {"source": {"path": "rows.jsonl"}}
        distillgen.run(
            {
                "version": 1,
                "models": {model: {"provider": "scripted", "model": "echo"} for model in models},
                "stages": [source, *given, *stages],
            },
            out=out,
            teachers=dict.fromkeys(models, script),
        )
        return [project.read(f"{out}/{file}.jsonl") for file in ("corpus", "dropped")]

    kept, dropped = carried_out("plain", {"filter": [{name: options}]})
    where = {"filter": {"name": "chosen", "filters": [{"where": {"name": "w", "true": "{{ fit }}"}}]}}
    marked_kept, marked_dropped = carried_out(
        "marked", {"filter": {"mark": "fit", "filters": [{name: options}]}}, where
    )
    assert [row["number"] for row in marked_kept] == [row["number"] for row in kept]
    reasons = {row["number"]: row["meta"]["dropped"]["reason"] for row in dropped}
    assert {row["number"]: row["fit_why"] for row in marked_dropped} == reasons
    assert all(
        row["meta"]["dropped"]["reason"] == "{{ fit }} is not true: fit false" for row in marked_dropped
    )
    assert [row["meta"]["scores"] | {"w": 1.0} for row in kept] == [
        row["meta"]["scores"] for row in marked_kept
    ]
    turned = {"filter": {"name": "chosen", "filters": [{"where": {"name": "w", "true": "{{ not fit }}"}}]}}
    opposite, _ = carried_out("turned", {"filter": {"mark": "fit", "filters": [{name: options}]}}, turned)
    assert [row["number"] for row in opposite] == sorted(reasons), "the control keeps the others"
