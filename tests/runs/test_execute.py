"""Runs: partial runs, retries, shared ledgers, previews, plans, status, and the Python interface."""

import asyncio
import json
import os
import re

import pytest

import distillgen
from distillgen.inference.ledger import Ledger
from distillgen.runs import progress, progress_lines
from tests.conftest import ROOT
from tests.endpoint import Endpoint, completion

FILTER = '''
from distillgen import FieldName, Filter

def short(*, field: FieldName = "answer", max_letters: int = 99) -> Filter:
    """Keep short texts."""
    def measure(records):
        open("measured", "a").write("x" * len(records))
        return [len(r.fields[field]) for r in records]
    return Filter(measure, lambda n: f"{n} letters > {max_letters}" if n > max_letters else None,\
 depends_on={"field": field})
'''
STAGES = (
    "  - filter: [short: {max_letters: 99}]\n"
    "  - generate: {name: again, model: teacher, template: 'And {{ answer }}', output: more}\n"
)


def state(project, name="ask"):
    return json.loads((project.path / f"runs/{name}/usage.json").read_text())


def test_until_from_and_stage(project, endpoint):
    project.write("filters/short.py", FILTER)
    path = project.ask_pipeline(endpoint.url, 6, after=STAGES)
    project.cli("run", "ask", "--until", "generate")
    assert endpoint.asked.total() == 6 and not (project.path / "runs/ask/corpus.jsonl").exists()
    refused = project.cli("run", "ask", "--from", "again", check=2)
    assert "'filter', has not been run to its end; run without --from" in refused.stderr
    project.cli("run", "ask", "--stage", "filter")
    project.cli("run", "ask", "--from", "again")
    assert endpoint.asked.total() == 12 and len(project.read("runs/ask/corpus.jsonl")) == 6
    partly = (project.path / "runs/ask/corpus.jsonl").read_bytes()
    assert [s["rows"] for s in state(project)["stages"]] == [6, 6, 6, 6]
    project.cli("run", "ask", "--from", "again")
    project.cli("run", "ask")
    assert (project.path / "runs/ask/corpus.jsonl").read_bytes() == partly and endpoint.asked.total() == 12
    path.write_text(path.read_text().replace("max_letters: 99", "max_letters: 5"))
    refused = project.cli("run", "ask", "--from", "again", check=2)
    assert "has changed since it was run" in refused.stderr


def test_a_changed_threshold_measures_and_asks_nothing_again(project, endpoint):
    project.write("filters/short.py", FILTER)
    path = project.ask_pipeline(endpoint.url, 6, after=STAGES)
    project.cli("run", "ask")
    path.write_text(path.read_text().replace("max_letters: 99", "max_letters: 5"))
    project.cli("run", "ask", check=3)
    assert endpoint.asked.total() == 12 and (project.path / "measured").read_text() == "x" * 6
    assert {row["meta"]["dropped"]["reason"] for row in project.read("runs/ask/dropped.jsonl")} == {
        "19 letters > 5"
    }


def test_a_changed_prompt_asks_only_the_changed_requests(project, endpoint):
    path = project.ask_pipeline(endpoint.url, 10)
    project.cli("run", "ask")
    path.write_text(
        path.read_text().replace("{{ question }}", "{{ question }}{% if number == 3 %} Think.{% endif %}")
    )
    project.cli("run", "ask")
    assert endpoint.asked.total() == 11


def test_retry_with_changed_sampling_asks_just_the_cut_off(project):
    def cut(body, times):
        short = body.get("max_tokens", 0) < 50 and body["messages"][0]["content"].endswith(("3?", "4?"))
        return (
            completion(body, choices=[{"finish_reason": "length", "message": {"content": "half"}}])
            if short
            else None
        )

    with Endpoint(cut) as endpoint:
        project.ask_pipeline(endpoint.url, 10, stage=", max_tokens: 20")
        project.cli("run", "ask", check=3)
        project.cli("run", "ask", "--retry-failed", check=3)
        assert endpoint.asked.total() == 12
        project.cli("run", "ask", "--retry-failed", "--retry-with", "max_tokens=80")
        assert endpoint.asked.total() == 14 and endpoint.bodies[-1]["max_tokens"] == 80
        project.cli("run", "ask")
        assert endpoint.asked.total() == 14
    assert len(project.read("runs/ask/corpus.jsonl")) == 10
    assert state(project)["totals"]["answers"] == 14


def test_two_runs_share_a_ledger_and_count_their_own(project, endpoint):
    project.ask_pipeline(endpoint.url, 10)
    project.cli("run", "ask", "-n", 6, "-o", "runs/a", "--ledger", "shared.sqlite3")
    project.cli("run", "ask", "-o", "runs/b", "--ledger", "shared.sqlite3")
    assert endpoint.asked.total() == 10
    assert [state(project, name)["totals"]["requests"] for name in "ab"] == [6, 4]


def test_preview_shows_every_stage_and_its_answers_serve_the_run(project, endpoint):
    project.ask_pipeline(endpoint.url, 10)
    done = project.cli("preview", "ask", "-n", 3)
    assert done.stdout.count("question: What is 1?") == 2 and "answer" in done.stdout
    project.cli("run", "ask")
    assert endpoint.asked.total() == 10 and state(project)["totals"]["requests"] == 10


def test_plan_bounds_what_the_run_then_costs(project, endpoint):
    price = ", max_tokens: 7, price: {input: 2.0, output: 8.0}"
    project.ask_pipeline(
        endpoint.url,
        10,
        model=price,
        stage=", n: 2",
        after="  - generate: {name: again, model: teacher, template: 'And {{ answer }}', output: more}\n",
    )
    plan = json.loads(project.cli("plan", "ask", "--json").stdout)
    assert (
        not endpoint.asked
        and plan["totals"]["requests"] == 30
        and plan["totals"]["output_tokens"] == 20 * 7 + 20 * 7
    )
    assert "requests" in project.cli("plan", "ask", "-n", 4).stdout
    project.cli("run", "ask")
    assert endpoint.asked.total() == 30
    assert 0 < state(project)["totals"]["cost_usd"] <= plan["totals"]["max_cost_usd"]


def test_show_and_lineage(project, endpoint):
    project.write("filters/short.py", FILTER.replace("99", "5"))
    project.ask_pipeline(endpoint.url, 4, after="  - filter: [short]\n")
    project.cli("run", "ask", check=3)
    assert "no records" in project.cli("show", "ask").stdout
    assert "dropped by filter/short: 19 letters > 5" in project.cli("show", "ask", "--dropped").stdout
    row = json.loads(project.cli("show", "ask", "--filter", "short", "-n", 1, "--json").stdout)[0]
    told = json.loads(project.cli("show", "ask", "--id", row["meta"]["id"], "--json").stdout)
    assert [r["meta"]["id"] for r in told["parents"]] == row["meta"]["parents"]
    answer = told["answers"][row["meta"]["made"][0]["key"]]
    assert (
        answer["request"]["messages"][0]["content"] == row["question"]
        and answer["completion"]["text"] == row["answer"]
    )
    assert "dropped by filter/short" in project.cli("show", "ask", "--id", row["meta"]["id"]).stdout
    assert (
        "nothing was dropped by 'shrt'; did you mean 'short'?"
        in project.cli("show", "ask", "--filter", "shrt", check=2).stderr
    )


def test_show_prints_the_furthest_rows_of_an_unfinished_run(project, endpoint):
    project.write("filters/short.py", FILTER.replace("99", "5"))
    project.ask_pipeline(
        endpoint.url, 4, after="  - filter: [short]\n  - format: {fields: {last: '{{ answer }}'}}\n"
    )
    project.cli("run", "ask", "--until", "generate")
    assert len(json.loads(project.cli("show", "ask", "--json").stdout)) == 4
    project.cli("run", "ask", "--until", "filter")
    assert "dropped by filter/short: 19 letters > 5" in project.cli("show", "ask", "--dropped").stdout
    assert "no records" in project.cli("show", "ask").stdout


def test_the_python_interface(project):
    project.rows("data/seeds.jsonl", [{"question": f"q{i}"} for i in range(5)])
    pipeline = {
        "version": 1,
        "models": {"teacher": {"provider": "scripted", "model": "echo"}},
        "stages": [
            {"source": {"path": "data/seeds.jsonl"}},
            {"generate": {"model": "teacher", "template": "{{ question }}", "output": "answer"}},
            {"filter": [{"word_count": {"field": "answer", "min_words": 2}}]},
        ],
    }
    run = distillgen.run(
        pipeline,
        out="runs/p",
        limit=4,
        teachers={"teacher": lambda request, sample: "two words" if "3" in str(request.messages) else "one"},
    )
    assert str(run) == "4 records: 1 kept, 3 word_count; 4 requests, 9 tokens, $0.00"
    assert {name: len(rows) for name, rows in run.dropped.group("filter").items()} == {"word_count": 3}
    assert len(run.dropped) == 3 and run.dropped[0].dropped.reason == "1 words < 2"
    with pytest.raises(distillgen.ConfigError, match="did you mean 'limit'"):
        distillgen.run(pipeline, limt=3)


def test_set_reaches_models_stages_filters_and_the_pipeline(project):
    project.cli("init", "mine")
    sets = [
        "teacher.model=echo",
        "teacher.price.input=2",
        "generate.n=2",
        "word_count.min_words=5",
        "seed=4",
        "system.skill=x",
    ]
    loaded = distillgen.load("mine/pipelines/hello.yaml", sets)
    assert loaded.models["teacher"].model == "echo" and loaded.models["teacher"].price.input == 2
    assert loaded.stages[1].n == 2 and loaded.stages[2].filters[0].options == {
        "field": "question",
        "min_words": 5,
    }
    assert loaded.seed == 4 and loaded.system.skill == "x"


def test_a_script_that_raises_is_that_rows_failure(project):
    project.rows("data/seeds.jsonl", [{"a": i} for i in range(3)])
    project.write(
        "teach.py", "def teach(request, sample):\n    return str(10 / int(request.messages[0]['content']))\n"
    )
    made = {
        "version": 1,
        "models": {"t": {"provider": "scripted", "model": "teach.py:teach"}},
        "stages": [
            {"source": {"path": "data/seeds.jsonl"}},
            {"generate": {"model": "t", "template": "{{ a }}"}},
        ],
    }
    run = distillgen.run(made, out="runs/p")
    assert run.state["kept"] == 2 and "ZeroDivisionError" in run.dropped[0].dropped.reason


def test_a_read_only_ledger_is_not_touched(project, endpoint):
    project.ask_pipeline(endpoint.url, 3)
    project.cli("run", "ask")
    path = project.path / "runs/ledger.sqlite3"
    before = path.read_bytes()
    ledger = Ledger(path, read_only=True)
    assert ledger.usage()[0].answers == 3
    ledger.close_now()
    assert path.read_bytes() == before


def test_the_watchdog_names_what_is_waited_for(project, monkeypatch):
    import asyncio
    import io

    from rich.console import Console

    from distillgen.runs.run import run_pipeline
    from distillgen.runs.state import Options

    async def slow(request, sample):
        await asyncio.sleep(1.2)
        return "late"

    monkeypatch.setattr(progress, "SILENCE_S", 0.4)
    monkeypatch.setattr(progress_lines, "PLAIN_EVERY", 1)
    project.rows("data/seeds.jsonl", [{"a": 1}])
    made = {
        "version": 1,
        "models": {"teacher": {"provider": "scripted", "model": "echo"}},
        "stages": [
            {"source": {"path": "data/seeds.jsonl"}},
            {"generate": {"model": "teacher", "template": "{{ a }}"}},
        ],
    }
    written = io.StringIO()
    console = Console(file=written, width=200)
    run_pipeline(
        distillgen.load(made),
        project.path / "r",
        Options(scripts={"teacher": slow}),
        lambda live: progress_lines.watch(live, console),
    )
    assert "waiting for 1 answer of teacher" in written.getvalue() and "first kept row" in written.getvalue()


def test_progress_without_a_terminal_is_plain_lines_on_stderr(project, endpoint):
    project.ask_pipeline(endpoint.url, 5)
    done = project.cli("run", "ask", "--json")
    assert json.loads(done.stdout)["kept"] == 5
    assert "\x1b" not in done.stderr


def test_list_and_schema(project):
    project.write(
        "pipelines/mine.yaml",
        "# mine.yaml: something of my own\nversion: 1\nsystem: {paper: P, access: text}\nstages: []\n",
    )
    project.write("pipelines/broken.yaml", "a: [")
    found = {entry["name"]: entry for entry in json.loads(project.cli("list", "--json").stdout)}
    assert found["mine"] == {
        "name": "mine",
        "about": "something of my own",
        "paper": "P",
        "elicitation": "",
        "distillation": "",
        "algorithm": "",
        "skill": "",
        "vertical": "",
        "access": "text",
    }
    assert "cannot be read" in found["broken"]["about"] and "quickstart" in found


def test_the_shipped_schema_is_current_and_accepts_the_pipelines(project):
    from jsonschema import Draft202012Validator

    from distillgen.located_yaml import read_yaml
    from distillgen.project import home

    schema = json.loads(project.cli("list", "--schema").stdout)
    assert schema == json.loads((home("pipelines") / "schema.json").read_text()), (
        "run: distillgen list --schema > pipelines/schema.json"
    )
    validator = Draft202012Validator(schema)
    for path in home("pipelines").glob("*.yaml"):
        assert not list(validator.iter_errors(read_yaml(path.read_text(), path)[0])), path
    wrong = {
        "version": 1,
        "models": {"t": {"provider": "openai", "modl": "x"}},
        "stages": [{"source": {"pth": "x"}}],
    }
    assert list(validator.iter_errors(wrong))


def test_the_table_of_filters_has_each_that_ships(project):
    table = project.cli("list", "filters", "--markdown").stdout
    assert (
        table.count("\n") == 2 + len(list((ROOT / "filters").glob("[a-z]*.py")))
        and "cannot be read" not in table
    )
    for line in table.splitlines()[2:]:
        name, what, cost, source = line.removeprefix("| ").removesuffix(" |").split(" | ")
        assert what.endswith(".") and cost, (
            f"{name}: its docstring begins with what it drops, and has a sentence 'Costs …'"
        )


def test_init_makes_a_project_that_runs(project):
    assert "The project is ready. Now:\n  distillgen run hello" in project.cli("init", ".").stdout
    assert "mine is ready. Now:\n  cd mine\n  distillgen run hello" in project.cli("init", "mine").stdout
    project.path = project.path / "mine"
    schema = project.path / "pipelines/schema.json"  # which hello.yaml's first lines name for editors
    assert json.loads(schema.read_text()) == json.loads(project.cli("list", "--schema").stdout)
    assert "hides" not in project.cli("run", "hello").stderr  # its copy of a shipped filter is equal
    first, *others = project.read("runs/hello/corpus.jsonl")
    assert (
        first["question"] == "Why is the sea salty?"
        and "Rivers wash salts" in first["answer"]
        and len(others) == 4
    )
    project.rows("data/hello.jsonl", [{"topic": "why stars twinkle"}])
    project.cli("run", "hello", check=3)
    remedy = "no answer about 'why stars twinkle': write one there, or name a real teacher"
    assert remedy in project.read("runs/hello/dropped.jsonl")[0]["meta"]["dropped"]["reason"]
    assert {p.name for p in project.path.iterdir()} == {
        "pipelines",
        "prompts",
        "filters",
        "data",
        ".gitignore",
        "runs",
    }
    assert "not empty" in project.cli("init", ".", check=2).stderr


def mtimes(project):
    return {p.name: p.stat().st_mtime_ns for p in (project.path / "runs/ask/stages").iterdir()}


def test_stages_of_which_nothing_changed_are_not_carried_out_again(project, endpoint):
    project.write("filters/short.py", FILTER)
    path = project.ask_pipeline(endpoint.url, 6, after=STAGES)
    project.cli("run", "ask")
    corpus, before = (project.path / "runs/ask/corpus.jsonl").read_bytes(), mtimes(project)
    project.cli("run", "ask")
    assert mtimes(project) == before, "a finished run has nothing to carry out"
    path.write_text(path.read_text().replace("max_letters: 99", "max_letters: 98"))
    project.cli("run", "ask")
    now = mtimes(project)
    assert {name for name in now if now[name] != before[name]} == {"03-filter.jsonl", "04-again.jsonl"}
    assert (project.path / "runs/ask/corpus.jsonl").read_bytes() == corpus and endpoint.asked.total() == 12
    assert state(project)["stages"][0]["complete"] and [s["rows"] for s in state(project)["stages"]] == [
        6,
        6,
        6,
        6,
    ]


@pytest.mark.parametrize("how", ["source", "missing", "limit"])
def test_what_did_change_is_carried_out_again(project, endpoint, how):
    project.ask_pipeline(endpoint.url, 6)
    project.cli("run", "ask")
    before = mtimes(project)
    args = []
    if how == "source":
        project.rows("data/seeds.jsonl", [{"question": f"What is {i}?", "number": i + 1} for i in range(6)])
    elif how == "missing":
        (project.path / "runs/ask/corpus.jsonl").unlink()
    else:
        args = ["-n", 5]
    project.cli("run", "ask", *args)
    now = mtimes(project)
    assert now["02-generate.jsonl"] != before["02-generate.jsonl"]
    assert endpoint.asked.total() == 6
    rows = project.read("runs/ask/corpus.jsonl")
    assert len(rows) == (5 if how == "limit" else 6) and rows[0]["number"] == (how == "source")


def test_killed_before_the_report_was_written_the_next_run_writes_it(project, endpoint):
    project.ask_pipeline(endpoint.url, 3)
    project.cli("run", "ask")
    run = project.path / "runs/ask"

    def card():  # but for the minute that it was written in
        return re.sub(r" on .+ UTC\.", "", (run / "README.md").read_text())

    first = card()
    (run / "README.md").unlink()
    project.cli("run", "ask")
    assert card() == first
    (run / "README.md").write_text("of another corpus")
    os.utime(run / "README.md", (1, 1))
    project.cli("run", "ask")
    assert card() == first and endpoint.asked.total() == 3


def test_filter_takes_any_data_set_without_a_pipeline(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "answers.jsonl"
    elsewhere.write_text(
        "".join(json.dumps({"answer": text}) + "\n" for text in ("one two, three", "one", "one two, three"))
    )
    done = project.cli(
        "filter", elsewhere, "--with", "word_count:field=answer,min_words=3", "--with", "unique:by=[answer]"
    )
    assert "1 kept" in done.stdout and "word_count" in done.stdout
    run = project.path / "runs/answers-filtered"
    assert [row["answer"] for row in project.read(run / "corpus.jsonl")] == ["one two, three"]
    assert [row["meta"]["dropped"]["filter"] for row in project.read(run / "dropped.jsonl")] == [
        "word_count",
        "unique",
    ]
    assert json.loads(
        project.cli(
            "filter", elsewhere, "--with", "word_count:field=answer", "-n", "2", "--json", "-o", "two"
        ).stdout
    )


@pytest.mark.parametrize(
    "args, said",
    [
        (("nome.jsonl", "--with", "word_count"), "there is no file 'nome.jsonl'"),
        (
            ("nome", "--with", "word_count"),
            "there is no run, file or folder 'nome'; a data set on the Hub is named owner/name",
        ),
        (("rows.jsonl", "--with", "word_cuont"), "did you mean 'word_count'?"),
        (("rows.jsonl", "--with", "word_count:min_word=3"), "did you mean 'min_words'?"),
        (("rows.jsonl", "--with", "word_count:min_words"), "takes NAME:OPTION=VALUE,…, not 'min_words'"),
        (("rows.jsonl", "--with", "word_count:min_words=[3"), "--with word_count:min_words=[3"),
        (("rows.jsonl", "--with", "word_count:field=anwser"), "did you mean 'answer'?"),
        (("rows.jsonl", "--with", "judge:model=judge,field=answer"), "judge"),
    ],
)
def test_a_mistake_in_filter_is_told(project, args, said):
    project.rows("rows.jsonl", [{"answer": "one two"}])
    told = project.cli("filter", *args, check=2).stderr
    assert said in told and "Traceback" not in told


def test_what_a_later_stage_asks_goes_first(project):
    with Endpoint(latency_s=0.005) as endpoint:
        project.ask_pipeline(
            endpoint.url,
            100,
            model=", max_concurrency: 2",
            after="  - generate: {name: again, model: teacher, template: 'And {{ answer }}', output: more}\n",
        )
        project.cli("run", "ask")
        kinds = ["And" in body["messages"][0]["content"] for body in endpoint.bodies]
        assert sum(kinds[:60]) > 20, "the second stage waited for the first to be through"


def test_what_cannot_be_written_is_told_with_what_is_safe(project):
    project.rows("a.jsonl", [{"text": "a"}])
    (project.path / "out/stages/01-source.jsonl.partial").mkdir(parents=True)
    (project.path / "out/run.lock").touch()  # it is a run's directory
    with pytest.raises(
        distillgen.DistillgenError,
        match="cannot write to 'out': is a directory. The answers that were paid for are safe",
    ):
        distillgen.run({"version": 1, "stages": [{"source": {"path": "a.jsonl"}}]}, out="out")
    assert json.loads((project.path / "out/usage.json").read_text())["state"] == "failed"
    (project.path / "out/stages/01-source.jsonl.partial").rmdir()
    assert (
        distillgen.run({"version": 1, "stages": [{"source": {"path": "a.jsonl"}}]}, out="out").state["state"]
        == "finished"
    )


def test_concurrency_bounds_what_every_model_is_asked_at_once(project):
    project.rows("a.jsonl", [{"text": str(i)} for i in range(20)])
    busy, most = [0], [0]

    async def script(request, sample):
        busy[0] += 1
        most.append(busy[0])
        await asyncio.sleep(0.01)
        busy[0] -= 1
        return "x"

    ask = {"generate": {"model": "m", "template": "{{ text }}", "output": "answer"}}
    pipeline = {
        "version": 1,
        "models": {"m": {"provider": "scripted", "model": "echo"}},
        "stages": [{"source": {"path": "a.jsonl"}}, ask],
    }
    distillgen.run(pipeline, out="free", teachers={"m": script})
    assert max(most) > 3
    most[:] = [0]
    distillgen.run(pipeline, out="bound", teachers={"m": script}, concurrency=3)
    assert max(most) == 3
