"""Pushes of a run that goes on: what the Hub's client commits to a local server, through kills of both."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from aiohttp import web

import distillgen
from distillgen.errors import ConfigError, DistillgenError
from distillgen.runs.directory import is_running
from distillgen.runs.hub_repository import open_repository
from distillgen.runs.hub_shards import ShardPush, push_while_running
from tests.endpoint import Endpoint
from tests.hub import Hub
from tests.runs.test_hub import again, environment, load

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(project, monkeypatch):
    with Hub() as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_write")
        yield running


def questions(count, word="What"):
    return [{"question": f"{word} is {i}?", "text": f"{i} " * 100} for i in range(count)]


def published(run):
    """The rows of a run as they are published."""
    return re.sub(rb'"key":"\w+",', b"", (run.directory / "corpus.jsonl").read_bytes())


def shards(hub, name="me/r"):
    return {name: content for name, content in sorted(hub.files(name).items()) if "corpus-" in name}


@contextlib.contextmanager
def going_on(run, rows):
    """The run as it is when a process has written so many of its rows, and a part of the next one."""
    lines = (run.directory / "corpus.jsonl").read_bytes().splitlines(keepends=True)
    partial = run.directory / "corpus.jsonl.partial"
    partial.write_bytes(b"".join(lines[:rows]) + b"".join(lines[rows : rows + 1])[:-9])
    held = [
        sys.executable,
        "-c",
        "import sys, fcntl; f = open(sys.argv[1]); fcntl.flock(f, 2); print(); input()",
    ]
    process = subprocess.Popen(
        [*held, str(run.directory / "run.lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    try:
        yield
    finally:
        process.communicate(b"\n")
        partial.unlink(missing_ok=True)


def test_each_push_brings_the_new_whole_rows_only(project, hub):
    run = again(project, questions(40))
    repository = open_repository("r", "dataset", public=False)
    first = ShardPush(run, repository, as_it_is=False)
    for rows, new in ((7, True), (7, False), (23, True)):
        with going_on(run, rows):
            assert first.push(finished=False) == new
    assert [content.count(b"\n") for content in shards(hub).values()] == [7, 16]
    later = ShardPush(run, repository, as_it_is=False)  # another process, and a run that begins again
    for rows in (3, 23):
        with going_on(run, rows):
            assert not later.push(finished=False)
    with going_on(run, 30):
        assert later.push(finished=False)
    assert later.push(finished=True) and later.rows == 40
    assert b"".join(shards(hub).values()) == published(run)
    names = {f"corpus-0000{i}.jsonl" for i in range(4)}
    assert hub.files("me/r").keys() == {*names, "README.md", "pipeline.lock.yaml", "usage.json"}
    assert {hub.committed[name] for name in names} == {1} and set(hub.uploaded.values()) == {1}


def test_what_a_killed_push_had_written_for_the_hub_is_not_pushed_by_the_next_one(project, hub):
    run = again(project, questions(40))
    (run.directory / ".shard.jsonl").write_bytes(b"".join(published(run).splitlines(keepends=True)[:9]))
    repository = open_repository("r", "dataset", public=False)
    with going_on(run, 20):
        assert ShardPush(run, repository, as_it_is=False).push(finished=False)
    assert [content.count(b"\n") for content in shards(hub).values()] == [20]
    assert b"".join(shards(hub).values()) == b"".join(published(run).splitlines(keepends=True)[:20])
    assert not (run.directory / ".shard.jsonl").read_bytes()


def test_a_run_that_ends_during_a_push_has_its_rows_pushed(project, hub):
    run = again(project, questions(5))
    partial = run.directory / "corpus.jsonl.partial"

    def behave(request):
        if "/tree/" in request.path and partial.exists():
            os.replace(partial, run.directory / "corpus.jsonl")

    hub.behave = behave
    push = ShardPush(run, open_repository("r", "dataset", public=False), as_it_is=False)
    with going_on(run, 5):
        assert push.push(finished=False) and push.rows == 5
        assert not partial.exists() and not push.push(finished=False), "the run renames it now"
    assert push.push(finished=True) and b"".join(shards(hub).values()) == published(run)


def test_rows_that_have_changed_replace_the_shards_from_the_first_that_differs(project, hub):
    run = again(project, questions(40))
    repository = open_repository("r", "dataset", public=False)
    for rows in (10, 20, 30):
        with going_on(run, rows):
            ShardPush(run, repository, as_it_is=False).push(finished=False)
    same, changed = questions(15), questions(10, "Who")
    run = again(project, same + changed)
    assert ShardPush(run, repository, as_it_is=False).push(finished=True)
    assert b"".join(shards(hub).values()) == published(run) and len(shards(hub)) == 2
    assert hub.committed["corpus-00000.jsonl"] == 1, "the first ten rows are the same"
    run = again(project, questions(10))
    ShardPush(run, repository, as_it_is=False).push(finished=True)
    assert b"".join(shards(hub).values()) == published(run) and len(shards(hub)) == 1


def test_a_row_with_a_path_of_this_machine_does_not_go_up(project, hub):
    run = again(project, [{"question": "q", "text": "t"}, {"question": str(project.path), "text": "t"}])
    repository = open_repository("r", "dataset", public=False)
    with pytest.raises(ConfigError, match="corpus-00000.jsonl:2: here stands"):
        ShardPush(run, repository, as_it_is=False).push(finished=True)
    assert not shards(hub)
    assert ShardPush(run, repository, as_it_is=True).push(finished=True)


def test_a_fault_that_passes_is_reported_and_tried_again(project, hub):
    run = again(project, questions(3))
    lines, faults = [], iter([503])

    def behave(request):
        if request.path.endswith("/commit/main") and (status := next(faults, None)):
            return web.Response(status=status)

    hub.behave = behave
    with ThreadPoolExecutor(1) as thread:
        with going_on(run, 2):
            push = thread.submit(
                push_while_running, run, "r", every_s=0.1, public=False, as_it_is=False, say=lines.append
            )
            limit = time.monotonic() + 20
            while len(lines) < 2 and not push.done() and time.monotonic() < limit:
                time.sleep(0.02)
        assert push.result()[1] == 3
    (fault, *others) = lines
    assert fault.startswith("note: the Hub answered 503") and fault.endswith("tried again in 0.0017 minutes")
    assert others == ["2 rows are in me/r", "3 rows are in me/r"]
    faults = iter([503])
    with pytest.raises(DistillgenError, match="answered 503"):
        push_while_running(run, "other", every_s=1, public=False, as_it_is=False, say=lines.append)


def test_a_commit_that_comes_in_between_is_compared_first(project, hub):
    run = again(project, questions(40))
    late = []

    def behave(request):
        if request.path.endswith("/preupload/main") and not late:
            late.append(held := hub.repositories["dataset", "me/r"])
            lines = published(run).splitlines(keepends=True)
            held["files"]["corpus-00000.jsonl"] = b"".join(lines[:9])  # of a push that was killed
            held["commits"].append("1" * 40)

    hub.behave = behave
    lines: list[str] = []
    assert push_while_running(run, "r", every_s=9, public=False, as_it_is=False, say=lines.append)[1] == 40
    assert lines == ["40 rows are in me/r"]
    assert [content.count(b"\n") for content in shards(hub).values()] == [9, 31]
    assert b"".join(shards(hub).values()) == published(run)


@pytest.mark.slow
def test_no_row_is_lost_or_there_twice_through_kills_of_the_run_and_of_the_push(project):
    project.rows("data/seeds.jsonl", questions(400))
    with Endpoint(latency_s=0.05) as endpoint, Hub() as hub:
        model = {"provider": "openai", "model": "m", "base_url": endpoint.url, "max_concurrency": 4}
        stages = [
            {"source": {"path": "data/seeds.jsonl"}},
            {"generate": {"model": "t", "template": "{{ question }}", "output": "answer", "max_tokens": 9}},
        ]
        project.write(
            "pipelines/r.yaml", json.dumps({"version": 1, "models": {"t": model}, "stages": stages})
        )
        env = project.env() | environment(project, hub.url)

        def start(*args):
            command = [sys.executable, "-m", "distillgen", *args]
            return subprocess.Popen(
                command,
                cwd=project.path,
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

        def until(condition):
            limit = time.monotonic() + 60
            while not condition():
                assert time.monotonic() < limit
                time.sleep(0.01)

        def kill(process):
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()

        push = ("push", "r", "me/r", "--while-running", "--every", "0.005")

        def commits():
            return len(hub.repositories["dataset", "me/r"]["commits"]) if hub.repositories else 0

        run = start("run", "r")
        until((project.path / "runs/r/corpus.jsonl.partial").exists)
        pushing = start(*push)
        until(lambda: commits() >= 3)
        kill(pushing)
        pushing = start(*push)
        seen = commits()
        until(lambda: commits() > seen)
        kill(run)
        output, _ = pushing.communicate(timeout=60)
        assert pushing.returncode == 2 and "is not finished (killed)" in output
        assert b"**Not complete**" in hub.files("me/r")["README.md"]
        run = start("run", "r")
        until(lambda: is_running(project.path / "runs/r"))
        pushing = start(*push)
        output, _ = pushing.communicate(timeout=120)
        assert pushing.returncode == 0 and "all its 400 rows are in me/r" in output, output
        run.communicate(timeout=60)
        assert run.returncode == 0
        loaded = load(project, hub, "me/r")["train"]
    found = distillgen.Run(project.path / "runs/r")
    assert b"".join(shards(hub).values()) == published(found) and published(found).count(b"\n") == 400
    assert [row["question"] for row in loaded] == [row["question"] for row in questions(400)]
    assert b"**Not complete**" not in hub.files("me/r")["README.md"]
    assert len(shards(hub)) >= 4 and {hub.committed[name] for name in shards(hub)} == {1}
