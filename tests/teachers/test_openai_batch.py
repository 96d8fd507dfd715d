"""The batch API against a real HTTP server: submissions and results, with no line paid twice wherever a kill
strikes.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from contextlib import nullcontext

import pytest
from aiohttp import web

import distillgen
from distillgen.errors import ConfigError, DistillgenError
from distillgen.inference.ledger import Ledger
from distillgen.inference.ledger_files import merge, salvage
from distillgen.pipeline.load import load
from distillgen.runs import progress
from distillgen.runs.run import run_pipeline
from distillgen.runs.state import Options
from tests.batch_endpoint import BatchEndpoint, line_error
from tests.command_process import ForkedCommand
from tests.endpoint import completion

FAST = ", mode: batch, gather_s: 0.25, poll_s: 0.05"


def status(code, text="oh"):
    return web.json_response({"error": {"message": text, "code": "x"}}, status=code)


def start(project, *args):
    command = [sys.executable, "-m", "distillgen", "run", "ask", *args]
    return ForkedCommand(command, project.path, project.env(), text=True, start_new_session=True)


def run(project, out="ask", expect=None, **options):
    """In this process; `expect` is what it fails with."""
    with pytest.raises(DistillgenError, match=expect) if expect else nullcontext():
        distillgen.run(project.path / "pipelines/ask.yaml", out=project.path / "runs" / out, **options)


def corpus(project, run="ask"):
    return (project.path / "runs" / run / "corpus.jsonl").read_bytes()


def totals(project, run="ask"):
    return json.loads((project.path / "runs" / run / "usage.json").read_text())["totals"]


def test_batch_and_online_give_the_same_corpus_and_keys(project):
    with BatchEndpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 30, model=FAST, stage=", n: 3")
        run(project, "online", sets=["teacher.mode=online"], ledger=project.path / "online.sqlite3")
        assert len(endpoint.bodies) == 30 and not endpoint.batches
        run(project, "batch", ledger=project.path / "batch.sqlite3")
        assert len(endpoint.batches) == 1 and len(endpoint.lines) == 30
        assert sorted(map(json.dumps, endpoint.bodies[:30])) == sorted(map(json.dumps, endpoint.bodies[30:]))
        assert corpus(project, "batch") == corpus(project, "online")
        assert totals(project, "batch") == totals(project, "online")
        before = len(endpoint.bodies)
        for other, mode in (("batch", "online"), ("online", "batch")):
            run(project, "both", ledger=project.path / f"{other}.sqlite3", sets=[f"teacher.mode={mode}"])
        assert len(endpoint.bodies) == before and corpus(project, "both") == corpus(project, "online")


def test_the_completions_protocol(project):
    with BatchEndpoint(
        lambda body, times: {
            "choices": [{"text": f"to {body['prompt']}", "finish_reason": "stop"}],
            "usage": {},
        }
    ) as endpoint:
        project.ask_pipeline(endpoint.url, 3, model=FAST + ", api: completions")
        run(project)
        assert endpoint.batches["batch_0"]["endpoint"] == "/v1/completions"
    assert [row["answer"] for row in project.read("runs/ask/corpus.jsonl")] == [
        f"to What is {i}?" for i in range(3)
    ]


def test_a_batch_holds_no_more_than_it_may_and_a_window_lets_it_fill(project):
    with BatchEndpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 1000, model=FAST + ", batch_size: 300")
        run(project)
        sizes = [batch["request_counts"]["total"] for batch in endpoint.batches.values()]
        assert sorted(sizes) == [100, 300, 300, 300] and max(endpoint.lines.values()) == 1


def test_a_file_holds_no_more_bytes_than_it_may(project, monkeypatch):
    monkeypatch.setattr("distillgen.teachers._openai_batch.FILE_BYTES", 2000)
    with BatchEndpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 30, model=FAST)
        run(project)
        assert len(endpoint.batches) > 2 and all(
            len(endpoint.files[b["input_file_id"]]) <= 2000 for b in endpoint.batches.values()
        )
    assert len(project.read("runs/ask/corpus.jsonl")) == 30


def test_an_endpoint_that_ignores_n_is_asked_for_each_sample(project):
    with BatchEndpoint(lambda body, times: completion({**body, "n": 1})) as endpoint:
        project.ask_pipeline(endpoint.url, 2, model=FAST, stage=", n: 3")
        run(project)
        assert len(endpoint.batches) == 3 and max(endpoint.lines.values()) == 1
    assert len(project.read("runs/ask/corpus.jsonl")) == 6


def test_an_answer_may_hold_what_ends_a_line_elsewhere(project):
    odd = "one\u2028two\u0085three\nfour\x1efive"
    with BatchEndpoint(
        lambda body, times: completion(body, choices=[{"finish_reason": "stop", "message": {"content": odd}}])
    ) as endpoint:
        project.ask_pipeline(endpoint.url, 2, model=FAST)
        run(project)
    assert {row["answer"] for row in project.read("runs/ask/corpus.jsonl")} == {odd}


@pytest.mark.parametrize("step", ["upload", "uploaded", "create", "created", "retrieve", "download"])
def test_killed_at_any_step_nothing_is_paid_twice_and_nothing_is_lost(project, step):
    """Each is the last step that the process sees; it takes effect, but for upload and create, and is listed
    late.
    """
    with BatchEndpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 40, model=FAST)
        run(project, "online", sets=["teacher.mode=online"], ledger=project.path / "online.sqlite3")
        killed(project, endpoint, step)
        assert len(endpoint.batches) == (step not in ("upload", "uploaded", "create"))
        endpoint.late = 1
        run(project)
        assert (
            len(endpoint.batches) == 1 and set(endpoint.lines.values()) == {1} and len(endpoint.lines) == 40
        )
        assert endpoint.steps.count("create") == 1 + (step == "create")
        assert ("list" in endpoint.steps) == (step in ("create", "created")), "what is known was looked for"
    assert corpus(project) == corpus(project, "online")
    assert totals(project)["answers"] == totals(project)["requests"] == 40


def test_killed_with_half_of_the_answers_recorded(project):
    with BatchEndpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 40, model=FAST + ", batch_size: 20")
        killed(project, endpoint, "download", times=2)
        with sqlite3.connect(project.path / "runs/ledger.sqlite3") as ledger:
            assert ledger.execute("SELECT count(*) FROM answers").fetchone() == (20,)
        run(project)
        assert (
            len(endpoint.batches) == 2 and set(endpoint.lines.values()) == {1} and len(endpoint.lines) == 40
        )
    assert len(project.read("runs/ask/corpus.jsonl")) == totals(project)["answers"] == 40


def killed(project, endpoint, step, times=1):
    """Run until the endpoint has come to a step so many times, and is about to say so."""
    process, dead = start(project), threading.Event()

    def kill(name):
        if name != step or dead.is_set() or endpoint.steps.count(step) < times:
            return False
        time.sleep(0.5 * (times > 1))  # what came before may become durable
        os.killpg(process.pid, signal.SIGKILL)
        dead.set()
        return True

    endpoint.step = kill
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors


def test_where_it_is_not_said_whether_a_batch_was_made_the_list_tells(project):
    """The list comes in pages, and shows others' batches as well."""
    with BatchEndpoint(
        step=lambda name: name == "created" and endpoint.steps.count("created") == 1
    ) as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=FAST)
        for other in range(7):
            endpoint.batches[f"other_{other}"] = {
                "id": f"other_{other}",
                "metadata": {"distillgen": "x"} if other % 2 else None,
            }
        run(project)
        assert totals(project)["retries"] == 0
        assert sum(name.startswith("batch_") for name in endpoint.batches) == 1 and set(
            endpoint.lines.values()
        ) == {1}
    assert len(project.read("runs/ask/corpus.jsonl")) == 5


@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_while_batches_come_and_go(project, seed):
    rng, rows = random.Random(seed), 160
    with BatchEndpoint() as endpoint:
        project.ask_pipeline(
            endpoint.url,
            rows,
            model=FAST.replace("0.1", "0.02") + ", batch_size: 20, max_concurrency: 40",
            after='  - generate: {name: again, model: teacher, template: "Judge {{ answer }}", '
            "output: verdict}\n",
        )
        run(project, "online", sets=["teacher.mode=online"], ledger=project.path / "online.sqlite3")
        kills = 0
        while True:
            process, seen, limit = start(project), len(endpoint.steps), time.monotonic() + 30
            while process.poll() is None and len(endpoint.steps) == seen and time.monotonic() < limit:
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.3))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
            _, errors = process.communicate(timeout=60)
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, errors
        assert kills >= 2, "the machine is too fast for this test: raise rows"
        assert set(endpoint.lines.values()) == {1} and len(endpoint.lines) == 2 * rows
    assert corpus(project) == corpus(project, "online")
    assert totals(project)["answers"] == totals(project)["requests"] == 2 * rows


def test_an_expired_batch_gives_its_results_and_the_rest_is_asked(project):
    with BatchEndpoint(fate=lambda number: "completed" if number else "expired") as endpoint:
        project.ask_pipeline(endpoint.url, 40, model=FAST)
        run(project)
        first, *others = [batch["status"] for batch in endpoint.batches.values()]
        assert first == "expired" and set(others) == {"completed"}
        assert len(endpoint.bodies) == 40 and sorted(endpoint.lines.values()) == [1] * 20 + [2] * 20
    assert [row["number"] for row in project.read("runs/ask/corpus.jsonl")] == list(range(40))
    assert totals(project)["retries"] == 20


def test_a_cancelled_batch_stops_the_run_and_the_rest_is_asked(project):
    with BatchEndpoint(fate=lambda number: "completed" if number else "cancelled") as endpoint:
        project.ask_pipeline(endpoint.url, 40, model=FAST)
        run(project, expect="batch_0 was cancelled.*running again asks the other requests")
        assert totals(project)["answers"] == 20
        run(project)
        assert len(endpoint.bodies) == 40 and endpoint.batches["batch_1"]["request_counts"]["total"] == 20
    assert [row["number"] for row in project.read("runs/ask/corpus.jsonl")] == list(range(40))


def test_lines_that_failed_are_told_apart_as_online(project):
    def behave(body, times):
        return {
            "What is 0?": status(400, "too long"),
            "What is 1?": status(500) if times == 1 else None,
            "What is 2?": status(429) if times <= 2 else None,
            "What is 3?": {"choices": []} if times == 1 else None,
            "What is 4?": line_error("invalid_request_error"),
            "What is 5?": line_error("server_error") if times == 1 else None,
        }.get(body["messages"][0]["content"])

    with BatchEndpoint(behave) as endpoint:
        project.ask_pipeline(endpoint.url, 10, model=FAST)
        run(project)
        assert sorted(endpoint.asked.values()) == [1] * 6 + [2] * 3 + [3]
        dropped = {
            row["number"]: row["meta"]["dropped"]["reason"] for row in project.read("runs/ask/dropped.jsonl")
        }
        assert "too long" in dropped[0] and "invalid_request_error" in dropped[4] and len(dropped) == 2
        keyless(project)
        endpoint.behave, before = None, endpoint.asked.total()
        run(project, retry_failed=True)
        assert endpoint.asked.total() == before + 2
    assert [row["number"] for row in project.read("runs/ask/corpus.jsonl")] == list(range(10))


def test_a_line_that_never_succeeds_is_a_failed_row_after_max_retries(project):
    with BatchEndpoint(
        lambda body, times: status(500) if body["messages"][0]["content"] == "What is 1?" else None
    ) as endpoint:
        project.ask_pipeline(endpoint.url, 3, model=FAST + ", max_retries: 2")
        run(project)
        assert len(endpoint.batches) == 3
    assert "HTTP 500" in project.read("runs/ask/dropped.jsonl")[0]["meta"]["dropped"]["reason"]


def test_a_rejected_batch_stops_the_run_until_it_is_fixed(project):
    with BatchEndpoint(fate=lambda number: "completed" if number else "failed") as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=FAST)
        project.write(
            "other.yaml",
            project.path.joinpath("pipelines/ask.yaml").read_text().replace("model: m,", "model: wrong,"),
        )
        done = project.cli("run", "ask", check=2)
        assert (
            "batch_0 was not accepted" in done.stderr
            and "run again" in done.stderr
            and "Traceback" not in done.stderr
        )
        run(project)
        wrong = project.cli("run", "other.yaml", check=2)
        assert "no such model (line 1)" in wrong.stderr
    assert len(project.read("runs/ask/corpus.jsonl")) == 5


def test_a_full_queue_is_waited_for(project):
    with BatchEndpoint(fate=lambda number: "full" if number < 2 else "completed") as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=FAST)
        run(project)
        assert len(endpoint.batches) == 3 and endpoint.steps.count("upload") == 1
        assert totals(project)["retries"] == 0
    assert "Enqueued token limit" in (project.path / "runs/ask/run.log").read_text()


@pytest.mark.parametrize("key, remedy", [("another", "check api_key"), ("secret-key-123", "mode: online")])
def test_a_permanent_failure_stops_with_a_remedy_and_no_key(project, key, remedy):
    with BatchEndpoint(key=key) as endpoint:
        url = endpoint.url if key == "another" else endpoint.url + "/no-batches"
        project.ask_pipeline(url, 5, model=FAST)
        done = project.cli("run", "ask", check=2)
        assert remedy in done.stderr and "Traceback" not in done.stderr
    keyless(project)


def keyless(project):
    for file in project.path.glob("runs/ask/*"):
        assert file.is_dir() or b"secret-key-123" not in file.read_bytes(), file


@pytest.mark.parametrize("step", ["upload", "create", "retrieve"])
def test_what_the_batch_api_rejects_fails_no_row(project, step):
    def reject(name):
        if name == step:
            raise web.HTTPBadRequest(text='{"error": {"message": "not with secret-key-123"}}')

    with BatchEndpoint(step=reject) as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=FAST)
        run(project, expect="the batch API refuses: HTTP 400: not with .withheld.*run again")
        endpoint.step = lambda name: False
        run(project)
        assert set(endpoint.lines.values()) == {1}
    assert len(project.read("runs/ask/corpus.jsonl")) == 5
    keyless(project)


def test_a_queue_that_is_full_at_once_is_waited_for(project):
    def full(name):
        if name == "create" and endpoint.steps.count("create") < 3:
            raise web.HTTPTooManyRequests(text='{"error": {"message": "Enqueued token limit reached for m"}}')

    with BatchEndpoint(step=full) as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=FAST)
        run(project)
        assert (
            endpoint.steps.count("upload") == 1
            and set(endpoint.lines.values()) == {1}
            and totals(project)["retries"] == 0
        )


def test_an_upload_that_fails_is_tried_again(project, monkeypatch):
    monkeypatch.setattr("distillgen.teachers._openai_batch.UPLOADS", 0)
    with BatchEndpoint(step=lambda name: name == "upload" and endpoint.steps.count("upload") < 3) as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=FAST)
        run(project)
        assert set(endpoint.lines.values()) == {1}
    assert len(project.read("runs/ask/corpus.jsonl")) == 5


def test_a_batch_that_is_gone_is_not_silently_paid_for_again(project):
    with BatchEndpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=FAST)
        interrupt(project, endpoint)
        endpoint.batches.clear()
        run(project, expect="no such batch.*mode: online")
        run(project, sets=["teacher.mode=online"])
    assert len(project.read("runs/ask/corpus.jsonl")) == 5


FLAWS = ["no file", "404", "500", "cut", "lines"]


@pytest.mark.parametrize("fate", ["completed", "expired"])
@pytest.mark.parametrize("flaw", FLAWS)
def test_late_results_are_waited_for_and_not_paid_twice(project, flaw, fate):
    with BatchEndpoint(fate=lambda number: "completed" if number else fate) as endpoint:
        endpoint.flaw, endpoint.flawed = flaw, 4
        project.ask_pipeline(endpoint.url, 12, model=FAST)
        run(project)
        assert endpoint.flawed == 0 and len(endpoint.bodies) == 12
        assert sorted(endpoint.lines.values()) == ([1] * 12 if fate == "completed" else [1] * 6 + [2] * 6)
    assert [row["number"] for row in project.read("runs/ask/corpus.jsonl")] == list(range(12))
    assert "has ended" in (project.path / "runs/ask/run.log").read_text() or flaw == "500"


@pytest.mark.parametrize("flaw", ["no file", "404", "cut"])
def test_missing_results_stop_the_run_and_are_looked_up_again(project, flaw, monkeypatch):
    monkeypatch.setattr("distillgen.teachers._openai_batch.LOOKS", 3)
    with BatchEndpoint() as endpoint:
        endpoint.flaw, endpoint.flawed = flaw, 1000
        project.ask_pipeline(endpoint.url, 30, model=FAST)
        for _ in range(2):
            run(
                project,
                expect="batch_0 has ended .completed. and is paid for.*looks for its results once "
                "more.*mode: online",
            )
        endpoint.flaw = ""
        run(project)
        assert (
            len(endpoint.batches) == 1 and len(endpoint.bodies) == 30 and endpoint.steps.count("upload") == 1
        )
    assert [row["number"] for row in project.read("runs/ask/corpus.jsonl")] == list(range(30))
    keyless(project)


@pytest.mark.parametrize("restart", [False, True])
def test_a_missing_result_line_is_a_failed_row(project, restart, monkeypatch):
    monkeypatch.setattr("distillgen.teachers._openai_batch.LOOKS", 3)
    with BatchEndpoint() as endpoint:
        endpoint.flaw, endpoint.flawed = "lines", 1000
        project.ask_pipeline(endpoint.url, 30, model=FAST)
        if restart:
            interrupt(project, endpoint)
        run(project)
        dropped = project.read("runs/ask/dropped.jsonl")
        assert len(dropped) == 2 and all(
            "28 of 30 results" in row["meta"]["dropped"]["reason"] for row in dropped
        )
        run(project)
        assert len(endpoint.batches) == 1
        endpoint.flaw = ""
        run(project, retry_failed=True)
        assert endpoint.batches["batch_1"]["request_counts"]["total"] == 2
    assert [row["number"] for row in project.read("runs/ask/corpus.jsonl")] == list(range(30))


def test_a_line_that_failed_for_now_is_asked_again(project, monkeypatch):
    monkeypatch.setattr("distillgen.teachers._openai_batch.LOOKS", 3)
    with BatchEndpoint(
        lambda body, times: (
            status(500) if body["messages"][0]["content"] == "What is 1?" and times == 1 else None
        )
    ) as endpoint:
        endpoint.flaw, endpoint.flawed = "lines", 3
        project.ask_pipeline(endpoint.url, 8, model=FAST)
        run(project)
        assert endpoint.batches["batch_1"]["request_counts"]["total"] == 1
    assert len(project.read("runs/ask/dropped.jsonl")) == 2
    assert 1 in [row["number"] for row in project.read("runs/ask/corpus.jsonl")]


def test_counts_that_lag_behind_the_end_hide_no_line_that_is_paid_for(project):
    class Lagging(BatchEndpoint):
        def end(self, batch):
            super().end(batch)
            batch["request_counts"] |= {"completed": 3, "failed": 0}

    with Lagging() as endpoint:
        endpoint.flaw, endpoint.flawed = "lines", 3
        project.ask_pipeline(endpoint.url, 8, model=FAST)
        run(project)
        assert len(endpoint.batches) == 1 and endpoint.flawed == 0
    assert len(project.read("runs/ask/corpus.jsonl")) == 8


def test_a_batch_that_is_not_known_everywhere_at_once_is_looked_for(project):
    def hide(name):
        if name == "retrieve" and endpoint.steps.count(name) < 4:
            raise web.HTTPNotFound(text='{"error": {"message": "no such batch"}}')

    with BatchEndpoint(step=hide) as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=FAST)
        run(project)
        assert len(endpoint.batches) == 1
    assert len(project.read("runs/ask/corpus.jsonl")) == 5


def test_an_answer_without_an_id_is_no_batch_until_the_list_shows_it(project):
    class Nameless(BatchEndpoint):
        async def _create(self, request):
            await super()._create(request)
            return web.json_response({"object": "batch"})

    with Nameless() as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=FAST)
        run(project)
        assert len(endpoint.batches) == 1
    assert len(project.read("runs/ask/corpus.jsonl")) == 5


def interrupt(project, endpoint, number=signal.SIGINT, *args):
    """Run until a batch is at the endpoint, which gets no further, and stop; what is said, and how long that
    took.
    """
    endpoint.held = True
    seen = endpoint.steps.count("retrieve")
    process = start(project, *args)
    while endpoint.steps.count("retrieve") < seen + 2 and process.poll() is None:
        time.sleep(0.01)
    begun = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    endpoint.held = False
    return errors, time.monotonic() - begun


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_waits_for_no_batch_and_says_what_goes_on(project, number):
    """SIGTERM comes while the endpoint is away."""
    with BatchEndpoint(
        step=lambda name: number == signal.SIGTERM and endpoint.held and name == "retrieve"
    ) as endpoint:
        project.ask_pipeline(endpoint.url, 40, model=FAST)
        errors, took_s = interrupt(project, endpoint, number)
        assert took_s < 5
        assert "batch_0" in errors and "run the same command to go on" in errors and "Traceback" not in errors
        run(project)
        assert len(endpoint.batches) == 1 and endpoint.steps.count("upload") == 1
    assert len(project.read("runs/ask/corpus.jsonl")) == 40


def test_retry_failed_after_ctrl_c_takes_what_was_retried(project):
    with BatchEndpoint(
        lambda body, times: status(400) if body["messages"][0]["content"].endswith("3?") else None
    ) as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=FAST)
        run(project)
        endpoint.behave = None
        interrupt(project, endpoint, signal.SIGINT, "--retry-failed")
        run(project, retry_failed=True)
        assert len(endpoint.batches) == 2 and set(endpoint.lines.values()) == {1}
    assert len(project.read("runs/ask/corpus.jsonl")) == 5


def test_the_cap_holds_at_the_batch_price_and_the_run_goes_on_later(project):
    """An answer costs 10 input and 5 output tokens, at half the price; its worst case is more."""
    price = ", max_tokens: 50, price: {input: 1000, output: 10000, batch: 0.5}, batch_size: 20"
    with BatchEndpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 100, model=FAST + price)
        planned = [
            load("ask", [f"teacher.mode={mode}"]).plan()[1][1].max_cost_usd for mode in ("batch", "online")
        ]
        assert planned[0] == pytest.approx(planned[1] / 2)
        run(project, max_cost_usd=2, expect="stopped by --max-cost-usd 2")
        spent = totals(project)["cost_usd"]
        assert 1 < spent <= 2 and spent == pytest.approx(len(endpoint.lines) * 0.03)
        run(project, max_cost_usd=50)
        assert set(endpoint.lines.values()) == {1}
    assert totals(project)["cost_usd"] == pytest.approx(100 * 0.03)


def test_an_endpoint_that_is_away_for_a_while_ends_nothing(project):
    """Twenty looks in a row fail, and ten downloads: more often than a request is tried."""
    with BatchEndpoint(
        step=lambda name: (
            2 < endpoint.steps.count(name) < 23
            and name == "retrieve"
            or endpoint.steps.count(name) < 11
            and name == "download"
        )
    ) as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=FAST)
        run(project)
        assert len(endpoint.batches) == 1 and totals(project)["retries"] == 0
    assert "waiting for the batch API" in (project.path / "runs/ask/run.log").read_text()


def test_what_is_waited_for_is_said_and_no_alarm_is_raised(project, monkeypatch):
    """Silence would be told of after half a second."""
    monkeypatch.setattr(progress, "SILENCE_S", 0.5)
    notes, alarms = [], []

    async def watch(live):
        while True:
            if (note := live.teachers["teacher"].activity.note) and note not in notes:
                notes.append(note)
            if note and "nothing has moved" in (waits := progress.Meter(live).read().waits):
                alarms.append(waits)
            if "done" in note:
                held.append(note)
            endpoint.held = len(held) < 50
            await asyncio.sleep(0.04)

    held = []
    with BatchEndpoint() as endpoint:
        endpoint.held = True
        path = project.ask_pipeline(endpoint.url, 6, model=FAST.replace("poll_s: 0.05", "poll_s: 1"))
        run_pipeline(load(path), project.path / "runs/ask", Options(), watch)
    assert "batch batch_0: 2 of 6 done" in notes and len(held) >= 50 and not alarms


def test_a_merged_or_salvaged_ledger_knows_open_batches(project):
    with BatchEndpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=FAST)
        interrupt(project, endpoint)
        merge(project.path / "merged.sqlite3", [project.path / "runs/ledger.sqlite3"])
        salvage(project.path / "merged.sqlite3")
        with sqlite3.connect(project.path / "merged.sqlite3") as ledger:
            custom_id = ledger.execute("SELECT custom_id FROM batch_lines").fetchone()[0]
        merged = Ledger(project.path / "merged.sqlite3", read_only=True)
        assert merged.find_batch(custom_id)[2] == "batch_0"
        merged.close_now()
        run(project, "elsewhere", ledger=project.path / "merged.sqlite3")
        assert len(endpoint.batches) == 1
    assert len(project.read("runs/elsewhere/corpus.jsonl")) == 5


@pytest.mark.parametrize(
    "options, said",
    [
        ("also: [{base_url: 'http://localhost:1/v1'}]", "'also' has no meaning with mode: batch"),
        ("rpm: 60", "'rpm' has no meaning with mode: batch"),
        ("batch_size: 50001", "less than or equal to 50000"),
        ("batch_size: 0", "greater than or equal to 1"),
        ("max_concurrency: 8", "would never fill"),
        ("poll_s: 0", "greater than 0"),
        ("mode: batched", "mode"),
        ("price: {batch: -1}", "price.batch"),
    ],
)
def test_options_that_make_no_sense_are_told_at_check(project, options, said):
    mode = "" if "mode:" in options else "mode: batch, "
    project.ask_pipeline("http://localhost:1/v1", 1, model=f", {mode}{options}")
    with pytest.raises(ConfigError, match=rf"ask\.yaml:4: .*{said}"):
        load("ask")
