"""What an endpoint may do wrong, against a real HTTP server: every row ends with its answer or an honest failure."""

import asyncio
import json
import re
import time

import pytest
from aiohttp import web

from tests.endpoint import Endpoint, completion


def status(code, text="oh", **headers):
    return lambda: web.Response(status=code, text=json.dumps({"error": {"message": text, "code": "x"}}), headers=headers)


def truncated():
    return web.Response(body=b'{"choices": [{"mess', content_type="application/json")


PASSING = {
    "429": status(429), "429 with Retry-After": status(429, **{"Retry-After": "1"}), "500": status(500), "503": status(503), "408": status(408),
    "cut JSON": truncated, "HTML": lambda: web.Response(text="<html>busy</html>", content_type="text/html"),
    "no choices": lambda: {"choices": []}, "no object": lambda: [1], "null": lambda: {"choices": None},
    "gibberish choice": lambda: {"choices": [7]},
}  # fmt: skip


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_is_tried_again(project, name):
    with Endpoint(lambda body, times: PASSING[name]() if times == 1 else None) as endpoint:
        project.ask_pipeline(endpoint.url, 4)
        project.cli("run", "ask")
        assert endpoint.asked.total() == 8
    assert len(project.read("runs/ask/corpus.jsonl")) == 4
    usage = json.loads((project.path / "runs/ask/usage.json").read_text())
    assert usage["totals"]["retries"] == 4 and usage["totals"]["requests"] == 4


def test_retry_after_is_honoured(project):
    moments = []

    def limited(body, times):
        moments.append(time.monotonic())
        return web.Response(status=429, headers={"Retry-After": "2"}) if times == 1 else None

    with Endpoint(limited) as endpoint:
        project.ask_pipeline(endpoint.url, 1)
        project.cli("run", "ask")
    assert moments[1] - moments[0] >= 2


def test_dropped_connections_and_a_row_that_never_succeeds(project):
    async def drop(body, times):
        if body["messages"][0]["content"] == "What is 1?":
            return web.Response(status=500, text="for ever")
        if times == 1:
            raise ConnectionResetError
        return completion(body)

    with Endpoint(drop) as endpoint:
        project.ask_pipeline(endpoint.url, 3, model=", max_retries: 2")
        done = project.cli("run", "ask", check=3)
        assert "--retry-failed" in done.stderr
        dropped = project.read("runs/ask/dropped.jsonl")
        assert [row["number"] for row in dropped] == [1] and "HTTP 500" in dropped[0]["meta"]["dropped"]["reason"]
        assert [row["number"] for row in project.read("runs/ask/corpus.jsonl")] == [0, 2]
        endpoint.behave, before = None, endpoint.asked.total()
        project.cli("run", "ask", "--retry-failed")
        assert endpoint.asked.total() == before + 1
    assert [row["number"] for row in project.read("runs/ask/corpus.jsonl")] == [0, 1, 2]


def test_a_server_that_never_answers_costs_its_rows_and_not_the_run(project):
    async def hang(body, times):
        await asyncio.sleep(60)

    with Endpoint(hang) as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=", timeout_s: 0.5")
        begun = time.monotonic()
        project.cli("run", "ask", check=3)
        assert time.monotonic() - begun < 15
    assert {"no answer within 0.5 s"} == {row["meta"]["dropped"]["reason"] for row in project.read("runs/ask/dropped.jsonl")}


@pytest.mark.parametrize(
    "code, remedy", [(401, "check api_key"), (403, "check api_key"), (404, "Check base_url"), (402, "no money or quota")]
)  # fmt: skip
def test_what_no_retry_can_mend_stops_at_once_with_a_remedy(project, code, remedy):
    with Endpoint(lambda body, times: status(code)()) as endpoint:
        project.ask_pipeline(endpoint.url, 500, model=", max_concurrency: 4")
        done = project.cli("run", "ask", check=2)
        assert remedy in done.stderr and f"HTTP {code}" in done.stderr and "Traceback" not in done.stderr
        assert endpoint.asked.total() <= 4
        endpoint.behave = None
        project.cli("run", "ask")
    assert len(project.read("runs/ask/corpus.jsonl")) == 500


def test_a_pipeline_that_no_request_of_which_is_accepted_stops(project):
    with Endpoint(lambda body, times: status(400, "unknown parameter: top_k")()) as endpoint:
        project.ask_pipeline(endpoint.url, 500, model=", max_concurrency: 4")
        done = project.cli("run", "ask", check=2)
        assert "unknown parameter: top_k" in done.stderr and endpoint.asked.total() < 40


def test_one_row_that_is_refused_with_400_is_that_rows_failure(project):
    def picky(body, times):
        return status(400, "too long")() if body["messages"][0]["content"].endswith("2?") else None

    with Endpoint(picky) as endpoint:
        project.ask_pipeline(endpoint.url, 5)
        project.cli("run", "ask", check=3)
        assert endpoint.asked.total() == 5
    assert "too long" in project.read("runs/ask/dropped.jsonl")[0]["meta"]["dropped"]["reason"]


@pytest.mark.parametrize("url, said", [("http://127.0.0.1:9/v1", "refused"), ("http://nowhere.invalid/v1", "lookup|resolv")])
def test_an_endpoint_that_is_not_there_stops_the_run_with_a_remedy(project, url, said):
    project.ask_pipeline(url, 50)
    done = project.cli("run", "ask", check=2)
    assert re.search(said, done.stderr) and "Is the server running" in done.stderr and "Traceback" not in done.stderr


def test_the_cap_is_never_exceeded_and_the_run_goes_on_later(project):
    """An answer costs exactly 10 input and 5 output tokens here; the worst case of a request is more."""
    price = ", max_tokens: 50, price: {input: 1000, output: 10000}, max_concurrency: 8"
    with Endpoint(latency_s=0.01) as endpoint:
        project.ask_pipeline(endpoint.url, 100, model=price)
        done = project.cli("run", "ask", "--max-cost-usd", "3", check=4)
        state = json.loads((project.path / "runs/ask/usage.json").read_text())
        assert 1.5 < state["totals"]["cost_usd"] <= 3 and state["state"] == "stopped by budget"
        assert state["totals"]["answers"] == endpoint.asked.total() < 100
        assert "run the same command to go on" in done.stderr
        kept = project.read("runs/ask/corpus.jsonl")
        assert [row["number"] for row in kept] == list(range(len(kept)))
        project.cli("run", "ask", "--max-cost-usd", "3", check=4)
        assert json.loads((project.path / "runs/ask/usage.json").read_text())["totals"]["cost_usd"] <= 3
        project.cli("run", "ask", "--max-cost-usd", "50")
        assert max(endpoint.asked.values()) == 1
    totals = json.loads((project.path / "runs/ask/usage.json").read_text())["totals"]
    assert totals["cost_usd"] == pytest.approx(100 * (10 * 1000 + 5 * 10000) / 1e6)


def test_requests_a_minute_are_kept(project):
    moments = []

    def note(body, times):
        moments.append(time.monotonic())

    with Endpoint(note) as endpoint:
        project.ask_pipeline(endpoint.url, 30, model=", rpm: 600")
        project.cli("run", "ask")
    assert moments[-1] - moments[0] >= 0.9 * (30 - 10) / 10
