"""Runs and the ledger belong to the project: no command, folder or pipeline pays twice."""

import asyncio
import json
import os
import shutil
import sqlite3
import sys
import time
from pathlib import Path

import pytest

import distillgen
from distillgen.errors import ConfigError
from distillgen.inference.ledger import Ledger
from distillgen.project import home, project_around, project_of
from distillgen.runs.lock import directory_lock
from distillgen.runs.run import run_pipeline
from distillgen.runs.state import Options
from tests.command_process import ForkedCommand
from tests.conftest import ROOT, ProjectFolder
from tests.endpoint import Endpoint, completion

# An answer costs 1.5 cents, at most 10 to 12.
PRICE = ", max_concurrency: 1, max_tokens: 5, price: {input: 1000, output: 1000}"


def usage(project, run="runs/ask"):
    return json.loads((project.path / run / "usage.json").read_text())


def at(path: Path, project) -> ProjectFolder:
    path.mkdir(parents=True, exist_ok=True)
    there = ProjectFolder(path)
    there.env = project.env
    return there


def test_the_same_run_from_any_folder_goes_on_where_it_was(project, endpoint, tmp_path_factory):
    path = project.ask_pipeline(endpoint.url, 6)
    project.cli("run", "ask", "-n", 3)
    elsewhere = at(tmp_path_factory.mktemp("elsewhere"), project)
    elsewhere.cli("run", path)
    assert len(endpoint.bodies) == 6 and not any(elsewhere.path.iterdir())
    below, deep = at(project.path / "pipelines", project), at(project.path / "docs/more", project)
    for there, name in (
        (project, "ask"),
        (project, "pipelines/ask.yaml"),
        (below, "ask.yaml"),
        (deep, "ask"),
        (deep, "../../pipelines/ask.yaml"),
    ):
        told = there.cli("run", name).stdout
        shown_from = Path(os.path.relpath(project.path, there.path)) if there is project else project.path
        assert str(shown_from / "runs/ask/corpus.jsonl") in told
    for there in (project, deep):
        assert "finished" in there.cli("status", "ask").stdout and "answer" in there.cli("show", "ask").stdout
    assert len(endpoint.bodies) == 6 and len(project.read("runs/ask/corpus.jsonl")) == 6
    assert {p.name for p in (project.path / "runs").iterdir()} == {"ask", "ledger.sqlite3"}
    assert not (below.path / "runs").exists() and not (deep.path / "runs").exists()


def test_a_second_pipeline_with_equal_requests_pays_nothing(project, endpoint):
    first = project.ask_pipeline(endpoint.url, 6, model=PRICE)
    project.cli("run", "ask", "-n", 4)
    project.write("pipelines/other.yaml", first.read_text().replace("ask.yaml", "other.yaml"))
    told = project.cli(
        "run", "other", "--max-cost-usd", "0.125"
    ).stdout  # two answers more, whatever the first run has cost
    assert "asked now        2 requests, 30 tokens, $0.03, " in told
    assert "from the ledger  4 answers, paid for before" in told
    assert len(endpoint.bodies) == 6
    assert usage(project)["totals"] | {"cost_usd": 0.06, "answers": 4} == usage(project)["totals"]
    assert (
        usage(project, "runs/other")["totals"] | {"cost_usd": 0.03, "answers": 2}
        == usage(project, "runs/other")["totals"]
    )
    assert len(project.read("runs/other/corpus.jsonl")) == 6


def test_a_run_elsewhere_uses_the_ledger_of_the_project(project, endpoint, tmp_path_factory):
    project.ask_pipeline(endpoint.url, 5)
    out = tmp_path_factory.mktemp("out") / "ask"
    project.cli("run", "ask", "-o", out)
    project.cli("run", "ask")
    assert len(endpoint.bodies) == 5 and not (out / "ledger.sqlite3").exists()
    assert [usage(project, path)["totals"]["requests"] for path in (out, "runs/ask")] == [5, 0]
    told = json.loads((out / "usage.json").read_text())["ledger"]
    assert not Path(told).is_absolute() and (out / told).resolve() == project.path / "runs/ledger.sqlite3"
    row = project.read(out / "corpus.jsonl")[0]
    assert project.cli("show", out, "--id", row["meta"]["id"][:8]).stdout.count("What is 0?") >= 2


def test_two_runs_of_one_name_in_two_folders_are_two(project, endpoint):
    project.ask_pipeline(endpoint.url, 4, model=PRICE)
    for folder, temperature in (("a", 0.1), ("b", 0.2)):
        project.cli(
            "run",
            "ask",
            "-o",
            f"{folder}/ask",
            "--set",
            f"teacher.temperature={temperature}",
            "--max-cost-usd",
            "0.17",
        )
    assert [usage(project, f"{folder}/ask")["totals"]["cost_usd"] for folder in "ab"] == [0.06, 0.06]
    project.cli(
        "run", "ask", "-o", "a/ask", "--set", "teacher.temperature=0.3", "--max-cost-usd", "0.17", check=4
    )
    assert len(endpoint.bodies) == 8, "what a run has spent before counts for its cap"


def test_a_run_that_had_a_ledger_of_its_own_keeps_it(project, endpoint):
    path = project.ask_pipeline(endpoint.url, 5)
    project.cli("run", "ask", "-n", 3, "--ledger", "runs/ask.sqlite3")
    state = usage(project)
    shutil.move(
        project.path / "runs/ask.sqlite3", project.path / "runs/ask/ledger.sqlite3"
    )  # as an earlier version left it
    with sqlite3.connect(project.path / "runs/ask/ledger.sqlite3") as ledger:
        ledger.execute("UPDATE answers SET run = 'ask'")
    state = {name: value for name, value in state.items() if name != "ledger_seen"} | {
        "ledger": "ledger.sqlite3",
        "ledger_rows": 3,
    }
    (project.path / "runs/ask/usage.json").write_text(json.dumps(state))
    project.cli("run", "ask")
    assert len(endpoint.bodies) == 5 and usage(project)["totals"]["requests"] == 5
    assert not (project.path / "runs/ledger.sqlite3").exists()
    project.cli("preview", path, "-n", 2)
    (project.path / "runs/ask/usage.json").unlink()  # killed before it was written, or lost
    project.cli("run", "ask")
    assert len(endpoint.bodies) == 5 and not (project.path / "runs/ledger.sqlite3").exists()


def test_a_finished_run_is_redone_only_where_answers_changed(project):
    def behave(body, times):
        said = "" if body["messages"][0]["content"] == "What is 1?" and times == 1 else "good"
        return completion(
            body,
            choices=[
                {
                    "index": 0,
                    "finish_reason": "stop" if said else "content_filter",
                    "message": {"content": said},
                }
            ],
        )

    with Endpoint(behave) as endpoint:
        path = project.ask_pipeline(endpoint.url, 4)
        project.cli("run", "ask", check=3)
        corpus = project.path / "runs/ask/corpus.jsonl"
        made = corpus.stat().st_mtime_ns
        project.write("pipelines/warm.yaml", path.read_text().replace("api_key", "temperature: 0.5, api_key"))
        project.cli("run", "warm", check=3)
        project.cli("run", "ask", check=3)
        assert corpus.stat().st_mtime_ns == made, "what another run has added changes nothing of this one"
        project.write("pipelines/same.yaml", path.read_text())
        project.cli("run", "same", "--retry-failed")
        project.cli("run", "ask")
        assert corpus.stat().st_mtime_ns != made and len(project.read(corpus)) == 4, (
            "a newer answer counts for every run"
        )
        made = corpus.stat().st_mtime_ns
        project.cli("run", "ask")
        assert corpus.stat().st_mtime_ns == made and len(endpoint.bodies) == 9


def test_answers_superseded_during_a_run_are_noticed(project):
    """The other's newer answer is there before this run writes down what it has seen of the ledger."""
    project.rows("data/seeds.jsonl", [{"q": "a"}, {"q": "b"}])
    scripted, path = {"provider": "scripted", "model": "echo"}, project.path / "shared.sqlite3"
    first = [
        {"source": {"path": "data/seeds.jsonl"}},
        {"generate": {"model": "t", "template": "{{ q }}", "output": "a"}},
    ]
    made = {"version": 1, "models": {"t": scripted, "u": scripted}, "stages": first}
    later = {"generate": {"name": "later", "model": "u", "template": "{{ a }}", "output": "b"}}
    more = {**made, "stages": [*first, later]}

    async def slow(request, sample):  # so that its answers come after the other's
        await asyncio.sleep(0.5)
        return "late"

    async def supersede(live):
        with sqlite3.connect(path, timeout=30) as other:
            columns = (
                "key, stage, model, status, requests, retries, input_tokens, cached_tokens, "
                "output_tokens, cost_usd, request"
            )
            newer = f"SELECT {columns}, 'other', '{{\"text\":\"newer\"}}' FROM answers LIMIT 1"
            other.execute(f"INSERT INTO answers ({columns}, run, completion) {newer}")

    distillgen.run(made, out="first", ledger=path, teachers={"u": slow})
    run_pipeline(distillgen.load(more), Path("first"), Options(ledger=path, scripts={"u": slow}), supersede)
    assert "newer" not in Path("first/corpus.jsonl").read_text(), "the stage that stands was carried out"
    run = distillgen.run(more, out="first", ledger=path, teachers={"u": slow})
    assert json.loads((run.directory / "corpus.jsonl").read_text().splitlines()[0])["a"] == "newer"


def test_processes_that_use_one_ledger_at_once_wait_for_each_other(project, endpoint):
    path = project.ask_pipeline(endpoint.url, 60)
    commands = []
    for i in range(4):
        project.write(
            f"pipelines/p{i}.yaml", path.read_text().replace("api_key", f"temperature: 0.{i}, api_key")
        )
        commands.append([sys.executable, "-m", "distillgen", "run", f"p{i}", "--json"])
    started = [ForkedCommand(command, project.path, project.env()) for command in commands]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()
    assert [usage(project, f"runs/p{i}")["totals"]["requests"] for i in range(4)] == [60] * 4
    ledger = Ledger(project.path / "runs/ledger.sqlite3", read_only=True)
    assert ledger.last_id == len(endpoint.bodies) == 240
    ledger.close_now()


def test_answers_of_python_functions_stay_with_their_run(project):
    """Functions of one name may be different ones: they may not answer for each other."""
    project.rows("data/seeds.jsonl", [{"q": "a"}])
    made = {
        "version": 1,
        "models": {"t": {"provider": "scripted", "model": "echo"}},
        "stages": [
            {"source": {"path": "data/seeds.jsonl"}},
            {"generate": {"model": "t", "template": "{{ q }}", "output": "a"}},
        ],
    }
    texts = []
    for word in ("one", "two"):
        run = distillgen.run(made, out=word, teachers={"t": lambda request, sample, word=word: word})
        texts.append(json.loads((run.directory / "corpus.jsonl").read_text())["a"])
    assert texts == ["one", "two"]


def test_a_project_is_found_from_a_file_and_from_a_folder(tmp_path, monkeypatch):
    for folder in (
        "p/pipelines/deep",
        "p/data",
        "p/docs",
        "q/prompts",
        "q/trials",
        "home/pipelines",
        "home/deep/x",
        "data",
        "free",
    ):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    found = {
        name: project_of(tmp_path / name).relative_to(tmp_path).as_posix()
        for name in (
            "p/pipelines/a.yaml",
            "p/pipelines/deep/a.yaml",
            "p/a.yaml",
            "p/docs/a.yaml",
            "q/trials/a.yaml",
            "home/pipelines/a.yaml",
            "home/deep/x/a.yaml",
            "free/a.yaml",
        )
    }
    assert found == {
        "p/pipelines/a.yaml": "p",
        "p/pipelines/deep/a.yaml": "p",
        "p/a.yaml": "p",
        "p/docs/a.yaml": "p",
        "q/trials/a.yaml": "q",
        "home/pipelines/a.yaml": "home",
        "home/deep/x/a.yaml": "home/deep/x",
        "free/a.yaml": "free",
    }
    assert project_around(tmp_path / "p/docs") == tmp_path / "p"


def test_a_shipped_recipe_works_in_the_surrounding_project(project, monkeypatch):
    project.write("prompts/x.md", "x")
    (project.path / "sub").mkdir()
    monkeypatch.chdir(project.path / "sub")
    loaded = distillgen.load("hello")
    assert (
        loaded.path.is_relative_to(home("pipelines"))
        and loaded.run_directory() == project.path / "runs/hello"
    )
    assert distillgen.load(str(ROOT / "pipelines/hello.yaml")).project.root == ROOT, "a checkout is a project"
    monkeypatch.setattr(
        "distillgen.project.__file__", str(ROOT / "pipelines/project.py")
    )  # as in an installed distillgen
    assert project_of(ROOT / "pipelines/hello.yaml") == project.path


@pytest.mark.parametrize("typed", ["rows.jsonl", "../data/rows.jsonl"])
def test_what_is_typed_is_meant_from_where_it_is_typed(project, typed):
    project.write("pipelines/x.yaml", "# x: x\nversion: 1\nstages:\n  - source: {path: data/rows.jsonl}\n")
    project.rows("data/rows.jsonl", [{"a": "of the project"}])
    project.rows("sub/rows.jsonl", [{"a": "of here"}])
    there = at(project.path / "sub", project)
    there.cli("run", "x", "--set", f"source.path={typed}")
    assert project.read("runs/x/corpus.jsonl")[0]["a"] == (
        "of here" if typed == "rows.jsonl" else "of the project"
    )
    there.cli("filter", typed, "--with", "word_count:field=a,min_words=1")
    assert project.read("runs/rows-filtered/corpus.jsonl")


def test_a_ledger_that_another_run_uses_is_not_salvaged(project):
    with Endpoint(latency_s=0.3) as endpoint:
        project.ask_pipeline(endpoint.url, 40, model=", max_concurrency: 2")
        command = [sys.executable, "-m", "distillgen", "run", "ask"]
        running = ForkedCommand(command, project.path, project.env())
        while endpoint.asked.total() < 4:
            time.sleep(0.02)
        refused = project.cli("run", "ask", "-o", "runs/other", "--salvage", check=2)
        assert "in use by another run" in refused.stderr and not list(
            (project.path / "runs").glob("*.damaged*")
        )
        endpoint.latency_s = 0
        assert running.wait(60) == 0
        project.cli("run", "ask", "-o", "runs/other", "--salvage")
        assert max(endpoint.asked.values()) == 1


@pytest.mark.parametrize("sign", ["run.lock", "pipeline.lock.yaml", "usage.json", "seeds.json"])
def test_a_copy_of_a_run_that_lacks_some_files_is_a_run(tmp_path, sign):
    for name in (sign, "README.md", "corpus.jsonl"):
        (tmp_path / name).write_text("")
    with directory_lock(tmp_path):
        assert (tmp_path / "run.lock").read_text() == str(os.getpid())


@pytest.mark.parametrize(
    "name", ["README.md", "corpus.jsonl", "dropped.jsonl", "report.html", "run.log", "stages", "student"]
)
def test_a_folder_with_files_of_ones_own_is_no_run(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=f"is no run, and a run would write over its '{name}'"):
        with directory_lock(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [name]
