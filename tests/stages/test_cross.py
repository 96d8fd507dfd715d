"""The stage cross, matching few-shot examples, and removal by --set: the means of a recipe with several
tasks.
"""

import json

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.pipeline.load import load

TASKS = [{"task": "name", "ask": "What is it called?"}, {"task": "use", "ask": "What is it for?"}]
PROMPT = """---
few_shot: {n: 2, match: [task], examples: [{task: name, thing: a, answer: A},\
 {task: use, thing: b, answer: B}, {task: use, thing: c, answer: C}]}
---
{{ ask }} {{ thing }}
"""


def pipeline(project, *, tasks=TASKS, prompt=PROMPT, rows=3):
    project.rows("data/things.jsonl", [{"thing": f"thing {i}"} for i in range(rows)])
    project.rows("data/tasks.jsonl", tasks)
    project.write("prompts/ask.md", prompt)
    return project.write(
        "pipelines/p.yaml",
        """version: 1
models: {t: {provider: scripted, model: echo}}
stages:
  - source: {path: data/things.jsonl}
  - cross: {rows: data/tasks.jsonl}
  - generate: {model: t, prompt: ask, output: said}
  - filter: {name: short, filters: [brevity: {field: said, max_words: 3}]}
""",
    )


def rows_of(run, file="corpus"):
    return [json.loads(line) for line in (run.directory / f"{file}.jsonl").read_text().splitlines()]


def test_every_record_meets_every_row_in_order(project):
    run = distillgen.run(pipeline(project), out="run", sets=["short=null"])
    rows = rows_of(run)
    assert [(row["thing"], row["task"]) for row in rows] == [
        (f"thing {i}", task) for i in range(3) for task in ("name", "use")
    ]
    assert len({row["meta"]["id"] for row in rows}) == 6 and rows[0]["said"] == "What is it called? thing 0"
    assert [(s.kind, e.rows) for s, e in load("p").plan()][1:3] == [("cross", 6), ("generate", 6)]


def test_only_examples_that_match_are_shown(project):
    seen = {}

    def answer(request, sample):
        seen[request.messages[-1]["content"]] = sorted(
            m["content"] for m in request.messages if m["role"] == "assistant"
        )
        return "x"

    distillgen.run(pipeline(project, rows=1), out="run", teachers={"t": answer})
    assert seen == {"What is it called? thing 0": ["A"], "What is it for? thing 0": ["B", "C"]}


def test_a_record_that_no_example_matches_says_so(project):
    run = distillgen.run(pipeline(project, tasks=[{"task": "colour", "ask": "Which?"}], rows=1), out="run")
    assert run.dropped[0].dropped.reason == "prompt ask: no example has task 'colour'"


@pytest.mark.parametrize(
    "given, told",
    [
        (
            {"tasks": [TASKS[0], {"task": "use"}]},
            "row 2 of 'rows' gives ['task'], the first one ['ask', 'task']",
        ),
        ({"tasks": [{"thing": 1}]}, "'rows' give the field 'thing', which the records have"),
        ({"tasks": [TASKS[0], TASKS[0]]}, "'rows' has two equal rows"),
        ({"tasks": []}, "'data/tasks.jsonl' has no rows"),
        ({"tasks": [{"ask": "What?"}]}, "needs the field 'task'"),
        (
            {"prompt": PROMPT.replace("match: [task]", "match: [kind]")},
            "few_shot: example 1 has no 'kind', by which they match",
        ),
    ],
)
def test_a_mistake_is_told_before_anything_is_asked(project, given, told):
    path = pipeline(project, **given)
    with pytest.raises(ConfigError) as error:
        load(path)
    assert told in str(error.value)


def test_set_addresses_stages_by_kind_and_removes_stages(project):
    path = project.write(
        "p.yaml",
        """version: 1
stages:
  - source: {path: rows.jsonl}
  - format: {name: one, fields: {a: "{{ text }}"}}
  - format: {name: two, fields: {b: "{{ text }}"}}
  - filter: {name: last, filters: [brevity: {field: text, max_words: 1}, unique: {by: [text]}]}
""",
    )
    project.rows("rows.jsonl", [{"text": "a b"}, {"text": "a b"}])
    stages = {stage.name: stage for stage in load(path, ["format.keep=[text]"]).stages}
    assert stages["one"].keep == stages["two"].keep == ["text"]
    assert [stage.name for stage in load(path, ["format=null"]).stages] == ["source", "last"]
    assert [stage.name for stage in load(path, ["two=null"]).stages] == ["source", "one", "last"]
    assert distillgen.run(path, out="run", sets=["brevity=null"]).dropped.group("filter").keys() == {"unique"}
    assert distillgen.run(path, out="run", sets=["brevity.max_words=2", "unique=null"]).state["kept"] == 2


def test_several_dialogues_of_one_record(project):
    project.rows("rows.jsonl", [{"q": "1?", "a": "one", "b": "uno"}])
    turns = {
        "en": [{"user": "{{ q }}"}, {"assistant": "{{ a }}"}],
        "es": [{"user": "{{ q }}"}, {"assistant": "{{ b }}"}],
    }
    stages = [{"source": {"path": "rows.jsonl"}}, {"format": {"messages": turns, "keep": []}}]
    (row,) = rows_of(distillgen.run({"version": 1, "stages": stages}, out="run"))
    assert [[turn["content"] for turn in row[field]] for field in ("en", "es")] == [
        ["1?", "one"],
        ["1?", "uno"],
    ]
    assert "messages" not in row
