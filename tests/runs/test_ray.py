"""`--executor ray`: workers that share a ledger, a budget and a stop, and the run made of their answers.

Ray is not installed where the default tests run. There the workers are in this process, beside a foreman
that they call as Ray's actors call each other.
"""

import asyncio
import json
import os
import platform
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace

import click
import pytest
from aiohttp import web
from rich.console import Console

import distillgen
from distillgen.cli.run import run as command
from distillgen.errors import ConfigError, Stopped
from distillgen.inference.ledger import COUNTS, Ledger, Usage
from distillgen.inference.places import Database
from distillgen.runs import ray_executor
from distillgen.runs.execute import prepared
from distillgen.runs.foreman import MOST_ATTEMPTS, Count, Foreman, ShardProgress
from distillgen.runs.lock import directory_lock
from distillgen.runs.progress_lines import shard_line
from distillgen.runs.ray_executor import Crew, check_ray, state_file
from distillgen.runs.ray_worker import Work, Worker, look, refuse_elsewhere, worker_share
from distillgen.runs.shards import row_wise
from distillgen.runs.state import Options, StageCount
from tests.endpoint import Endpoint, completion

AFTER = """  - filter: [word_count: {field: answer, min_words: 1}]
  - generate: {name: more, model: teacher, template: "And {{ answer }}?", output: more}
  - filter: {name: once, filters: [unique: {by: [kind]}]}
  - generate: {name: last, model: teacher, template: "At last {{ kind }}", output: last}
"""
PRICED = ", price: {input: 1, output: 1}, max_tokens: 50"
ASKED = 0.000015  # US dollars of an answer of the endpoint


def rows(project, count=24):
    project.rows("data/seeds.jsonl", [{"question": f"What is {i}?", "kind": i // 3} for i in range(count)])


@pytest.fixture
def asked(project, endpoint):
    project.ask_pipeline(endpoint.url, model=PRICED, after=AFTER)
    rows(project)
    return endpoint


def crew_of(project, options=None, workers=2, shards=6, pipeline="ask", **changes):
    """The work of some workers, and a foreman that they reach as an actor."""
    options = options or Options()
    loaded = distillgen.load(pipeline)
    folder = project.path / "runs"
    folder.mkdir(exist_ok=True)
    names = folder / "ask", options, folder / "ledger.sqlite3", "ask"
    work = Work(
        pipeline, (), None, platform.node(), project.path, *names, shards, workers, row_wise(loaded) - 1
    )
    foreman = Foreman(options.max_cost_usd, 0.0)

    def called(name):
        method = getattr(foreman, name)
        return SimpleNamespace(remote=lambda *given: asyncio.ensure_future(method(*given)))

    methods = ("join", "begin", "finish", "reserve", "settle", "report", "stop", "tally")
    return work, foreman, SimpleNamespace(**{name: called(name) for name in methods})


def run_all(work, handle, workers=2, shards=None):
    """Let workers take the shards one after the other, each in a thread; return what they answered."""
    crew = [Worker(work, handle) for _ in range(workers)]
    todo = iter(shards or range(work.shards))
    turn = threading.Lock()

    def shift(worker):
        done = []
        while True:
            with turn:
                shard = next(todo, None)
            if shard is None:
                return done
            done.append(worker({"item": [shard]}))

    try:
        with ThreadPoolExecutor(workers) as threads:
            return [answer for shift_done in threads.map(shift, crew) for answer in shift_done]
    finally:
        for worker in crew:
            worker.close()


def corpora_are_equal(project):
    project.cli("run", "ask", "-q")
    project.cli("run", "ask", "-q", "--out", "runs/alone", "--ledger", "alone.sqlite3")
    return [
        (project.path / f"runs/ask/{name}").read_bytes() == (project.path / f"runs/alone/{name}").read_bytes()
        for name in ("corpus.jsonl", "dropped.jsonl")
    ] == [True, True]


def test_workers_ask_each_question_once_and_the_corpus_is_that_of_one_process(project, asked):
    work, foreman, handle = crew_of(project)
    answers = run_all(work, handle)
    assert sorted(answer["shard"][0] for answer in answers) == [*range(6)]
    assert all(answer["exit_code"] == [0] and answer["error"] == [""] for answer in answers)
    tally = asyncio.run(foreman.tally())
    assert (tally.finished, tally.rows, tally.count.answers, tally.died) == (6, 24, 48, 0)
    assert tally.count.cost_usd == pytest.approx(48 * ASKED)
    assert len(asked.bodies) == 48 == len(asked.asked)
    assert corpora_are_equal(project) and len(asked.bodies) == 2 * 56
    state = distillgen.Run(project.path / "runs/ask").state
    assert state["totals"]["answers"] == 56 and state["asked_now"]["answers"] == 8


def begun(project, work, foreman):
    """The state of the run that the workers ask for, and the progress of these at this moment."""
    pipeline = distillgen.load("ask")
    plan = [estimate for _, estimate in pipeline.plan(None)]
    work.directory.mkdir(exist_ok=True)
    ledger = Ledger(work.ledger)
    live = prepared(pipeline, plan, work.directory, work.options, ledger, 0, len(pipeline.stages) - 1)
    ledger.close_now()
    return live, lambda: ShardProgress(asyncio.run(foreman.tally()), work.shards, 2, 24, 1.0, 9.0, False)


def test_status_and_the_line_of_progress_show_each_stage_over_all_workers(project, asked, capsys):
    work, foreman, handle = crew_of(project)
    live, progress = begun(project, work, foreman)
    with pytest.raises(Stopped), directory_lock(work.directory), state_file(live) as write:
        run_all(work, handle, shards=[0, 1, 4])
        write(progress())
        told = project.cli("status", "ask").stdout
        with shard_line() as show:
            show(progress())
        log, drawn = Console(file=StringIO(), width=40), Console(file=StringIO(), force_terminal=True)
        for screen in log, drawn:
            with shard_line(screen) as show:
                show(progress())
        state = json.loads(project.cli("status", "ask", "--json").stdout)
        raise Stopped("interrupted")
    answers, rows = len(asked.bodies), len(asked.bodies) // 2
    assert 0 < rows < 24
    assert "ask: running" in told and "2 workers: 3 of 6 shards" in told
    assert f"{rows}/24  kept {rows}" in told and f"{answers} requests" in told
    assert [stage["sources"] for stage in state["workers"]["stages"]] == [rows] * 4
    assert state["totals"]["cost_usd"] == pytest.approx(answers * ASKED)
    assert f"more {rows}/24 kept {rows}" in capsys.readouterr().err
    assert len(log.file.getvalue().splitlines()) == 1, "a line of a log is not cut"
    assert any(line.startswith("more ") for line in drawn.file.getvalue().splitlines())
    ended = project.cli("status", "ask").stdout
    assert "ask: interrupted" in ended and f"{answers} answers are safe" in ended
    assert corpora_are_equal(project)
    after = json.loads(project.cli("status", "ask", "--json").stdout)
    assert "workers" not in after and after["state"] == "finished"


def test_the_workers_leave_the_finished_stages_of_an_earlier_run(project, asked):
    project.cli("run", "ask", "-q")
    files = [*(project.path / "runs/ask/stages").iterdir()]
    before = [path.stat().st_mtime_ns for path in files]
    work, foreman, _ = crew_of(project)
    live, progress = begun(project, work, foreman)
    with state_file(live) as write:
        write(progress())
    project.cli("run", "ask", "-q")
    assert [path.stat().st_mtime_ns for path in files] == before


def test_a_worker_keeps_its_models_from_shard_to_shard(project, asked):
    project.write(
        "teachers/counting.py",
        "from distillgen import Completion, Endpoint\n"
        "class Counting(Endpoint):\n"
        "    identity, made = 'counting', []\n"
        "    def __init__(self, *given):\n"
        "        super().__init__(*given)\n"
        "        self.made.append(self)\n"
        "    async def answer(self, request, samples, attempt):\n"
        "        return [Completion(f'{len(self.made)} made')]\n",
    )
    project.write(
        "pipelines/ask.yaml",
        "version: 1\nmodels: {teacher: {provider: counting, model: m}}\nstages:\n"
        "  - source: {path: data/seeds.jsonl}\n"
        '  - generate: {model: teacher, template: "{{ question }}", output: answer}\n',
    )
    work, _, handle = crew_of(project, workers=1)
    run_all(work, handle, workers=1)
    project.cli("run", "ask", "-q")
    assert {row["answer"] for row in project.read("runs/ask/corpus.jsonl")} == {"1 made"}


def test_the_cap_holds_over_all_workers_together(project, asked):
    asked.latency_s = 0.02
    cap = 20.5 * ASKED
    work, foreman, handle = crew_of(project, Options(max_cost_usd=cap), workers=3)
    codes = {answer["exit_code"][0] for answer in run_all(work, handle, workers=3)}
    assert 4 in codes and codes <= {0, 4}
    spent = len(asked.bodies) * ASKED
    assert 8 * ASKED < spent <= cap
    ended = project.cli("run", "ask", "-q", "--max-cost-usd", f"{cap:.9f}", check=4)
    assert "stopped by --max-cost-usd" in ended.stderr and len(asked.bodies) * ASKED <= cap


def test_a_cap_that_is_enough_stops_no_worker(project, asked):
    work, _, handle = crew_of(project, Options(max_cost_usd=58 * ASKED), workers=1, shards=2)
    codes = {answer["exit_code"][0] for answer in run_all(work, handle, workers=1)}
    assert codes == {0} and len(asked.bodies) == 48


def test_a_limit_is_of_the_rows_of_all_shards(project, asked):
    work, _, handle = crew_of(project, Options(limit=6), shards=3)
    run_all(work, handle)
    assert len(asked.bodies) == 12


def test_a_foreman_that_says_stop_ends_a_worker_once_the_answers_in_flight_are_stored(project, asked):
    asked.latency_s = 0.8
    work, foreman, handle = crew_of(project, Options(concurrency=4))
    asyncio.run(foreman.stop())
    worker = Worker(work, handle)
    assert worker({"item": [0]})["exit_code"] == [130] == worker({"item": [1]})["exit_code"]
    assert 0 < len(asked.bodies) <= 4 and not asked.in_flight.total()
    with closing(sqlite3.connect(work.ledger)) as database:
        assert database.execute("SELECT count(*) FROM answers").fetchone()[0] == len(asked.bodies)
    worker.close()
    asked.latency_s = 0
    project.cli("run", "ask", "-q")
    assert len(asked.bodies) == 56 == len(asked.asked)


def test_a_worker_tells_what_stopped_it_and_runs_no_more(project, asked):
    asked.behave = lambda body, times: web.json_response({"error": "no"}, status=401)
    work, _, handle = crew_of(project, workers=1)
    begun, begin = [], handle.begin.remote
    handle.begin = SimpleNamespace(
        remote=lambda worker, shard: (begun.append(shard), begin(worker, shard))[1]
    )
    answers = run_all(work, handle, workers=1)
    assert {answer["exit_code"][0] for answer in answers} == {2}
    assert len({answer["error"][0] for answer in answers}) == 1 and "teacher" in answers[0]["error"][0]
    assert begun == [0]


def test_answers_that_workers_asked_for_again_reach_the_run(project, asked):
    asked.behave = lambda body, times: completion(
        body, choices=[{"finish_reason": "length", "message": {"content": "half"}}]
    )
    project.cli("run", "ask", "-q", check=3)
    assert len(asked.bodies) == 24
    asked.behave = None
    work, _, handle = crew_of(project, Options(retry_failed=True))
    run_all(work, handle)
    assert len(asked.bodies) == 24 + 48
    project.cli("run", "ask", "-q")
    assert len(asked.bodies) == 24 + 56
    assert all("half" not in row["answer"] for row in project.read("runs/ask/corpus.jsonl"))


def test_what_a_dead_worker_reserved_counts_as_spent():
    async def reserved():
        foreman = Foreman(1.0, 0.1)
        first, second = await foreman.join(), await foreman.join()
        assert await foreman.begin(first, 0) and await foreman.begin(second, 1)
        assert await foreman.reserve(first, 0.5) == (True, "")
        assert await foreman.reserve(second, 0.5) == (False, "")  # it waits: the first may cost less
        assert await foreman.reserve(second, 0.2) == (True, "")
        await foreman.settle(second, 0.2, 0.05)
        third = await foreman.join()
        await foreman.begin(third, 0)  # so the first is dead
        granted, why = await foreman.reserve(third, 0.5)
        assert not granted and "$0.6500 is spent" in why
        assert await foreman.reserve(third, 0.3) == (True, "")

    asyncio.run(reserved())


def used(answers):
    return Usage("run/workers", "ask", "teacher", "ok", answers, answers, *[0] * (len(COUNTS) - 2))


def test_a_shard_that_kills_its_workers_is_given_up():
    async def attempts():
        foreman = Foreman(None, 0.0)
        allowed = [await foreman.begin(await foreman.join(), 3) for _ in range(MOST_ATTEMPTS + 1)]
        stages = [[StageCount("ask", "generate", sources=n, kept=2 * n)] for n in (5, 4)]
        await foreman.report(0, Count(answers=2), [used(2)], 3, stages[0], ["slow"])
        await foreman.report(1, Count(answers=3, cost_usd=0.5), [used(3)], 3, stages[1], ["slow", "slower"])
        return allowed, await foreman.tally()

    allowed, tally = asyncio.run(attempts())
    assert allowed == [True] * MOST_ATTEMPTS + [False]
    assert tally.count == Count(5, cost_usd=0.5) and tally.rows == 4 and tally.died == MOST_ATTEMPTS
    assert tally.warnings == ("slow", "slower")
    assert tally.usage == (used(5),) and tally.stages[0].kept == 8


def test_the_counts_of_a_stage_are_added_up_over_shards():
    async def tally():
        foreman = Foreman(None, 0.0)
        for shard, drops in enumerate([{"a": 1}, {"a": 2, "b": 1}]):
            count = StageCount("f", "filter", "", 3, 2, 1, Counter(drops), shard)
            await foreman.report(await foreman.join(), Count(), [], shard, [count], [])
        return await foreman.tally()

    assert asyncio.run(tally()).stages == (StageCount("f", "filter", "", 6, 4, 2, Counter(a=3, b=1), 1),)


def test_the_limits_of_a_model_are_divided_among_workers(project):
    project.ask_pipeline("http://127.0.0.1:9/v1", model=", rpm: 60, output_tpm: 9000, max_concurrency: 9")
    pipeline = distillgen.load("ask")
    spec = worker_share(pipeline, Options(), 4, 1).models["teacher"]
    assert (spec.rpm, spec.output_tpm, spec.input_tpm, spec.max_concurrency) == (15, 2250, None, 2)
    assert worker_share(pipeline, Options(concurrency=40), 4, 1).models["teacher"].max_concurrency == 10
    with pytest.raises(ConfigError, match="takes 9 requests at once, and each of 10 workers .*--workers 9"):
        worker_share(pipeline, Options(), 10, 1)
    own = distillgen.load("ask", ["teacher.provider=scripted", "teacher.model=echo"])
    assert worker_share(own, Options(concurrency=3), 4, 1).models["teacher"].max_concurrency == 3


@pytest.mark.parametrize(
    ("sets", "functions", "told"),
    [
        ([], ["brief"], "'brief' is a Python function of this process"),
        (["teacher.mode=batch"], [], "'teacher' answers by its batch API"),
        ([], [], ""),
    ],
)
def test_what_ray_cannot_carry_is_told(project, asked, monkeypatch, sets, functions, told):
    monkeypatch.setattr(ray_executor, "need", lambda *names: None)
    if not told:
        check_ray(distillgen.load("ask", sets))
        return
    with pytest.raises(ConfigError, match=told):
        check_ray(distillgen.load("ask", sets), functions=functions)


def test_a_pipeline_that_begins_with_all_records_has_no_work_for_workers(project, asked, monkeypatch):
    monkeypatch.setattr(ray_executor, "need", lambda *names: None)
    stages = [{"source": {"path": "data/seeds.jsonl"}}, {"filter": [{"unique": {"by": ["kind"]}}]}]
    with pytest.raises(ConfigError, match="'filter' needs all records"):
        check_ray(distillgen.load({"version": 1, "stages": stages}))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--workers", "2"], "workers and shards are of the executor ray"),
        (["--shards", "2"], "workers and shards are of the executor ray"),
        (["--executor", "ray", "--seeds", "2"], "leave shard and seeds out"),
        (["--executor", "ray", "--shard", "0/2"], "leave shard and seeds out"),
        (["--executor", "dask"], "'dask'"),
    ],
)
def test_options_without_their_executor_are_told_before_anything_is_asked(project, asked, words, told):
    with pytest.raises((ConfigError, click.UsageError), match=told):
        command.main(["ask", *words], standalone_mode=False)
    assert not asked.bodies


def test_without_ray_the_remedy_is_its_extra(project, asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--executor ray needs the extra 'ray'.*distillgen\[ray\]"):
        distillgen.run("ask", executor="ray", progress=False)
    with pytest.raises(ConfigError, match="there is no executor 'dask'"):
        distillgen.run("ask", executor="dask", progress=False)
    assert not asked.bodies


def test_a_cluster_that_does_not_answer_is_told_at_once(project, asked, monkeypatch):
    monkeypatch.setattr(ray_executor, "need", lambda *names: None)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(ConfigError, match="no cluster answers at RAY_ADDRESS=127.0.0.1"):
            distillgen.run("ask", executor="ray", progress=False)
    assert not asked.bodies


def test_another_machine_needs_the_same_project_and_a_ledger_that_it_reaches(project, asked, tmp_path):
    work, _, handle = crew_of(project)
    host, before = look(work)
    refuse_elsewhere({host}, work)
    with pytest.raises(ConfigError, match="another machine .far..*--ledger postgresql"):
        refuse_elsewhere({host, "far"}, work)
    refuse_elsewhere({host, "far"}, replace(work, ledger=Database("postgresql://me@far/answers")))
    worker = Worker(replace(work, host="far"), handle)  # a machine that came later
    assert "file of SQLite" in worker({"item": [0]})["error"][0] and not asked.bodies
    rows(project, 25)
    assert look(work)[1] != before
    with pytest.raises(ConfigError, match="needs the project at the same path"):
        look(replace(work, folder=tmp_path / "elsewhere"))


def test_the_extra_options_have_defaults():
    Crew().check(None, alone=False)
    Crew(2, 8).check("ray", alone=True)


@pytest.mark.slow
def test_a_killed_actor_costs_its_requests_in_flight_and_nothing_else(project):
    pytest.importorskip("ray")
    with Endpoint(latency_s=0.1) as endpoint:
        project.ask_pipeline(endpoint.url, model=PRICED, after=AFTER)
        rows(project, 90)
        words = ["run", "ask", "--executor", "ray", "--workers", "3", "--shards", "9", "--concurrency", "6"]
        with subprocess.Popen(
            [sys.executable, "-m", "distillgen", *words],
            cwd=project.path,
            env=project.env(),
            stderr=subprocess.PIPE,
            text=True,
        ) as running:
            ledger, victim = project.path / "runs/ledger.sqlite3", None
            while victim is None and running.poll() is None:
                time.sleep(0.02)
                if len(endpoint.bodies) >= 30:
                    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as database:
                        workers = [pid for (pid,) in database.execute("SELECT pid FROM owners WHERE pid")]
                    victim = random.Random(1).choice([pid for pid in workers if pid != running.pid] or [None])
            os.kill(victim, signal.SIGKILL)
            told = running.communicate()[1]
        assert running.returncode == 0, told
        assert "9 of 9 shards; 90 of 90 rows" in told and "1 begun again, as the worker died" in told
        distinct, sent = len(endpoint.asked), endpoint.asked.total()
        assert distinct == 180 + 30 and sent - distinct <= 2  # what a worker has in flight
        endpoint.latency_s = 0
        project.cli("run", "ask", "-q", "--out", "runs/alone", "--ledger", "alone.sqlite3")
    for name in ("corpus.jsonl", "dropped.jsonl"):
        files = [(project.path / f"runs/{run}/{name}").read_bytes() for run in ("ask", "alone")]
        assert files[0] == files[1]
