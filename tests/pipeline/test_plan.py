"""A plan bounds the requests still to come; it subtracts finished work of unchanged stages."""

import json

import pytest

import distillgen
from distillgen.flow.stage import Estimate
from distillgen.pipeline.load import Done

JUDGED = "  - generate: {name: again, model: teacher, template: '{{ answer }}?', output: doubt}\n"


@pytest.fixture
def ask(project, endpoint):
    project.ask_pipeline(
        endpoint.url,
        8,
        model=", price: {input: 1, output: 1}, max_tokens: 20, max_concurrency: 1",
        after=JUDGED,
    )
    project.endpoint = endpoint
    return project


def planned(project, *args):
    told = json.loads(project.cli("plan", "ask", "--json", *args).stdout)
    return [stage["requests"] for stage in told["stages"]], told["totals"]["max_cost_usd"]


def test_a_finished_run_leaves_nothing_to_ask(ask):
    requests, most = planned(ask)
    assert requests == [0, 8, 8] and most > 0
    ask.cli("run", "ask")
    assert planned(ask) == ([0, 0, 0], 0.0)
    assert (
        "already done, and subtracted: source 100 %, generate 100 %, again 100 %"
        in ask.cli("plan", "ask").stdout
    )
    assert planned(ask, "-o", "runs/other")[0] == [0, 8, 8], "another run has its own"


def test_a_change_counts_from_its_stage_on(ask):
    ask.cli("run", "ask")
    path = ask.path / "pipelines/ask.yaml"
    written = path.read_text()
    path.write_text(written.replace("{{ answer }}?", "{{ answer }}!"))
    assert planned(ask)[0] == [0, 0, 8]
    path.write_text(written.replace("{{ question }}", "{{ question }} Please."))
    assert planned(ask)[0] == [0, 8, 8]
    path.write_text(written)
    ask.rows("data/seeds.jsonl", [{"question": f"What is {i}?", "number": i} for i in range(9)])
    assert planned(ask)[0] == [0, 9, 9], "rows that are new may change everything"


def test_what_a_stopped_run_has_done_is_taken_off_and_the_bound_holds(ask):
    (_, most), before = planned(ask), ask.endpoint.asked.total()
    ask.cli("run", "ask", "--max-cost-usd", most / 8, check=4)
    stopped_after = ask.endpoint.asked.total() - before
    requests, left = planned(ask)
    held = json.loads((ask.path / "runs/ask/usage.json").read_text())["stages"]
    assert requests[1:] == [8 - stage["sources"] for stage in held[1:]]
    assert 0 < left < most and stopped_after > 0
    ask.cli("run", "ask")
    asked = ask.endpoint.asked.total() - before - stopped_after
    assert 0 < asked <= sum(requests) < 16


def test_a_stage_that_dropped_rows_leaves_fewer_to_the_next(ask):
    path = ask.path / "pipelines/ask.yaml"
    written = path.read_text().replace(
        JUDGED, "  - filter: [word_count: {field: question, min_words: 1}]\n" + JUDGED
    )
    path.write_text(written.replace("min_words: 1", "min_words: 99"))
    ask.cli("run", "ask", check=3)
    path.write_text(
        written.replace("min_words: 1", "min_words: 99").replace("{{ answer }}?", "{{ answer }}!")
    )
    assert planned(ask)[0] == [0, 0, 0, 0], "the filter kept none of them"


def test_a_bound_is_rounded_up():
    left = Done(0.55, None).taken_off(Estimate(8, 8, 100, None, 1.0))
    assert (left.requests, left.input_tokens, left.output_tokens) == (
        4,
        45,
        None,
    ) and 0.44 < left.max_cost_usd < 0.46


def test_a_template_that_joins_lists_that_do_not_exist_yet_is_counted(project):
    project.rows("rows.jsonl", [{"q": "a"}, {"q": "b"}])
    lists = [
        {"retrieve": {"name": name, "from": "rows.jsonl", "by": "random", "into": name}} for name in "xy"
    ]
    template = "{% for row in x[:1] + y %}{{ row.q }}{% endfor %}"
    ask = {"generate": {"model": "t", "template": template, "output": "answer"}}
    models = {"t": {"provider": "scripted", "model": "echo"}}
    stages = [{"source": {"path": "rows.jsonl"}}, *lists, ask]
    plan = distillgen.load({"version": 1, "models": models, "stages": stages}).plan()
    assert plan[-1][1].requests == 2


@pytest.mark.parametrize(
    "template",
    [
        "{{ (grade + other) / 2 }}",
        "{{ 10 - grade * 3 }}",
        "{{ grade ** 2  }}",
        "{% if grade >= 5 %}{{ -grade }}{% endif %}",
        "{{ grade // 2 % 3 }}",
        "{{ [grade, other] | sum }}",
    ],
)
def test_a_template_that_calculates_with_a_field_that_does_not_exist_yet_is_counted(project, template):
    project.rows("rows.jsonl", [{"q": "a"}, {"q": "b"}])
    project.write(
        "prompts/grade.md", "---\noutput: {json: {grade: integer, other: integer}}\n---\nGrade {{ q }}\n"
    )
    stages = [
        {"source": {"path": "rows.jsonl"}},
        {"generate": {"name": "grade", "model": "t", "prompt": "grade"}},
        {"generate": {"model": "t", "template": template, "output": "answer"}},
    ]
    models = {"t": {"provider": "scripted", "model": "echo"}}
    plan = distillgen.load({"version": 1, "models": models, "stages": stages}).plan()
    assert plan[-1][1].requests > 0


@pytest.mark.parametrize("writer", ["generate", "format", "rounds"])
def test_a_bound_counts_a_field_of_the_source_that_a_stage_writes_anew(project, writer):
    project.rows("rows.jsonl", [{"q": "short"}])
    price = {"input": 1, "output": 1}
    models = {"t": {"provider": "scripted", "model": "echo", "price": price, "max_tokens": 100}}
    ask = {"generate": {"name": "ask", "model": "t", "template": "{{ q }}", "output": "q"}}
    stages = {
        "generate": [ask],
        "format": [{"format": {"fields": {"q": "{{ q }} " + "word " * 100}}}],
        "rounds": [{"rounds": {"n": 1, "stages": [ask]}}],
    }[writer]
    last = {"generate": {"name": "last", "model": "t", "template": "{{ q }}", "output": "a"}}
    pipeline = {"version": 1, "models": models}
    pipeline["stages"] = [{"source": {"path": "rows.jsonl"}}, *stages, last]
    requests = []

    def wordy(request, sample):
        requests.append(len(request.messages[-1]["content"]))
        return "word " * 75  # 100 tokens have up to 400 bytes

    plan = distillgen.load(pipeline, scripted=["t"]).plan()
    distillgen.run(pipeline, out="run", teachers={"t": wordy})
    assert max(requests) > 300
    assert plan[-1][1].max_cost_usd >= (max(requests) + 100) / 1e6, "the bound is of the source's text"
