"""The batches of Anthropic and Gemini against servers that speak their protocols: no line is paid twice, and
no answer is lost, wherever a kill strikes.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import nullcontext, suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from aiohttp import web

import distillgen
from distillgen.errors import ConfigError, DistillgenError, Stopped
from distillgen.inference.endpoint import Activity
from distillgen.pipeline.load import load
from distillgen.teachers._batch_api import BatchApi, Report
from tests.command_process import ForkedCommand
from tests.native_batch_endpoint import AnthropicBatchEndpoint, GeminiBatchEndpoint
from tests.native_endpoint import KEY, candidates, google_error, message, refused

FAST = ", mode: batch, gather_s: 0.25, poll_s: 0.05"
BOTH = pytest.mark.parametrize("server", [AnthropicBatchEndpoint, GeminiBatchEndpoint])


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("T_KEY", KEY)


def pipeline(project, endpoint, rows=20, *, model=FAST, stage="", after=""):
    project.rows("data/seeds.jsonl", [{"question": f"What is {i}?", "number": i} for i in range(rows)])
    entry = f'provider: {endpoint.provider}, model: {endpoint.model}, base_url: "{endpoint.url}"'
    return project.write(
        "pipelines/ask.yaml",
        f"""# ask.yaml: one answer a question
version: 1
models:
  teacher: {{{entry}, api_key: "${{T_KEY}}"{model}}}
stages:
  - source: {{path: data/seeds.jsonl}}
  - generate: {{model: teacher, template: "{{{{ question }}}}", output: answer{stage}}}
{after}""",
    )


def run(project, out="ask", expect=None, **options):
    """In this process; `expect` is what it fails with."""
    with pytest.raises(DistillgenError, match=expect) if expect else nullcontext():
        distillgen.run(project.path / "pipelines/ask.yaml", out=project.path / "runs" / out, **options)


def online(project, **options):
    ledger = project.path / "online.sqlite3"
    run(project, "online", sets=["teacher.mode=online"], ledger=ledger, **options)
    return corpus(project, "online")


def start(project):
    command = [sys.executable, "-m", "distillgen", "run", "ask"]
    options = {"cwd": project.path, "env": project.env() | {"T_KEY": KEY}, "text": True}
    options["start_new_session"] = True
    if (project.path / "sitecustomize.py").exists():  # which a new interpreter alone reads
        return subprocess.Popen(command, **options, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return ForkedCommand(command, **options)


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

    endpoint.steps.clear()
    endpoint.step = kill
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors


def corpus(project, run="ask"):
    return (project.path / "runs" / run / "corpus.jsonl").read_bytes()


def numbers(project):
    return [row["number"] for row in project.read("runs/ask/corpus.jsonl")]


def totals(project, run="ask"):
    return json.loads((project.path / "runs" / run / "usage.json").read_text())["totals"]


def dropped(project):
    return {row["number"]: row["meta"]["dropped"]["reason"] for row in project.read("runs/ask/dropped.jsonl")}


def question(body) -> str:
    """The last turn of a request in either protocol."""
    turn = body.get("messages", body.get("contents"))[-1]
    return turn.get("content", turn.get("parts"))[0]["text"]


def fault(endpoint, status, text="oh"):
    """A refusal in the protocol's form."""
    if endpoint.provider == "gemini":
        return google_error(status, "X", text)
    kinds = {400: "invalid_request_error", 429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"}
    return refused(status, kinds[status], text)


@BOTH
def test_batch_and_online_give_the_same_corpus_and_keys(project, server):
    with server() as endpoint:
        pipeline(project, endpoint, 30, stage=", n: 2, temperature: 0.5, max_tokens: 50")
        before = online(project)
        assert len(endpoint.bodies) == 60 and not endpoint.batches
        run(project, "batch", ledger=project.path / "batch.sqlite3")
        assert len(endpoint.batches) == 1 and len(endpoint.lines) == 60
        assert sorted(map(json.dumps, endpoint.bodies[:60])) == sorted(map(json.dumps, endpoint.bodies[60:]))
        assert corpus(project, "batch") == before and totals(project, "batch") == totals(project, "online")
        for other, mode in (("batch", "online"), ("online", "batch")):
            run(project, "both", ledger=project.path / f"{other}.sqlite3", sets=[f"teacher.mode={mode}"])
        assert len(endpoint.bodies) == 120 and corpus(project, "both") == before


@BOTH
@pytest.mark.parametrize("step", ["create", "created", "retrieve", "download"])
def test_killed_at_any_step_nothing_is_paid_twice_and_nothing_is_lost(project, server, step):
    """Each is the last step that the process sees; it takes effect, but for create, and is listed late."""
    with server() as endpoint:
        pipeline(project, endpoint, 40)
        expected = online(project)
        killed(project, endpoint, step)
        assert len(endpoint.batches) == (step != "create")
        endpoint.late = 1
        run(project)
        assert len(endpoint.batches) == 1 and set(endpoint.lines.values()) == {1}
        assert len(endpoint.lines) == 40 and endpoint.steps.count("create") == 1 + (step == "create")
        assert ("list" in endpoint.steps) == (step in ("create", "created")), "what is known was looked for"
    assert corpus(project) == expected and totals(project)["requests"] == totals(project)["answers"] == 40


@BOTH
def test_killed_with_half_of_the_answers_recorded(project, server):
    with server() as endpoint:
        pipeline(project, endpoint, 40, model=FAST + ", batch_size: 20")
        expected = online(project)
        killed(project, endpoint, "download", times=2)
        with sqlite3.connect(project.path / "runs/ledger.sqlite3") as ledger:
            assert ledger.execute("SELECT count(*) FROM answers").fetchone() == (20,)
        run(project)
        assert len(endpoint.batches) == 2 and set(endpoint.lines.values()) == {1}
    assert corpus(project) == expected and totals(project)["answers"] == 40


@BOTH
def test_killed_again_while_it_looks_for_its_batch(project, server):
    with server() as endpoint:
        pipeline(project, endpoint, 40)
        expected = online(project)
        for step in ("created", "list", "list", "download"):
            killed(project, endpoint, step)
        run(project)
        assert len(endpoint.batches) == 1 and set(endpoint.lines.values()) == {1}
    assert corpus(project) == expected and totals(project)["answers"] == 40


@BOTH
def test_killed_again_and_again_while_batches_come_and_go(project, server):
    rng, rows = random.Random(5), 120
    after = '  - generate: {name: again, model: teacher, template: "Judge {{ answer }}", output: verdict}\n'
    with server() as endpoint:
        pipeline(project, endpoint, rows, model=FAST + ", batch_size: 20, max_concurrency: 40", after=after)
        expected, kills = online(project), 0
        while True:
            process, steps, limit = start(project), len(endpoint.steps), time.monotonic() + 30
            while process.poll() is None and len(endpoint.steps) == steps and time.monotonic() < limit:
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
    assert corpus(project) == expected and totals(project)["requests"] == 2 * rows


@BOTH
def test_an_answer_that_breaks_off_at_the_creation_is_no_second_batch(project, server):
    with server(step=lambda name: name == "created" and endpoint.steps.count(name) == 1) as endpoint:
        pipeline(project, endpoint)
        run(project)
        assert len(endpoint.batches) == 1 and set(endpoint.lines.values()) == {1}
    assert numbers(project) == list(range(20)) and totals(project)["retries"] == 0


@BOTH
def test_a_creation_that_breaks_off_before_there_is_a_batch_costs_nothing(project, server):
    with server(step=lambda name: name == "create" and endpoint.steps.count(name) < 3) as endpoint:
        pipeline(project, endpoint, model=FAST + ", price: {input: 1000, output: 1000}")
        run(project)
        assert set(endpoint.lines.values()) == {1}
    assert numbers(project) == list(range(20)) and totals(project)["cost_usd"] == pytest.approx(20 * 0.015)


@BOTH
def test_an_expired_batch_gives_its_results_and_the_rest_is_asked(project, server):
    """Gemini's gives none, as its documentation says."""
    with server(fate=lambda number: "completed" if number else "expired") as endpoint:
        pipeline(project, endpoint, 40)
        run(project)
        again = 20 if server is AnthropicBatchEndpoint else 40
        assert sorted(endpoint.lines.values()) == [1] * (40 - again) + [2] * again
        assert len(endpoint.batches) == 2
    assert numbers(project) == list(range(40)) and totals(project)["retries"] == again


@BOTH
def test_a_cancelled_batch_stops_the_run_and_the_rest_is_asked(project, server):
    with server(fate=lambda number: "completed" if number else "cancelled") as endpoint:
        pipeline(project, endpoint, 40)
        run(project, expect="was cancelled.*running again asks the other requests")
        assert totals(project)["answers"] == 20
        run(project)
        assert sorted(endpoint.lines.values()) == [1] * 20 + [2] * 20 and len(endpoint.batches) == 2
    assert numbers(project) == list(range(40))


@BOTH
def test_lines_that_failed_are_told_apart_as_online(project, server):
    def behave(body, times):
        return {
            "What is 0?": fault(endpoint, 400, "too long"),
            "What is 1?": fault(endpoint, 500) if times == 1 else None,
            "What is 2?": fault(endpoint, 429) if times <= 2 else None,
            "What is 3?": {} if times == 1 else None,  # no answer
        }.get(question(body))

    with server(behave) as endpoint:
        pipeline(project, endpoint, 10)
        run(project)
        assert sorted(endpoint.asked.values()) == [1] * 7 + [2] * 2 + [3]
        assert list(dropped(project)) == [0] and "too long" in dropped(project)[0]
        endpoint.behave, before = None, endpoint.asked.total()
        run(project, retry_failed=True)
        assert endpoint.asked.total() == before + 1
    assert numbers(project) == list(range(10))


@BOTH
def test_a_parameter_that_lines_do_not_take_is_left_out_of_the_next_batch(project, server):
    with server() as endpoint:
        endpoint.lacks = frozenset({"top_k", "topK"})
        model = FAST.replace("0.25", "0.6")  # a line is asked again after at most 0.5 s: all in one batch
        pipeline(project, endpoint, 5, model=model, stage=", top_k: 5, temperature: 0.5")
        run(project)
        assert len(endpoint.batches) == 2 and sorted(endpoint.lines.values()) == [2] * 5
    row = project.read("runs/ask/corpus.jsonl")[0]
    assert numbers(project) == list(range(5)) and "top" in json.dumps(row["meta"]["made"])
    log = (project.path / "runs/ask/run.log").read_text()
    assert log.count("the endpoint does not take 'top") == 1


@BOTH
def test_a_schema_that_lines_do_not_take_is_put_into_the_prompt_of_the_next_batch(project, server):
    def behave(body, times):
        if "schema" in json.dumps(body).lower() and "by this JSON Schema" not in json.dumps(body):
            return fault(endpoint, 400, "the schema is too complex")
        text = [{"type": "text", "text": '{"a": "b"}'}]
        return candidates(body, text) if endpoint.provider == "gemini" else message(body, content=text)

    with server(behave) as endpoint:
        front = "---\nabout: a\noutput: {json: {a: string}}\n---\n@user\n{{ question }}\n"
        project.write("prompts/form.md", front)
        path = pipeline(project, endpoint, 30)
        path.write_text(
            path.read_text().replace('template: "{{ question }}", output: answer', "prompt: form")
        )
        run(project)
        assert len(endpoint.batches) == 2 and len(project.read("runs/ask/corpus.jsonl")) == 30


@BOTH
@pytest.mark.parametrize("status", [429, 500])
def test_a_creation_that_fails_for_now_is_tried_again_and_no_row_fails(project, server, status):
    """429 is a full queue: the batch is sent again, and not its rows."""

    def busy(name):
        if name == "create" and endpoint.steps.count(name) < 3:
            return fault(endpoint, status, "too many batches are enqueued")
        return False

    with server(step=busy) as endpoint:
        pipeline(project, endpoint, 5, model=FAST + ", price: {input: 1000, output: 1000}")
        run(project)
        assert set(endpoint.lines.values()) == {1} and ("list" in endpoint.steps) == (status == 500)
    assert numbers(project) == list(range(5)) and totals(project)["cost_usd"] == pytest.approx(5 * 0.015)
    assert (totals(project)["retries"] == 0) == (status == 429)


@BOTH
@pytest.mark.parametrize("step", ["create", "retrieve"])
def test_what_the_batch_api_rejects_fails_no_row(project, server, step):
    """Such as a parameter that no batch takes."""
    text = f"stream: Extra inputs are not permitted, {KEY}"

    def reject(name):
        return name == step and fault(endpoint, 400, text)

    with server(step=reject) as endpoint:
        pipeline(project, endpoint, 5)
        run(project, expect="the batch API refuses: HTTP 400: stream: Extra .*permitted, .{T_KEY}.*run again")
        endpoint.step = lambda name: False
        run(project)
        assert set(endpoint.lines.values()) == {1} and len(endpoint.batches) == 1
    assert numbers(project) == list(range(5))


@BOTH
def test_a_wrong_key_stops_the_run_and_is_not_shown(project, server, monkeypatch):
    monkeypatch.setenv("T_KEY", "wrong-key-987654")
    with server() as endpoint:
        pipeline(project, endpoint, 5)
        run(project, expect="does not accept the key")
        monkeypatch.setenv("T_KEY", KEY)
        run(project)
    for file in project.path.glob("runs/ask/*"):
        assert file.is_dir() or not any(key.encode() in file.read_bytes() for key in (KEY, "wrong-key"))


@BOTH
def test_an_endpoint_that_is_away_for_a_while_ends_nothing(project, server):
    """Twenty looks in a row fail, which is more often than a request is tried."""
    with server(step=lambda name: name == "retrieve" and 2 < endpoint.steps.count(name) < 23) as endpoint:
        pipeline(project, endpoint, 5)
        run(project)
        assert len(endpoint.batches) == 1 and totals(project)["retries"] == 0


@BOTH
def test_a_look_waits_as_long_as_the_endpoint_asks(project, server):
    moments = []

    def busy(name):
        if name == "retrieve":
            moments.append(time.monotonic())
        answer = fault(endpoint, 429)
        answer.headers["retry-after"] = "1"
        return len(moments) == 1 and name == "retrieve" and answer

    with server(step=busy) as endpoint:
        pipeline(project, endpoint, 3)
        run(project)
    assert moments[1] - moments[0] >= 1 and numbers(project) == list(range(3))


@BOTH
def test_an_option_that_the_protocol_lacks_is_left_out_with_one_note(project, server):
    with server() as endpoint:
        pipeline(project, endpoint, 3, stage=", min_p: 0.1")
        run(project)
        assert not any("min_p" in json.dumps(body) for body in endpoint.bodies)
    log = (project.path / "runs/ask/run.log").read_text()
    assert log.count("the endpoint does not take 'min_p'") == 1


@BOTH
def test_the_cap_holds_at_the_batch_price_and_the_plan_has_it(project, server):
    """An answer costs 10 input and 5 output tokens, at half the price; its worst case is more."""
    price = ", max_tokens: 50, price: {input: 1000, output: 10000, batch: 0.5}, batch_size: 20"
    with server() as endpoint:
        pipeline(project, endpoint, 100, model=FAST + price)
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


@BOTH
def test_redirects_are_followed_on_the_same_host_and_go_to_no_other(project, server):
    """The key, and what is asked, stay with the host of the entry."""
    with server() as elsewhere, server() as endpoint:

        def moved(request):
            there = f"http://127.0.0.1:{port}{request.path}?{request.query_string}&moved=1"
            return "" if "moved" in request.query else there

        pipeline(project, endpoint, 5)
        port, endpoint.redirect = endpoint.port, moved
        run(project)
        assert len(endpoint.batches) == 1 and numbers(project) == list(range(5))
        port = elsewhere.port
        there = rf"Set base_url to where the endpoint is: {elsewhere.url}\?"
        run(project, "other", expect=f"redirects to .*{there}", ledger=project.path / "other.sqlite3")
        assert not elsewhere.steps and len(endpoint.batches) == 1


@BOTH
def test_ctrl_c_says_what_goes_on_and_the_next_run_waits_for_it(project, server):
    """Nothing of it is lost, nor counted as such."""
    with server() as endpoint:
        pipeline(project, endpoint, 5, model=FAST + ", price: {input: 1000, output: 1000}")
        endpoint.held = True
        process = start(project)
        while endpoint.steps.count("retrieve") < 2 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130 and next(iter(endpoint.batches)) in errors
        endpoint.held = False
        run(project)
        assert len(endpoint.batches) == 1
    assert numbers(project) == list(range(5)) and totals(project)["cost_usd"] == pytest.approx(5 * 0.015)


@BOTH
@pytest.mark.parametrize("step", ["create", "created", "retrieve", "list"])
def test_an_answer_that_is_not_of_the_protocol_costs_nothing_and_is_asked_for_again(project, server, step):
    texts = ["<html>busy</html>", "[]", '{"data": 1, "operations": 1}']

    def odd(name):
        is_lost = step == "list" and name == "create" and endpoint.steps.count(name) == 1
        if texts and (name == step or is_lost):
            return web.Response(text=texts.pop(), content_type="application/json")
        return False

    with server(step=odd) as endpoint:
        pipeline(project, endpoint, 5, model=FAST + ", price: {input: 1000, output: 1000}")
        run(project)
        assert set(endpoint.lines.values()) == {1} and len(texts) == 2 * (step == "created")
    assert numbers(project) == list(range(5)) and totals(project)["cost_usd"] == pytest.approx(5 * 0.015)


def test_the_waiting_ends_also_where_an_answer_comes_at_the_moment_of_the_cancellation():
    class Late(BatchApi):
        async def look(self, batch):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)
            return Report("in_progress", 0, 5)

    async def main():
        client = SimpleNamespace(services=SimpleNamespace(ledger=None), activity=Activity())
        api = Late(client, SimpleNamespace(poll_s=0.01), None)
        waiting = asyncio.create_task(api.final_report("b"))
        await asyncio.sleep(0.02)
        api.stopped = Stopped("interrupted")
        waiting.cancel()
        await asyncio.wait([waiting], timeout=5)
        assert waiting.cancelled() and not api.states

    asyncio.run(main())


# Anthropic alone


def foreign(endpoint, name, lines, *, mark="0123456789", minutes=0.0, **fields):
    """A batch of another program in the same workspace."""
    moment = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    body = {"model": "claude-x", "max_tokens": 9, "messages": [{"role": "user", "content": [{"text": "x"}]}]}
    requests = [(f"{mark}-{i}", body) for i in range(lines)]
    return endpoint.add(name, requests, created_at=moment, **fields)


@pytest.mark.parametrize("step", ["create", "created"])
def test_batches_of_others_are_told_from_ours_by_their_custom_ids(project, step):
    """One that may be ours is waited for, and not those that are too small, too old, or archived."""
    with AnthropicBatchEndpoint() as endpoint:
        foreign(endpoint, "old", 40, minutes=-200, stuck=True)
        foreign(endpoint, "small", 39, stuck=True)
        foreign(endpoint, "large", 60)
        foreign(endpoint, "equal", 40)
        foreign(endpoint, "gone", 40, archived_at="2026-01-01T00:00:00Z")
        pipeline(project, endpoint, 40)
        killed(project, endpoint, step)
        foreign(endpoint, "later", 40, minutes=200, stuck=True)
        run(project)
        ours = [name for name in endpoint.batches if name.startswith("msgbatch")]
        assert len(ours) == 1 and set(endpoint.lines.values()) == {1}
        if step == "create":
            assert {*endpoint.downloads} == {"equal", "large", *ours}
    assert numbers(project) == list(range(40))


def test_our_batch_is_found_where_its_requests_are_counted_only_when_it_has_ended(project):
    with AnthropicBatchEndpoint() as endpoint:
        pipeline(project, endpoint, 5)
        killed(project, endpoint, "created")
        endpoint.batches["msgbatch_0"]["uncounted"] = True
        run(project)
        assert len(endpoint.batches) == 1
    assert numbers(project) == list(range(5))


def test_results_that_come_late_are_waited_for(project):
    with AnthropicBatchEndpoint() as endpoint:
        endpoint.missing = 3
        pipeline(project, endpoint, 5)
        run(project)
        assert len(endpoint.batches) == 1 and "has ended" in (project.path / "runs/ask/run.log").read_text()
    assert numbers(project) == list(range(5))


def test_an_archived_batch_is_not_silently_paid_for_again(project, monkeypatch):
    monkeypatch.setattr("distillgen.teachers._batch_api.BatchApi.looks", 2)
    with AnthropicBatchEndpoint() as endpoint:
        pipeline(project, endpoint, 5)
        killed(project, endpoint, "download")
        endpoint.batches["msgbatch_0"]["archived_at"] = "2026-01-01T00:00:00Z"
        run(project, expect="is paid for, but it has no file of results.*mode: online")
        assert len(endpoint.batches) == 1


def test_no_answer_of_a_batch_is_streamed_and_reads_and_writes_of_the_cache_are_counted(project):
    usage = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 2000,
        "cache_read_input_tokens": 300,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 2000},
        "output_tokens": 40,
        "service_tier": "batch",
    }
    with AnthropicBatchEndpoint(lambda body, times: message(body, usage=usage)) as endpoint:
        price = ", max_tokens: 30000, cache: 1h, price: {input: 2, output: 10, batch: 0.5}"
        pipeline(project, endpoint, 2, model=FAST + price)
        run(project)
        assert endpoint.bodies[0]["max_tokens"] == 30000
    counted = totals(project)
    assert (counted["cached_tokens"], counted["cache_write_tokens"]) == (600, 4000)
    assert counted["cost_usd"] == pytest.approx(0.5 * 2 * (10 * 2 + 2000 * 4 + 300 * 0.2 + 40 * 10) / 1e6)


def test_a_batch_of_the_ledger_is_not_waited_for_when_another_is_looked_for(project):
    """The creation of the second breaks off; the first ends after the second."""

    def broken(name):
        if name == "created" and len(endpoint.batches) == 1:
            endpoint.batches["msgbatch_0"]["stuck"] = True
        elif name == "download":
            endpoint.batches["msgbatch_0"]["stuck"] = False
        return name == "create" and endpoint.steps.count(name) == 2

    with AnthropicBatchEndpoint(step=broken) as endpoint:
        pipeline(project, endpoint, 40, model=FAST + ", batch_size: 20")
        run(project)
        assert "list" in endpoint.steps and set(endpoint.lines.values()) == {1}
    assert numbers(project) == list(range(40))


# Gemini alone


def test_our_batch_is_found_on_a_later_page(project):
    with GeminiBatchEndpoint() as endpoint:
        pipeline(project, endpoint, 5)
        killed(project, endpoint, "created")
        for i in range(5):
            endpoint.add(f"batches/x{i}", [("k", {})], displayName="another", inline=True, stuck=True)
        run(project)
        assert len(endpoint.batches) == 6 and set(endpoint.lines.values()) == {1}
    assert numbers(project) == list(range(5))


@pytest.mark.parametrize("step", ["upload", "uploaded", "create", "created", "retrieve", "download"])
def test_large_batches_go_in_a_file_and_survive_a_kill_at_any_step(project, monkeypatch, step):
    monkeypatch.setattr("distillgen.teachers._gemini_batch.INLINE_BYTES", 0)
    project.write("sitecustomize.py", "import distillgen.teachers._gemini_batch as b; b.INLINE_BYTES = 0\n")
    with GeminiBatchEndpoint() as endpoint:
        pipeline(project, endpoint, 40)
        expected = online(project)
        monkeypatch.setenv("PYTHONPATH", f"{project.path}:{os.environ.get('PYTHONPATH', '')}")
        killed(project, endpoint, step)
        run(project)
        (batch,) = endpoint.batches.values()
        assert not batch["inline"] and set(endpoint.lines.values()) == {1} and len(endpoint.lines) == 40
    assert corpus(project) == expected


def test_a_failed_batch_says_why_and_nothing_of_it_is_lost(project):
    with GeminiBatchEndpoint(fate=lambda number: "completed" if number else "failed") as endpoint:
        pipeline(project, endpoint, 5)
        run(project, expect="batches/0 was not accepted: model gem is not known. None of it was asked")
        run(project)
        assert len(endpoint.batches) == 2 and set(endpoint.lines.values()) == {1}
    assert numbers(project) == list(range(5))


def test_an_embedding_goes_online_at_the_online_price(project):
    price = ", price: {input: 1000, output: 1000, batch: 0.5}"
    with GeminiBatchEndpoint() as endpoint:
        after = '  - embed: {model: teacher, template: "{{ answer }}"}\n'
        pipeline(project, endpoint, 3, model=FAST + price, after=after, stage=", max_tokens: 9")
        run(project)
        assert len(endpoint.lines) == 3 and sum("content" in body for body in endpoint.bodies) == 3
    usage = json.loads((project.path / "runs/ask/usage.json").read_text())["usage"]
    costs = {use["stage"]: (use["cost_usd"], use["input_tokens"]) for use in usage}
    assert costs["generate"] == (pytest.approx(3 * 0.0075), 30)
    assert costs["embed"][0] == pytest.approx(costs["embed"][1] / 1000)


# check


@pytest.mark.parametrize(
    "entry, said",
    [
        ("provider: anthropic, model: x, also: [{api_key: b}]", "'also' has no meaning with mode: batch"),
        ("provider: gemini, model: x, rpm: 60", "'rpm' has no meaning with mode: batch"),
        ("provider: anthropic, model: x, batch_size: 100001", "less than or equal to 100000"),
        ("provider: gemini, model: x, base_url: 'https://a.b/publishers/google'", "Vertex AI.*bucket"),
        ("provider: bedrock, model: x, region: eu-west-1", "S3.*leave it out to ask online"),
        ("provider: azure, model: x, base_url: 'https://a.openai.azure.com/openai/deployments/x'", "v1"),
    ],
)
def test_what_makes_no_sense_is_told_at_check(project, entry, said):
    project.rows("data/seeds.jsonl", [{"question": "What?"}])
    project.write(
        "pipelines/ask.yaml",
        f"""# ask.yaml: one answer a question
version: 1
models:
  teacher: {{{entry}, mode: batch, api_key: k}}
stages:
  - source: {{path: data/seeds.jsonl}}
  - generate: {{model: teacher, template: "{{{{ question }}}}", output: answer}}
""",
    )
    with pytest.raises(ConfigError, match=rf"ask\.yaml:4: .*{said}"):
        load("ask")
