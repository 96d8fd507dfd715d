"""`when`: records for which a condition does not hold pass a stage by; scores in templates."""

import json
import re
import sys
from pathlib import Path

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.flow.stage import stage_class
from distillgen.pipeline.load import load
from distillgen.project import Project
from tests.training.test_arms import FORM, asked, questions, taught  # noqa: F401 (a fixture)

ROWS = [{"text": f"t{i}", "hard": i % 3 == 0, "note": None if i == 1 else "n"} for i in range(10)]
HARD = ["t0", "t3", "t6", "t9"]
COUNT = {"filter": {"mark": "long", "filters": [{"word_count": {"field": "text", "min_words": 2}}]}}


class Counting:
    """A teacher that keeps what it was asked."""

    def __init__(self, reply=lambda text: f"re {text}"):
        self.asked, self.reply = [], reply

    def __call__(self, request, sample):
        self.asked.append(request.messages[-1]["content"])
        return self.reply(self.asked[-1])


def pipeline(*stages, rows="rows.jsonl"):
    models = {"t": {"provider": "scripted", "model": "echo"}}
    return {"version": 1, "models": models, "stages": [{"source": {"path": rows}}, *stages]}


def ask(when, output="answer", **options):
    return {"generate": {"model": "t", "template": "{{ text }}", "output": output, "when": when, **options}}


def run(project, *stages, rows=ROWS, teacher=None, out="r", **options):
    project.rows("rows.jsonl", rows)
    teacher = teacher or Counting()
    return distillgen.run(pipeline(*stages), out=out, teachers={"t": teacher}, **options), teacher


def read(project, *names, out="r"):
    rows = project.read(f"{out}/corpus.jsonl")
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize("limit", [None, 4])
def test_records_that_pass_by_keep_their_place_and_get_null(project, limit):
    made, teacher = run(project, ask("{{ hard }}"), limit=limit)
    assert sorted(teacher.asked) == [text for text in HARD if int(text[1:]) < (limit or 10)]
    expected = [(r["text"], f"re {r['text']}" if r["hard"] else None) for r in ROWS[:limit]]
    assert read(project, "text", "answer") == expected
    assert {frozenset(row) for row in project.read("r/corpus.jsonl")} == {
        frozenset([*ROWS[0], "answer", "meta"])
    }
    stage = made.state["stages"][1]
    assert stage["measured"] == {
        "condition met": len(teacher.asked),
        "passed by": len(expected) - len(teacher.asked),
    }
    assert not stage["dropped"]


def test_without_a_condition_all_are_asked(project):
    _, teacher = run(project, ask(None))
    assert len(teacher.asked) == 10


def test_a_field_that_a_stage_overwrites_stays_as_it_was(project):
    run(project, ask("{{ hard }}", output="text"))
    assert read(project, "text")[:4] == [("re t0",), ("t1",), ("t2",), ("re t3",)]


@pytest.mark.parametrize(
    "when, held",
    [
        ("{{ note }}", 9),
        ("{{ not note }}", 1),
        ("{{ 'n' not in note }}", 0),
        ("{{ note | length > 0 }}", 9),
        ("{{ 'no' if hard else 'yes' }}", 6),
        ("{{ 0 }}", 0),
        ("  ", 0),
    ],
)
def test_what_a_null_decides_does_not_hold(project, when, held):
    made, teacher = run(project, ask(when))
    assert len(teacher.asked) == held and made.state["kept"] == 10


def test_a_condition_without_a_text_drops_the_record_and_says_why(project):
    made, _ = run(project, ask("{{ text > 3 }}"))
    assert made.state["kept"] == 0
    assert "when: TypeError" in project.read("r/dropped.jsonl")[0]["meta"]["dropped"]["reason"]


@pytest.mark.parametrize(
    "stage, message",
    [
        (
            {"select": {"by": "random", "n": 2, "when": "{{ hard }}"}},
            "no record can pass by a stage 'select'",
        ),
        ({"diversity": {"field": "text", "when": "{{ hard }}"}}, "no record can pass by a stage 'diversity'"),
        (ask("{{ hrd }}"), "'when' needs the field 'hrd'.*did you mean 'hard'"),
        (ask("{{ scores.long > 1 }}"), "'when' needs the score 'long'"),
        ({"format": {"keep": ["text"], "when": "{{ hard }}"}}, "the stage removes 'hard'"),
        (ask("{{ hard"), "'when': template: "),
        (
            {"filter": [{"where": {"true": "{{ scores.lang }}"}}]},
            r"filter 'where' \(true\) needs the score 'lang'",
        ),
        (ask("x", template="{{ scores['word_cont'] }}"), "needs the score 'word_cont'.*mean 'word_count'"),
        ({"format": {"fields": {"a": "{{ scores.language }}"}}}, "the template of 'a' needs the score"),
    ],
)
def test_check_refuses_what_cannot_hold(project, stage, message):
    project.rows("rows.jsonl", ROWS)
    with pytest.raises(ConfigError, match=message):
        load(pipeline(COUNT, stage))


def test_a_source_takes_no_condition(project):
    project.rows("rows.jsonl", ROWS)
    given = pipeline()
    given["stages"][0]["source"]["when"] = "{{ hard }}"
    with pytest.raises(ConfigError, match="no record can pass by a stage 'source'"):
        load(given)


def test_templates_see_the_scores_of_earlier_filters(project):
    words = {"word_count": {"name": "words", "field": "text"}}
    again = {"where": {"true": "{{ scores.words < 2 }}"}}
    shown = {"format": {"fields": {"n": "{{ scores['words'] }}"}}}
    _, teacher = run(
        project, {"filter": [words, again]}, shown, ask("x", template="{{ n }} {{ scores.words }}")
    )
    assert teacher.asked == ["1.0 1.0"] and read(project, "n")[0] == ("1.0",)


def test_a_shape_sees_the_scores_in_the_pipeline_and_in_an_export(project):
    words = {"filter": [{"word_count": {"name": "words", "field": "text"}}]}
    parts = {"text": "text", "label": "{{ scores.words }}"}
    run(project, words, {"format": {"shape": {"labelled": parts}}})
    assert read(project, "text", "label")[0] == ("t0", "1.0")
    project.cli("export", "r", "--shape", "labelled:label={{ scores.words + 1 }}", "-o", "x.jsonl")
    assert project.read("x.jsonl")[0]["label"] == "2.0"
    with pytest.raises(ConfigError, match="the template of 'label' needs the score 'word'"):
        run(project, words, {"format": {"shape": {"labelled": parts | {"label": "{{ scores.word }}"}}}})


def test_a_field_named_scores_hides_them(project):
    rows = [{"text": "a b", "scores": {"words": "mine"}}]
    words = {"filter": [{"word_count": {"name": "words", "field": "text"}}]}
    _, teacher = run(
        project, words, ask("x", template="{{ scores.words }}{{ scores['other'] or '' }}"), rows=rows
    )
    assert not teacher.asked, "a part that the field lacks is an error, as in any other field"
    _, teacher = run(project, words, ask("x", template="{{ scores.words }}"), rows=rows, out="s")
    assert teacher.asked == ["mine"]


def test_a_score_that_a_record_lacks_is_null(project):
    words = {
        "filter": {"when": "{{ hard }}", "filters": [{"word_count": {"name": "words", "field": "text"}}]}
    }
    _, teacher = run(project, words, ask("{{ scores.words }}"))
    assert sorted(teacher.asked) == HARD


def test_a_filter_drops_only_records_for_which_its_condition_holds(project):
    rows = [{"text": "same", "hard": i % 2 == 0} for i in range(6)]
    unique = {"unique": {"by": ["text"]}}
    run(project, {"filter": {"when": "{{ hard }}", "filters": [unique]}}, rows=rows)
    assert read(project, "hard") == [(True,), (False,), (False,), (False,)]
    run(project, {"filter": [unique]}, rows=rows, out="plain")
    assert len(project.read("plain/corpus.jsonl")) == 1


def test_a_filter_that_marks_gives_null_to_records_that_pass_by(project):
    short = {"word_count": {"field": "text", "min_words": 2}}
    run(project, {"filter": {"when": "{{ hard }}", "mark": "fit", "filters": [short]}})
    assert read(project, "fit", "fit_why")[:2] == [(False, "1 words < 2"), (None, None)]


def test_a_changed_condition_asks_only_the_rows_that_newly_match(project):
    first, teacher = run(project, ask("{{ hard }}"))
    run(project, ask("{{ hard or text == 't1' }}"), teacher=teacher)
    assert sorted(teacher.asked) == sorted([*HARD, "t1"])
    run(project, ask("{{ text == 't1' }}"), teacher=teacher)
    assert len(teacher.asked) == 5, "a narrower condition asks nobody"
    assert [row for row in read(project, "answer") if row[0]] == [("re t1",)]


def test_a_killed_run_goes_on_and_asks_no_one_twice(project, endpoint):
    endpoint.latency_s = 0.02
    after = '  - generate: {name: more, when: "{{ scores.words > 1 and %s }}", model: teacher, '
    after += 'template: "Go on: {{ answer }}", output: more}\n'
    words = "  - filter: [word_count: {name: words, field: answer}]\n"
    path = project.ask_pipeline(
        endpoint.url, 60, stage=', when: "{{ number % 2 }}"', model=", max_concurrency: 4"
    )
    text = path.read_text()
    path.write_text(
        text + "  - format: {fields: {answer: \"{{ answer or 'one' }}\"}}\n" + words + after % "number > 10"
    )
    command = [sys.executable, "-m", "distillgen", "run", "ask", "-o", "r", "--ledger", "l.sqlite3"]
    project.kill_at([5, 20], command, "l.sqlite3")
    project.cli("run", "ask", "-o", "r", "--ledger", "l.sqlite3")
    rows = project.read("r/corpus.jsonl")
    assert [row["number"] for row in rows] == list(range(60))
    assert [row["more"] is not None for row in rows] == [n % 2 == 1 and n > 10 for n in range(60)]
    assert endpoint.asked.total() - len(endpoint.asked) <= 2 * 4, "asked again: more than was in flight"
    before = set(endpoint.asked)
    path.write_text(path.read_text().replace("number > 10", "number > 4"))
    project.cli("run", "ask", "-o", "r", "--ledger", "l.sqlite3")
    newly = set(endpoint.asked) - before
    assert len(newly) == 3, "5, 7 and 9 match now"
    project.cli("run", "ask", "-o", "whole", "--ledger", "l.sqlite3")
    assert Path("whole/corpus.jsonl").read_bytes() == Path("r/corpus.jsonl").read_bytes()


def test_retry_failed_asks_again_only_what_failed_and_meets_the_condition(project):
    broken = Counting(lambda text: {}["no"] if text == "t3" else f"re {text}")
    made, _ = run(project, ask("{{ hard }}"), teacher=broken)
    assert made.state["failed"] == 1
    _, teacher = run(project, ask("{{ hard }}"), retry_failed=True)
    assert teacher.asked == ["t3"] and read(project, "answer")[3] == ("re t3",)


def test_a_condition_in_rounds_is_asked_about_each_round(project):
    grow = {
        "generate": {
            "model": "t",
            "template": "{{ text }}",
            "output": "text",
            "when": "{{ text | length < 9 }}",
        }
    }
    loop = {
        "rounds": {
            "n": 4,
            "repeat": True,
            "carry": ["text"],
            "stages": [{"format": {"name": "begin", "fields": {"text": "{{ text or 't' }}"}}}, grow],
        }
    }
    made, teacher = run(project, loop, rows=[{"text": "abc"}, {"text": "abcdefgh"}, {"text": "abcdefghijk"}])
    rounds = json.loads(Path("r/rounds/rounds.json").read_bytes())["rounds"]
    assert len(rounds) == 4 and all("generate.passed by" in each for each in rounds)
    assert rounds[0]["generate.condition met"] + rounds[0]["generate.passed by"] == 3
    again, second = run(project, loop, rows=[{"text": "abc"}, {"text": "abcdefgh"}, {"text": "abcdefghijk"}])
    assert not second.asked


def test_the_plan_takes_every_record_and_says_the_share_so_far(project):
    from distillgen.pipeline.load import Done

    project.rows("rows.jsonl", ROWS)
    stages = ask("{{ hard }}", max_tokens=5), {"filter": [{"where": {"true": "{{ answer }}"}}]}
    checked = load(pipeline(*stages))
    estimate = checked.plan()[1][1]
    assert (estimate.requests, estimate.rows) == (10, 10), "before a run, all may meet the condition"
    assert checked.plan(None, [Done(1.0, 10), Done(0.5, None, 0.4)])[1][1].requests == 5
    run(project, *stages)
    project.write("pipelines/p.yaml", json.dumps(pipeline(*stages)))
    scored = ask("{{ scores.words < 3 }}", template="{{ scores.words }} {{ text }}", max_tokens=5)
    words = {"filter": [{"word_count": {"name": "words", "field": "text"}}]}
    estimate = load(pipeline(words, scored)).plan()[2][1]
    assert estimate.requests == 10, "a score that is not measured yet stands for any"


def test_the_pages_count_records_that_passed_by(project, capsys):
    from distillgen.cli import show

    made, _ = run(project, ask("{{ hard }}"), {"filter": [{"word_count": {"field": "text"}}]})
    show.summary(made)
    show.status(made)
    told = capsys.readouterr().out
    assert "generate: its condition held for 4 records, and 6 passed by" in told
    assert "condition met 4, passed by 6" in told
    assert re.search(r"passed by 6", Path("r/report.html").read_text())
    assert "6 passed by" in Path("r/README.md").read_text()


def test_an_arm_forms_dropped_records_only_where_the_condition_holds(taught):  # noqa: F811
    changed = {
        "format": {"name": "polite", "when": "{{ n > 2 }}", "fields": {"answer": "Sure: {{ answer }}"}}
    }
    rows, _, _ = taught([{"filter": ["only_even"]}, changed, FORM], questions(6), arms=("raw",))
    answers = [row["completion"][0]["content"] for row in rows["raw"]]
    assert asked(rows["raw"]) == [0, 1, 2] and answers == ["It is 0.", "It is 1.", "It is 2."]
    changed["format"]["when"] = "{{ n < 2 }}"
    rows, _, _ = taught([{"filter": ["only_even"]}, changed, FORM], questions(6), arms=("raw",))
    answers = [row["completion"][0]["content"] for row in rows["raw"]]
    assert answers == ["Sure: It is 0.", "Sure: It is 1.", "It is 2."], "a dropped record meets it, too"


def test_a_score_of_zero_does_not_hold(project):
    words = {"filter": [{"word_count": {"name": "words", "field": "note"}}]}
    _, teacher = run(project, words, ask("{{ scores.words - 1 }}"), rows=[{"text": "t", "note": "one"}])
    assert not teacher.asked


def test_a_stage_without_a_condition_has_the_options_that_it_had():
    stage = stage_class("format", Project(Path())).model_validate({"keep": ["a"]})
    assert "when" not in stage.model_dump(), "it would change the fingerprint of every run and student"
