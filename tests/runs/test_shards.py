"""Shards: each worker's part of the rows, and one run of what they brought, equal to that of one machine."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import distillgen
from distillgen.cli.run import run
from distillgen.project import Project
from distillgen.record import Record
from distillgen.stages.source import Source
from tests.conftest import ROOT
from tests.endpoint import Endpoint

# The second question asks about the first answer. `unique` sees all records: two of three are of a kind.
AFTER = """  - filter: [word_count: {field: answer, min_words: 1}]
  - generate: {name: more, model: teacher, template: "And {{ answer }}?", output: more}
  - filter: {name: once, filters: [unique: {by: [kind]}]}
  - generate: {name: last, model: teacher, template: "At last {{ kind }}", output: last}
"""
MODEL = ", price: {input: 1, output: 1}, max_tokens: 50"
SHARDS = [f"runs/ask/shard-{number}-of-3" for number in range(3)]


def rows(project, count=24):
    project.rows("data/seeds.jsonl", [{"question": f"What is {i}?", "kind": i // 3} for i in range(count)])


@pytest.fixture
def asked(project):
    """A project whose pipeline asks row by row, then once a kind; and its endpoint."""
    with Endpoint() as endpoint:
        project.ask_pipeline(endpoint.url, model=MODEL, after=AFTER)
        rows(project)
        yield endpoint


def corpus(project, run):
    return (project.path / run / "corpus.jsonl").read_bytes()


def run_shards(project, numbers=range(3), of=3):
    for number in numbers:
        project.cli("run", "ask", "--shard", f"{number}/{of}")


def test_the_gathered_corpus_is_that_of_one_machine_and_asks_only_what_needs_all_records(project, asked):
    project.cli("run", "ask", "--out", "runs/alone", "--ledger", "alone.sqlite3")
    alone = len(asked.bodies)
    run_shards(project)
    sharded = len(asked.bodies) - alone
    assert sharded == 48  # both questions of each row
    kept = [distillgen.Run(project.path / name).state["stages"] for name in SHARDS]
    assert [stage["complete"] for stage in kept[0]] == [True, True, True, True, False, False]
    assert sum(stages[0]["kept"] for stages in kept) == 24 and all(stages[0]["kept"] for stages in kept)
    told = project.cli("gather", *SHARDS)
    assert "0 answers of 3 shards were copied" in told.stderr  # they share the project's ledger
    assert len(asked.bodies) == 2 * alone and corpus(project, "runs/ask") == corpus(project, "runs/alone")
    assert (project.path / "runs/ask/report.html").exists()
    costs = [
        distillgen.Run(project.path / run).state["totals"]["cost_usd"] for run in ("runs/alone", "runs/ask")
    ]
    assert costs[0] == pytest.approx(costs[1]) and costs[0] > 0
    project.cli("gather", *SHARDS)
    assert len(asked.bodies) == 2 * alone


def test_a_shard_without_rows_has_not_failed(project):
    project.write("pipelines/few.yaml", "version: 1\nstages: [{source: {path: data/seeds.jsonl}}]\n")
    project.rows("data/seeds.jsonl", [{"question": "What is 1?"}])
    for number in range(2):
        project.cli("run", "few", "--shard", f"{number}/2")
    assert "1 kept" in project.cli("gather", "runs/few/shard-0-of-2", "runs/few/shard-1-of-2").stdout


def test_python_runs_a_shard(project, asked):
    run = distillgen.run("ask", shard="1/3", progress=False)
    assert run.directory.resolve() == project.path / SHARDS[1]
    run_shards(project, (0, 2))
    project.cli("gather", *SHARDS)
    assert len(project.read("runs/ask/corpus.jsonl")) == 8
    with pytest.raises(distillgen.ConfigError, match="either 'shard' or 'seeds'"):
        distillgen.run("ask", shard="1/3", seeds=2, progress=False)


def test_shards_of_other_machines_bring_their_ledgers(project, asked, tmp_path):
    project.cli("run", "ask", "--out", "runs/alone", "--ledger", "alone.sqlite3")
    alone = len(asked.bodies)
    for number in range(3):
        folder = f"away-{number}"
        project.cli(
            "run", "ask", "--shard", f"{number}/3", "-o", folder, "--ledger", f"{folder}/ledger.sqlite3"
        )
        shutil.move(project.path / folder, project.path / f"brought-{number}")
    brought = [f"brought-{number}" for number in range(3)]
    assert "48 answers of 3 shards were copied" in project.cli("gather", *brought).stderr
    assert len(asked.bodies) == 2 * alone and corpus(project, "runs/ask") == corpus(project, "runs/alone")
    state = distillgen.Run(project.path / "runs/ask").state
    assert state["totals"]["answers"] == alone and state["asked_now"]["answers"] == 8
    assert "0 answers of 3 shards were copied" in project.cli("gather", *brought).stderr


def test_the_array_job_runs_its_shard_and_goes_on(project, asked, tmp_path):
    project.cli("run", "ask", "--out", "runs/alone", "--ledger", "alone.sqlite3")
    alone = len(asked.bodies)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "distillgen").write_text(f'#!/bin/sh\nexec {sys.executable} -m distillgen "$@"\n')
    (bin_folder / "distillgen").chmod(0o755)
    for attempt in range(2):
        for task in range(2):
            variables = {
                "PATH": f"{bin_folder}:{os.environ['PATH']}",
                "SLURM_ARRAY_TASK_ID": str(task),
                "SLURM_ARRAY_TASK_COUNT": "2",
                "SLURM_SUBMIT_DIR": str(tmp_path),
                "TMPDIR": str(tmp_path / f"node-{attempt}-{task}"),
            }
            (tmp_path / f"node-{attempt}-{task}").mkdir()
            subprocess.run(
                ["sh", ROOT / "docs/examples/shards.slurm", "ask"],
                env=project.env() | variables,
                cwd=tmp_path,
                check=True,
            )
    assert len(asked.bodies) == alone + 48
    project.cli("gather", "shards/0", "shards/1")
    assert len(asked.bodies) == 2 * alone and corpus(project, "runs/ask") == corpus(project, "runs/alone")


def test_the_pods_of_the_indexed_job_run_all_shards():
    job = yaml.safe_load((ROOT / "docs/examples/shards.k8s.yaml").read_text())["spec"]
    (worker,) = job["template"]["spec"]["containers"]
    assert job["completionMode"] == "Indexed" and worker["command"] == ["sh", "-c"]
    outs, (script,) = set(), worker["args"]
    for index in range(job["completions"]):
        line = script.replace("\\\n", " ").replace("$JOB_COMPLETION_INDEX", str(index))
        executed, program, name, *words = shlex.split(line)
        assert (executed, program, name) == ("exec", "distillgen", "run")
        options = run.make_context(name, words).params
        assert options["pipeline"] == "mine" and options["shard"] == f"{index}/{job['completions']}"
        assert Source(path="x", shard=options["shard"]).shard_number == index
        assert options["ledger"].parent == options["out"]
        outs.add(options["out"])
    assert len(outs) == job["completions"]
    mounts = {mount["mountPath"] for mount in worker["volumeMounts"]}
    assert {str(out.parent) for out in outs} == mounts


def test_a_killed_shard_goes_on_and_is_not_gathered_before(project, asked):
    asked.latency_s = 0.05
    command = [sys.executable, "-m", "distillgen", "run", "ask", "--shard", "1/3", "--concurrency", "2"]
    project.kill_at([2, 5], command, "runs/ledger.sqlite3")
    run_shards(project, (0, 2))
    told = project.cli("gather", *SHARDS, check=2).stderr
    assert "shard-1-of-3' is killed, not finished" in told and "distillgen run ask --out" in told
    asked.latency_s = 0
    run_shards(project, (1,))
    project.cli("gather", *SHARDS)
    project.cli("run", "ask", "--out", "runs/alone", "--ledger", "alone.sqlite3")
    assert corpus(project, "runs/ask") == corpus(project, "runs/alone")


def test_what_cannot_be_gathered_is_told(project, asked):
    run_shards(project, (0, 1))
    project.cli("run", "ask", "--shard", "0/2", "-o", "runs/half")
    project.cli("run", "ask", "--shard", "1/3", "-o", "runs/twin")
    project.cli("run", "ask", "--shard", "2/3", "-o", "runs/warm", "--set", "generate.temperature=0.5")
    project.cli("run", "ask", "-o", "runs/whole")
    for names, told in (
        (SHARDS[:2], "there is no run of shard 2/3"),
        ([*SHARDS[:2], "half"], "'runs/half' is one of 2 shards, "),
        ([*SHARDS[:2], "twin"], "are both shard 1/3"),
        ([*SHARDS[:2], "warm"], "their 'stages' differ"),
        ([*SHARDS[:2], "whole"], "'runs/whole' is no shard: it was run without --shard"),
        ([*SHARDS[:2], "nowhere"], "'nowhere' is not a run directory"),
    ):
        assert told in project.cli("gather", *names, check=2).stderr
    assert not (project.path / "runs/ask/corpus.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--shard", "3/3"], "'shard' is 3/3; the last of 3 is 2/3"),
        (["--shard", "1"], "shard"),
        (["--shard", "0/0"], "shard"),
        (["--shard", "0/2", "--seeds", "2"], "--shard and --seeds exclude each other"),
        (["--shard", "0/2", "--from", "once"], "stage 'once' needs all records"),
    ],
)
def test_a_wrong_shard_is_told_before_anything_is_asked(project, asked, words, told):
    assert told in project.cli("run", "ask", *words, check=2).stderr
    assert not asked.bodies


def test_overrides_and_a_limit_reach_the_gathered_run(project, asked):
    sets = ["--set", "generate.temperature=0.5"]
    for number in range(2):
        project.cli("run", "ask", "--shard", f"{number}/2", "-n", "6", *sets)
    before = len(asked.bodies)
    assert before == 12 and asked.bodies[0]["temperature"] == 0.5
    told = project.cli("gather", *(f"runs/ask/shard-{number}-of-2" for number in range(2)), "-n", "6")
    assert "of 2 shards" in told.stderr and len(asked.bodies) == before + 2


def test_all_rows_of_an_item_have_one_worker():
    source = [Source(path="x", shard=f"{number}/5") for number in range(5)]
    for i in range(50):
        records = [Record.read({"question": f"What is {i}?", "answer": answer}, "x") for answer in "ab"]
        takers = [[worker.takes(record) for worker in source] for record in records]
        assert takers[0] == takers[1] and sum(takers[0]) == 1


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none(), min_size=1), st.integers(1, 9))
def test_each_record_has_exactly_one_worker(fields, workers):
    record = Record.read(fields, "x")
    taken = [Source(path="x", shard=f"{number}/{workers}").takes(record) for number in range(workers)]
    assert sum(taken) == 1


def test_the_texts_of_a_folder_are_not_read_to_count_a_shard(project):
    for i in range(6):
        project.write(f"texts/{i}.md", f"# Title {i}\n\nA sentence about {i}.\n")
    own = Project(project.path)
    assert [Source(path="texts", shard=f"{i}/2").count(own) for i in range(2)] == [6, 6]


def test_a_shard_plans_its_own_rows(project, asked):
    whole = project.cli("plan", "ask", "--json").stdout
    parts = [project.cli("plan", "ask", "--json", "--set", f"source.shard={n}/3").stdout for n in range(3)]
    counts = [json.loads(text)["stages"][0]["rows"] for text in (whole, *parts)]
    assert counts[0] == 24 == sum(counts[1:])
