"""Responses in the background against a real HTTP server: their ids survive the process that asked."""

import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from contextlib import closing, nullcontext

import pytest
from aiohttp import web

import distillgen
from distillgen.errors import ConfigError, DistillgenError
from distillgen.inference.faults import Rejected
from distillgen.inference.request import Request
from distillgen.pipeline.load import load
from distillgen.teachers import _openai_background
from distillgen.teachers._openai_responses import chat_of, parameters_of
from distillgen.teachers._openai_spec import OpenAISpec
from distillgen.teachers._openai_wire import completions_of
from distillgen.teachers._settling import settled
from tests.background_endpoint import BackgroundEndpoint, ended, message, refused
from tests.command_process import ForkedCommand

MODE = ", mode: background, poll_s: 0.05"
PRICE = ", price: {input: 1000, output: 1000}, max_tokens: 50"
KILLS = 5
ANSWER_USD = 0.015  # 10 tokens of input and 5 of output


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(_openai_background, "FIRST_PAUSE_S", 0.01)


def run(project, out="ask", expect=None, **options):
    """In this process; `expect` is what it fails with."""
    with pytest.raises(DistillgenError, match=expect) if expect else nullcontext():
        distillgen.run(project.path / "pipelines/ask.yaml", out=project.path / "runs" / out, **options)


def start(project, *args):
    command = [sys.executable, "-m", "distillgen", "run", "ask", *args]
    return ForkedCommand(command, project.path, project.env(), text=True, start_new_session=True)


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors


def usage(project, run="ask"):
    return json.loads((project.path / "runs" / run / "usage.json").read_text())


def statuses(project):
    return {entry["status"]: entry for entry in usage(project)["usage"]}


def answers(project, run="ask"):
    return [row["answer"] for row in project.read(f"runs/{run}/corpus.jsonl")]


def reasons(project):
    rows = project.read("runs/ask/dropped.jsonl")
    return {row["number"]: row["meta"]["dropped"]["reason"] for row in rows}


def stored_ids(project):
    with closing(sqlite3.connect(project.path / "runs/ledger.sqlite3", timeout=30)) as connection:
        return connection.execute("SELECT batch, file FROM batches ORDER BY batch").fetchall()


def question(body):
    return body["input"][0]["content"]


def numbered(body, times):
    return ended(body, output=[message(f"{question(body)} {times}")])


def test_samples_are_responses_of_their_own_and_the_ledger_answers_an_online_run(project):
    with BackgroundEndpoint(numbered, latency_s=0.1) as endpoint:
        project.ask_pipeline(endpoint.url, 4, model=MODE, stage=", n: 3, max_tokens: 60")
        run(project)
        assert endpoint.made.total() == 12 == len(set(endpoint.keys))
        first = endpoint.bodies[0]
        turn = {"role": "user", "content": question(first)}
        assert first == {
            **{"model": "m", "input": [turn], "max_output_tokens": 60},
            **{"background": True, "store": True},
        }
        assert sorted(answers(project)) == [f"What is {i}? {n}" for i in range(4) for n in (1, 2, 3)]
        counts = ("requests", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")
        assert [usage(project)["totals"][name] for name in counts] == [12, 120, 48, 60, 24]
        run(project, "online", sets=["teacher.mode=online"])
        assert not endpoint.asked and answers(project, "online") == answers(project)


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}


def test_parameters_have_the_form_of_the_api():
    picture = {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "See:"}, picture]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
        {"role": "assistant", "content": [{"type": "text", "text": "It is 3."}]},
    ]
    extra = {
        "reasoning_effort": "low",
        "verbosity": "low",
        "max_completion_tokens": 9,
        "service_tier": "flex",
    }
    sampling = {"logprobs": 2, "max_tokens": 5, "temperature": 1, "extra": extra}
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "add", "description": "sum", "parameters": schema}}
    body = parameters_of(Request("m", messages, sampling=sampling, schema=schema, tools=[tool]))
    see = [
        {"type": "input_text", "text": "See:"},
        {"type": "input_image", "image_url": "data:x", "detail": "low"},
    ]
    assert body.pop("input") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": see},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "3"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "It is 3."}]},
    ]
    form = {"type": "json_schema", "name": "answer", "schema": schema, "strict": False}
    assert body == {
        **{"model": "m", "temperature": 1, "max_output_tokens": 9, "service_tier": "flex"},
        **{"reasoning": {"effort": "low"}, "text": {"verbosity": "low", "format": form}},
        **{"top_logprobs": 2, "include": ["message.output_text.logprobs"]},
        "tools": [
            {"type": "function", "name": "add", "description": "sum", "parameters": schema, "strict": False}
        ],
        **{"background": True, "store": True},
    }
    with pytest.raises(Rejected, match="input_audio"):
        parameters_of(Request("m", [{"role": "user", "content": [{"type": "input_audio"}]}]))


TOKEN = {"token": "Yes", "logprob": -0.5, "bytes": [], "top_logprobs": [{"token": "No", "logprob": -1.5}]}
ASKED = Request("m", [{"role": "user", "content": "?"}], tools=[{}])


@pytest.mark.parametrize(
    "response, fields",
    [
        ({"output": [message("Yes")]}, {"text": "Yes", "status": "ok", "finish": ""}),
        (
            {
                "output": [message("Ye")],
                "status": "incomplete",
                "incomplete_details": {"reason": "max_output_tokens"},
            },
            {"text": "Ye", "status": "length", "finish": ""},
        ),
        (
            {"output": [], "status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
            {"text": "", "status": "refused"},
        ),
        (
            {"output": [], "status": "incomplete", "incomplete_details": {"reason": "new"}},
            {"status": "failed"},
        ),
        ({"output": [], "status": "incomplete"}, {"status": "length"}),
        (
            {"output": [message("", content=[{"type": "refusal", "refusal": "I cannot."}])]},
            {"text": "I cannot.", "status": "refused"},
        ),
        (
            {
                "output": [
                    {
                        "type": "reasoning",
                        "summary": [{"type": "summary_text", "text": "So."}],
                        "content": None,
                    },
                    {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
                ]
            },
            {"text": "", "reasoning": "So.", "tool_calls": [CALL], "status": "ok"},
        ),
        (
            {"output": [message("", content=[{"type": "output_text", "text": "Yes", "logprobs": [TOKEN]}])]},
            {"text": "Yes", "logprobs": [["Yes", -0.5, [["No", -1.5]]]]},
        ),
    ],
)
def test_the_end_of_a_response_is_read_as_that_of_a_chat(response, fields):
    body = ended({"input": []}, **{"model": "m-1", **response})
    completion = settled(ASKED, completions_of(chat_of(body))[0])
    assert {name: getattr(completion, name) for name in fields} == fields
    assert (completion.model, completion.input_tokens, completion.cached_tokens) == ("m-1", 10, 4)


def first(step, fault, times=1):
    return lambda a_step, number: fault() if a_step == step and number <= times else None


FAULTS = {
    "create refused": first("create", lambda: refused(429, "slow down", **{"retry-after-ms": "20"})),
    "create failed": first("create", lambda: refused(500, "oh")),
    "create broken": first("create", lambda: "break"),
    "created, and not said": first("created", lambda: "break"),
    "created, behind a gateway": first("created", lambda: refused(504, "gateway")),
    "created, and a list": first("created", lambda: web.json_response([])),
    "created, without an id": first("created", lambda: web.json_response({"object": "response"})),
    "look refused": first("look", lambda: refused(429, "slow down"), 2),
    "look failed": first("look", lambda: refused(500, "oh"), 2),
    "look broken": first("look", lambda: "break", 2),
    "not there yet": first("look", lambda: refused(404, "no such response"), 3),
    "a page": first("look", lambda: refused(200, "no response"), 2),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_that_passes_repeats_no_response(project, name):
    with BackgroundEndpoint(fault=FAULTS[name]) as endpoint:
        project.ask_pipeline(endpoint.url, 3, model=MODE)
        run(project)
        assert endpoint.made.total() == 3 == len(answers(project))
        assert endpoint.deduplicated == name.startswith("created")


def test_control_without_the_key_an_answer_that_was_not_said_is_made_again(project):
    with BackgroundEndpoint(fault=FAULTS["created, and not said"], honours_keys=False) as endpoint:
        project.ask_pipeline(endpoint.url, 3, model=MODE + PRICE)
        run(project)
        assert endpoint.repeats() == 1 and len(answers(project)) == 3
    assert statuses(project)["lost"]["cost_usd"] > ANSWER_USD


def test_looks_are_further_and_further_apart_and_as_far_as_the_endpoint_asks(project, monkeypatch):
    pauses, pause = [], _openai_background.Background._pause

    async def record(self, pause_s):
        pauses.append(pause_s)
        await pause(self, pause_s)

    monkeypatch.setattr(_openai_background.Background, "_pause", record)
    fault = first("look", lambda: refused(429, "slow down", **{"retry-after-ms": "200"}))
    with BackgroundEndpoint(latency_s=0.5, fault=fault) as endpoint:
        project.ask_pipeline(endpoint.url, 1, model=MODE)
        run(project)
    assert pauses[:6] == pytest.approx([0.01, 0.2, 0.015, 0.0225, 0.03375, 0.05])
    assert set(pauses[6:]) == {0.05}


def test_a_response_that_failed_for_a_moment_is_asked_again(project):
    """The repetition has another key, or the endpoint would give the failed response again."""

    def end(body, times):
        failed = {"status": "failed", "output": [], "usage": None}
        return failed | {"error": {"code": "server_error", "message": "oh"}} if times < 3 else None

    with BackgroundEndpoint(end) as endpoint:
        project.ask_pipeline(endpoint.url, 2, model=MODE)
        run(project)
        assert endpoint.made.total() == 6 == len(set(endpoint.keys)) and not endpoint.deduplicated
    assert len(answers(project)) == 2 and usage(project)["totals"]["retries"] == 4


def test_a_response_that_cannot_succeed_fails_its_row_alone(project):
    ends = {
        "What is 0?": {
            "status": "failed",
            "error": {"code": "invalid_prompt", "message": "flagged, key secret-key-123"},
        },
        "What is 1?": {"status": "failed", "error": {"code": "image_too_large", "message": "large"}},
        "What is 2?": {"status": "cancelled"},
    }

    def end(body, times):
        return ended(body, **ends[question(body)]) if question(body) in ends and times == 1 else None

    with BackgroundEndpoint(end) as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=MODE + PRICE)
        run(project)
        why = reasons(project)
        assert "content filter" in why[0] and "secret-key" not in why[0]
        assert "large" in why[1] and "cancelled" in why[2]
        assert statuses(project)["unusable"]["cost_usd"] == pytest.approx(3 * ANSWER_USD)
        run(project)
        assert endpoint.made.total() == 5
        run(project, retry_failed=True, retry_with={"seed": 1}, expect="takes no 'seed'")
        assert endpoint.made.total() == 5
        run(project, retry_failed=True)
        assert endpoint.made.total() == 8
    assert len(answers(project)) == 5


@pytest.mark.parametrize("how", ["expired", "404"])
def test_a_forgotten_response_is_counted_as_lost_and_asked_again(project, how):
    def expire(body, times):
        return {"status": "expired"} if times == 1 and how == "expired" else None

    def forget(step, times):
        is_first = step == "look" and len(endpoint.responses) == 1
        return refused(404, "no such response") if is_first and how == "404" else None

    with BackgroundEndpoint(expire, fault=forget) as endpoint:
        project.ask_pipeline(endpoint.url, 1, model=MODE + PRICE)
        run(project)
        assert endpoint.made.total() == 2 and len(answers(project)) == 1
    assert statuses(project)["lost"]["cost_usd"] > 0.05 and statuses(project)["ok"]["requests"] == 1
    assert stored_ids(project)[0][0] == "resp_1"


def test_a_key_that_is_refused_while_waiting_loses_no_response(project):
    with BackgroundEndpoint(fault=first("look", lambda: refused(401, "wrong key"), 9**9)) as endpoint:
        project.ask_pipeline(endpoint.url, 2, model=MODE)
        run(project, expect="api_key")
        endpoint.fault = first("look", lambda: refused(400, "no looks"), 9**9)
        run(project, expect="no looks; the responses are safe")
        endpoint.fault = lambda step, times: None
        run(project)
        assert endpoint.posts == 2 == len(answers(project))


def test_a_parameter_that_the_endpoint_does_not_take_is_left_out(project):
    def fault(step, times):
        wants = endpoint.wants
        return (
            refused(400, f"Unsupported parameter: '{wants.pop()}'.") if step == "create" and wants else None
        )

    with BackgroundEndpoint(fault=fault) as endpoint:
        endpoint.wants = ["temperature"]
        project.ask_pipeline(endpoint.url, 2, model=MODE + ", temperature: 0.5, max_concurrency: 1")
        run(project)
        assert all("temperature" not in body for body in endpoint.bodies) and endpoint.posts == 3
        assert "'left_out': ['temperature']" in str(project.read("runs/ask/corpus.jsonl")[0]["meta"])
        endpoint.wants = ["background"] * 3
        run(project, "other", expect="background", ledger=project.path / "other.sqlite3")
        assert endpoint.made.total() == 2


def test_a_parameter_that_a_failed_response_names_is_left_out(project):
    def end(body, times):
        error = {"code": "invalid_request", "message": "Unsupported parameter: 'temperature'."}
        return {"status": "failed", "error": error} if "temperature" in body else None

    with BackgroundEndpoint(end) as endpoint:
        project.ask_pipeline(endpoint.url, 1, model=MODE + ", temperature: 0.5")
        run(project)
        assert len(answers(project)) == 1 and "temperature" not in endpoint.bodies[1]


def test_a_schema_that_is_not_taken_is_put_into_the_prompt(project):
    def end(body, times):
        return ended(body, output=[message('{"name": "Ada"}')])

    with BackgroundEndpoint(end, fault=first("create", lambda: refused(400, "Invalid schema"))) as endpoint:
        project.write("prompts/person.md", "---\noutput: {json: {name: string}}\n---\nWho? {{ question }}\n")
        path = project.ask_pipeline(endpoint.url, 1, model=MODE)
        path.write_text(
            path.read_text().replace('template: "{{ question }}", output: answer', "prompt: person")
        )
        run(project)
        (body,) = endpoint.bodies
        assert "text" not in body and "JSON Schema" in body["input"][-1]["content"]
    assert project.read("runs/ask/corpus.jsonl")[0]["name"] == "Ada"


@pytest.mark.parametrize(
    "model, stage, remedy",
    [
        ("", ", seed: 1", "takes no 'seed'; leave it out, or ask with mode: online"),
        (", stop: END", "", "takes no 'stop'"),
        (", extra: {logit_bias: {a: 1}}", "", "takes no 'extra.logit_bias'"),
        (", extra: {max_output_tokens: 5}", "", "takes no 'extra.max_output_tokens'"),
        ("", ", logprobs: 21", "20"),
        (", server: vllm", ', grammar: "root ::= [a-z]"', "cannot do grammar"),
        (", api: completions", "", "chat turns"),
        (", transport: openai", "", "transport"),
        (", also: [{base_url: http://localhost:1/v1}]", "", "also"),
    ],
)
def test_check_refuses_what_the_api_does_not_have(project, model, stage, remedy):
    path = project.ask_pipeline("http://localhost:9/v1", 1, model=MODE + model, stage=stage)
    with pytest.raises(ConfigError, match=remedy):
        load(path)
    if "mode: online" in remedy:
        load(path, ["teacher.mode=online"])


def test_the_entry_of_a_model_that_only_judges_is_checked_as_well(project):
    address = {"base_url": "http://localhost:9/v1", "mode": "background"}
    with pytest.raises(ConfigError, match="takes no 'seed'"):
        OpenAISpec(provider="openai", model="m", seed=1, **address).check(project.path)


def test_azure_has_no_responses_below_a_deployment(project):
    path = project.ask_pipeline("https://x.openai.azure.com/openai/deployments/m", 1, model=MODE)
    with pytest.raises(ConfigError, match="openai/v1"):
        load(path)


@pytest.mark.parametrize("step", ["look", "create"])
def test_a_run_that_stops_leaves_the_responses_to_the_next_one(project, step):
    """It does not wait for a look; what it has just sent is stored first."""
    with BackgroundEndpoint(latency_s=60) as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=MODE)
        endpoint.held = {step}
        process = start(project)
        while endpoint.posts < 5 or (step == "look" and endpoint.looks.total() < 5):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        endpoint.held -= {"create"}
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130 and "Traceback" not in errors
        assert ("responses that go on at the endpoint: 5" in errors) == (step == "look")
        endpoint.held = set()
        endpoint.end_now()
        run(project)
        assert endpoint.posts == 5 == len(answers(project))
    assert [*statuses(project)] == ["ok"], "what goes on was counted as lost"


def test_another_run_takes_over_what_a_killed_one_waits_for_and_nothing_known_counts_as_lost(project):
    with BackgroundEndpoint(latency_s=60) as endpoint:
        project.ask_pipeline(endpoint.url, 4, model=MODE + PRICE)
        process = start(project, "--max-cost-usd", "9", "-o", "runs/killed")
        while endpoint.looks.total() < 8:
            time.sleep(0.01)

        def kill_and_end():
            kill(process)
            endpoint.end_now()

        timer = threading.Timer(0.5, kill_and_end)
        timer.start()
        run(project, max_cost_usd=9)
        timer.join()
        assert endpoint.posts == 4 == len(answers(project))
    assert usage(project)["totals"]["cost_usd"] == pytest.approx(4 * ANSWER_USD)
    with closing(sqlite3.connect(project.path / "runs/ledger.sqlite3")) as connection:
        assert connection.execute("SELECT DISTINCT status FROM answers").fetchall() == [("ok",)]


def test_control_what_was_sent_and_is_not_known_counts_as_lost(project):
    with BackgroundEndpoint() as endpoint:
        endpoint.held = {"create"}
        project.ask_pipeline(endpoint.url, 4, model=MODE + PRICE)
        process = start(project, "--max-cost-usd", "9")
        while endpoint.posts < 4:
            time.sleep(0.01)
        kill(process)
        endpoint.held = set()
        run(project, max_cost_usd=9)
        assert endpoint.posts == 8 and endpoint.deduplicated == 4 and endpoint.repeats() == 0
    assert statuses(project)["lost"]["cost_usd"] > 4 * 0.05
    assert statuses(project)["ok"]["cost_usd"] == pytest.approx(4 * ANSWER_USD)


def killed_again_and_again(project, endpoint, kills, rng, between=lambda: None):
    """Run, and kill at random moments; return the number of responses whose ids were not stored then."""
    unknown = set()
    for _ in range(kills):
        process, before, limit = start(project), endpoint.posts, time.monotonic() + 30
        while process.poll() is None and endpoint.posts == before and time.monotonic() < limit:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        assert process.poll() is None, f"the run ended before its kill: {process.communicate()}"
        kill(process)
        known = {response_id for response_id, _ in stored_ids(project)}
        unknown |= endpoint.responses.keys() - known
        between()
    return len(unknown)


def forget_ids(project):
    with closing(sqlite3.connect(project.path / "runs/ledger.sqlite3", timeout=30)) as connection:
        connection.execute("DELETE FROM batches")
        connection.commit()


@pytest.mark.slow
def test_killed_at_random_moments_no_response_is_made_twice(project):
    """The control asks an endpoint that honours no keys, and its ledger loses the ids at each kill."""
    rng, rows, model = random.Random(0), 12 * KILLS, MODE + ", max_concurrency: 6"
    with BackgroundEndpoint(latency_s=0.2) as endpoint:
        project.ask_pipeline(endpoint.url, rows, model=model)
        unknown = killed_again_and_again(project, endpoint, KILLS, rng)
        run(project)
        assert endpoint.made.total() == len(endpoint.made) == rows == len(answers(project))
        assert unknown <= endpoint.deduplicated == endpoint.posts - rows
        assert usage(project)["totals"]["requests"] == rows
    with BackgroundEndpoint(latency_s=0.2, honours_keys=False) as endpoint:
        project.ask_pipeline(endpoint.url, 24, model=model)
        killed_again_and_again(project, endpoint, 2, rng, lambda: forget_ids(project))
        run(project, "control")
        assert endpoint.repeats() >= 2
