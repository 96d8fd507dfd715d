"""A plan bounds the requests still to come; it subtracts finished work of unchanged stages."""

import json
import re
import sqlite3
from contextlib import closing

import pytest

import distillgen
from distillgen.flow.stage import Estimate
from distillgen.pipeline.load import Done
from distillgen.text.display import duration

EVEN = """'Even numbers.'

from distillgen import Filter


def even() -> Filter:
    'DOCSTRING'
    return Filter(lambda rs: [r.fields["number"] % 2 for r in rs], lambda odd: "odd" if odd else None)
"""
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
        "done or in the ledger, and subtracted: source 100 %, generate 100 %, again 100 %"
        in ask.cli("plan", "ask").stdout
    )
    assert planned(ask, "-o", "runs/other") == ([0, 0, 0], 0.0), "the ledger is the project's"


def test_check_says_what_a_run_can_cost_if_a_model_has_a_price(project):
    def checked(**options):
        project.ask_pipeline("http://127.0.0.1:9/v1", **options)
        return project.cli("check", "ask").stdout, json.loads(project.cli("check", "ask", "--json").stdout)

    price = ", price: {input: 0, output: 1000}"  # 20 rows of 50 tokens, a tenth of a cent each
    text, facts = checked(model=price, stage=", max_tokens: 50")
    assert "cost: at most $1.00\n" in text and facts["max_cost_usd"] == 1.0
    text, facts = checked(model=price)
    assert "cost: no bound\n" in text and facts["max_cost_usd"] is None
    text, facts = checked(stage=", max_tokens: 50")
    assert "cost" not in text and facts["max_cost_usd"] == 0.0


def test_another_ledger_leaves_what_it_lacks(ask):
    """Also in the directory of a run that is finished with its own."""
    ask.cli("run", "ask")
    assert planned(ask, "--ledger", "other.sqlite3")[0] == [0, 8, 8]
    asked = ask.endpoint.asked.total()
    ask.cli("preview", "ask", "-n", 2, "--ledger", "other.sqlite3")
    assert ask.endpoint.asked.total() == asked + 4
    assert planned(ask, "--ledger", "other.sqlite3")[0] == [0, 6, 6]
    ask.cli("run", "ask", "--ledger", "other.sqlite3")
    assert ask.endpoint.asked.total() == asked + 16, "the plan was exact"
    assert planned(ask)[0] == [0, 0, 0], "the run has the other ledger now"


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
    assert planned(ask)[0] == [0, 1, 1], "eight of nine rows are in the ledger"


def test_what_a_stopped_run_has_done_is_taken_off_and_the_bound_holds(ask):
    (_, most), before = planned(ask), ask.endpoint.asked.total()
    ask.cli("run", "ask", "--max-cost-usd", most / 8, check=4)
    stopped_after = ask.endpoint.asked.total() - before
    requests, left = planned(ask)
    held = json.loads((ask.path / "runs/ask/usage.json").read_text())["stages"]
    assert all(0 < n <= 8 - stage["sources"] for n, stage in zip(requests[1:], held[1:], strict=True))
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


def test_what_the_ledger_has_costs_nothing_whoever_asked_for_it(ask):
    ask.cli("run", "ask", "-n", 3, "-o", "runs/first")
    asked, files = ask.endpoint.asked.total(), sorted(ask.path.rglob("*"))
    assert planned(ask)[0] == [0, 5, 5] and planned(ask, "-n", 2)[0] == [0, 0, 0]
    assert ask.endpoint.asked.total() == asked
    new_files = set(ask.path.rglob("*")) - set(files)
    assert not {path for path in new_files if "-shm" not in path.name and "-wal" not in path.name}
    ask.cli("run", "ask")
    assert ask.endpoint.asked.total() == asked + 10, "the plan was exact"


def test_a_row_without_its_first_answer_counts_in_full_later(ask):
    """The second stage's answers are there, but nobody can know it without those of the first."""
    ask.cli("run", "ask")
    with closing(sqlite3.connect(ask.path / "runs/ledger.sqlite3")) as ledger, ledger:
        ledger.execute("DELETE FROM answers WHERE stage = 'generate' AND id = 1")
    assert planned(ask, "-o", "runs/other")[0] == [0, 1, 1]


@pytest.mark.parametrize("docstring, left", [("Drop some. Costs nothing.", 0), ("Drop some.", 8)])
def test_a_filter_that_costs_nothing_is_carried_out(ask, docstring, left):
    """Four rows are dropped before the second stage. A filter that may cost much ends the search."""
    ask.write("filters/even.py", EVEN.replace("DOCSTRING", docstring))
    path = ask.path / "pipelines/ask.yaml"
    path.write_text(path.read_text().replace(JUDGED, "  - filter: [even]\n" + JUDGED))
    ask.cli("run", "ask")
    assert planned(ask)[0] == [0, 0, 0, 0]
    assert planned(ask, "-o", "runs/other")[0] == [0, 0, 0, left]


def test_a_likely_figure_and_a_time_stand_beside_the_bound(ask):
    ask.endpoint.latency_s = 0.3
    told = json.loads(ask.cli("plan", "ask", "--json").stdout)
    assert told["likely"]["requests"] is told["likely"]["seconds"] is None
    text = ask.cli("plan", "ask").stdout
    assert "no likely figure yet: distillgen preview ask asks" in text and "likely  " not in text
    ask.cli("preview", "ask", "-n", 2)
    told = json.loads(ask.cli("plan", "ask", "--json").stdout)
    likely = told["likely"]
    assert told["totals"]["requests"] == likely["requests"] == 12
    assert (likely["input_tokens"], likely["output_tokens"]) == (120, 60)
    assert likely["cost_usd"] == pytest.approx(180e-6) and likely["cost_usd"] < told["totals"]["max_cost_usd"]
    preview = json.loads((ask.path / "runs/ask/preview/usage.json").read_text())
    assert preview["asked_now"]["requests"] >= 2 and 12 * 0.3 <= likely["seconds"] < 12 * preview["seconds"]
    text = ask.cli("plan", "ask").stdout
    pace = re.escape(f"about {duration(likely['seconds'])} at the pace")
    assert re.search(rf"\nlikely +12 +120 +60 +\$0\.00018\n{pace}", text)
    assert max(map(len, text.splitlines())) < 80


def test_what_is_likely_goes_by_the_rows_that_arrived_before(ask):
    """The filter drops one of the two rows of the preview, and three of the other six."""
    path = ask.path / "pipelines/ask.yaml"
    questions = [f"Is {i}?" + " Really?" * (i % 2) for i in range(8)]
    ask.rows("data/seeds.jsonl", [{"question": question} for question in questions])
    dropping = "  - filter: [word_count: {field: question, min_words: 3}]\n"
    path.write_text(path.read_text().replace(JUDGED, dropping + JUDGED))
    ask.cli("preview", "ask", "-n", 2)
    told = json.loads(ask.cli("plan", "ask", "--json").stdout)
    assert [stage["requests"] for stage in told["stages"]] == [0, 6, 0, 6], "the bound is for all"
    assert [stage["likely"]["requests"] for stage in told["stages"]] == [0, 6, 0, 3]


MAKER = '''"""maker: leave a model, as a training leaves its student."""
from distillgen import Stage
from distillgen.teachers.scripted import ScriptedSpec

class Maker(Stage):
    """Leave the model 'own'."""
    kind = "maker"
    scope = "row"

    def makes(self, directory, project):
        return {"own": ScriptedSpec(provider="scripted", model="echo")}

    def check(self, context):
        return context.fields

    async def run(self, chunks, job):
        async for chunk in chunks:
            yield chunk
'''


def test_answers_of_a_model_that_a_stage_makes_have_no_price(project):
    project.write("stages/maker.py", MAKER)
    project.rows("data/rows.jsonl", [{"text": "a"}])
    stages = [{"source": {"path": "data/rows.jsonl"}}, {"maker": {}}]
    stages += [{"generate": {"model": "own", "template": "{{ text }}", "output": "said", "max_tokens": 9}}]
    project.write("pipelines/p.yaml", json.dumps({"version": 1, "stages": stages}))
    project.cli("run", "p")
    project.rows("data/rows.jsonl", [{"text": "a"}, {"text": "b"}])
    told = json.loads(project.cli("plan", "p", "-o", "runs/other", "--json").stdout)
    assert told["stages"][2]["likely"]["requests"] >= 1 and told["likely"]["cost_usd"] == 0


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
