"""Faults of an endpoint, from a real HTTP server: every row ends with its answer or an honest failure."""

import asyncio
import json
import re
import time

import pytest
from aiohttp import web

from tests.command_process import ForkedCommand
from tests.endpoint import Endpoint, completion, reply


def status(code, text="oh", **headers):
    return lambda: web.Response(
        status=code, text=json.dumps({"error": {"message": text, "code": "x"}}), headers=headers
    )


def truncated():
    return web.Response(body=b'{"choices": [{"mess', content_type="application/json")


PASSING = {
    "429": status(429),
    "429 with Retry-After": status(429, **{"Retry-After": "1"}),
    "500": status(500),
    "503": status(503),
    "408": status(408),
    "cut JSON": truncated,
    "HTML": lambda: web.Response(text="<html>busy</html>", content_type="text/html"),
    "no choices": lambda: {"choices": []},
    "no object": lambda: [1],
    "null": lambda: {"choices": None},
    "gibberish choice": lambda: {"choices": [7]},
}


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
        assert [row["number"] for row in dropped] == [1] and "HTTP 500" in dropped[0]["meta"]["dropped"][
            "reason"
        ]
        assert [row["number"] for row in project.read("runs/ask/corpus.jsonl")] == [0, 2]
        endpoint.behave, before = None, endpoint.asked.total()
        project.cli("run", "ask", "--retry-failed")
        assert endpoint.asked.total() == before + 1
    assert [row["number"] for row in project.read("runs/ask/corpus.jsonl")] == [0, 1, 2]


def test_a_server_that_never_answers_costs_its_rows_and_not_the_run(project):
    async def hang(body, times):
        await asyncio.sleep(600)

    with Endpoint(hang) as endpoint:
        project.ask_pipeline(endpoint.url, 5, model=", timeout_s: 0.5")
        project.cli("run", "ask", check=3)  # which may take two minutes
    assert {"no answer within 0.5 s"} == {
        row["meta"]["dropped"]["reason"] for row in project.read("runs/ask/dropped.jsonl")
    }


@pytest.mark.parametrize(
    "code, remedy",
    [
        (401, "check api_key"),
        (403, "check api_key"),
        (404, "HTTP 404: oh. Check base_url"),
        (402, "no money or quota"),
    ],
)
def test_what_no_retry_can_mend_stops_at_once_with_a_remedy(project, code, remedy):
    with Endpoint(lambda body, times: status(code, "oh.")()) as endpoint:
        project.ask_pipeline(endpoint.url, 500, model=", max_concurrency: 4")
        done = project.cli("run", "ask", check=2)
        assert remedy in done.stderr and f"HTTP {code}" in done.stderr and "Traceback" not in done.stderr
        assert endpoint.asked.total() <= 4
        if code == 402:  # paid: the run goes on
            assert "are safe" not in done.stderr
            endpoint.behave = lambda body, times: status(402)() if endpoint.asked.total() > 50 else None
            told = project.cli("run", "ask", check=2).stderr
            assert re.search(r"left\n\d\d answers are safe in runs/ask; the same command goes on from", told)
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


@pytest.mark.parametrize(
    "url, said", [("http://127.0.0.1:9/v1", "refused"), ("http://nowhere.invalid/v1", "lookup|resolv")]
)
def test_an_endpoint_that_is_not_there_stops_the_run_with_a_remedy(project, url, said):
    project.ask_pipeline(url, 50)
    done = project.cli("run", "ask", check=2)
    assert (
        re.search(said, done.stderr)
        and "Is the server running" in done.stderr
        and "Traceback" not in done.stderr
    )


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


def test_slow_loris_is_cut_off_at_the_time_limit(project):
    async def drip(body, times):
        if times > 1 or not body["messages"][0]["content"].endswith("1?"):
            return None
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(drip.request)
        for _ in range(12_000):
            await response.write(b" ")
            await asyncio.sleep(0.05)
        return response

    class Dripping(Endpoint):
        async def _answer(self, request):
            drip.request = request
            return await super()._answer(request)

    with Dripping(drip) as endpoint:
        project.ask_pipeline(endpoint.url, 3, model=", timeout_s: 0.7")
        project.cli("run", "ask")  # which may take two minutes
    assert len(project.read("runs/ask/corpus.jsonl")) == 3


def test_a_right_answer_under_a_wrong_content_type_is_an_answer(project):
    def plain(body, times):
        return web.Response(text=json.dumps(completion(body)), content_type="text/html")

    with Endpoint(plain) as endpoint:
        project.ask_pipeline(endpoint.url, 3)
        project.cli("run", "ask")
        assert endpoint.asked.total() == 3


def test_a_server_that_restarts_in_the_middle_costs_a_wait(project):
    import socket
    import sys
    import threading

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    class Fixed(Endpoint):
        want = port

    first = Fixed(latency_s=0.02)
    first.__enter__()
    project.ask_pipeline(first.url, 300, model=", max_concurrency: 8")
    run = ForkedCommand([sys.executable, "-m", "distillgen", "run", "ask"], project.path, project.env())
    while first.asked.total() < 60:
        time.sleep(0.01)
    threading.Thread(target=first.__exit__).start()
    time.sleep(1.5)
    with Fixed() as second:
        _, said = run.communicate(timeout=120)
        assert run.returncode == 0, said.decode()
        assert second.asked.total() > 100
    assert [row["number"] for row in project.read("runs/ask/corpus.jsonl")] == list(range(300))


def test_a_clock_that_jumps_changes_nothing(project, monkeypatch):
    """The wall clock is turned back a day and forth a year while a rate limit and a retry are waited for."""
    import distillgen

    real, calls = time.time, []

    def jumping():
        calls.append(1)
        return real() + (-86_400, 31_536_000)[len(calls) % 2]

    with Endpoint(
        lambda body, times: (
            status(503)() if times == 1 and body["messages"][0]["content"].endswith("3?") else None
        )
    ) as endpoint:
        project.ask_pipeline(endpoint.url, 20, model=", rpm: 1200")
        monkeypatch.setattr(time, "time", jumping)
        begun = time.monotonic()
        run = distillgen.run("ask")
        assert time.monotonic() - begun < 300
    assert run.state["kept"] == 20 and run.state["totals"]["retries"] == 2


def also(*urls):
    return ", also: [" + ", ".join(f'{{base_url: "{url}"}}' for url in urls) + "]"


def test_requests_are_shared_among_addresses_by_weight(project):
    with Endpoint() as one, Endpoint() as two:
        project.ask_pipeline(
            one.url, 40, model=f', also: [{{base_url: "{two.url}", api_key: other-key-456, weight: 3}}]'
        )
        project.cli("run", "ask")
        assert (one.asked.total(), two.asked.total()) == (10, 30)
        assert two.headers[0]["Authorization"] == "Bearer other-key-456"
        written = b"".join(p.read_bytes() for p in (project.path / "runs/ask").rglob("*") if p.is_file())
        assert b"other-key-456" not in written and b"secret-key-123" not in written
        project.ask_pipeline(one.url, 40)
        project.cli("run", "ask")
        assert one.asked.total() + two.asked.total() == 40


@pytest.mark.parametrize("how", ["down", "key", "500"])
def test_where_one_address_fails_another_answers(project, how):
    bad = {"down": "http://127.0.0.1:9/v1"}.get(how)
    with Endpoint(lambda body, times: status(401 if how == "key" else 500)()) as broken, Endpoint() as good:
        project.ask_pipeline(good.url, 30, model=also(bad or broken.url) + ", max_concurrency: 4")
        project.cli("run", "ask")
        assert len(good.asked) == 30 and max(good.asked.values()) == 1
        assert how == "500" or broken.asked.total() <= 4
    assert len(project.read("runs/ask/corpus.jsonl")) == 30


@pytest.mark.parametrize("rows, latency_s", [(30, 0), (4, 0.3)])
def test_where_every_address_fails_the_run_stops_with_a_remedy(project, rows, latency_s):
    """Also where all that there is fails together, so that nothing was sent in knowledge of another's
    failure.
    """
    refused = [Endpoint(lambda body, times: status(401)(), latency_s) for _ in range(2)]
    with refused[0] as one, refused[1] as two:
        project.ask_pipeline(one.url, rows, model=also(two.url) + ", max_concurrency: 4")
        assert "check api_key" in project.cli("run", "ask", check=2).stderr
        assert one.asked.total() + two.asked.total() <= 12


def test_a_resting_address_is_waited_for(project):
    with (
        Endpoint(lambda body, times: status(401)()) as refusing,
        Endpoint(lambda body, times: status(429, **{"retry-after": "1"})() if times == 1 else None) as busy,
    ):
        project.ask_pipeline(busy.url, 12, model=also(refusing.url) + ", max_concurrency: 4")
        project.cli("run", "ask")
    assert len(project.read("runs/ask/corpus.jsonl")) == 12


def test_prompts_with_a_common_prefix_are_sent_in_sequence(project):
    with Endpoint() as endpoint:
        project.ask_pipeline(endpoint.url, 60, model=", max_concurrency: 1")
        project.write(
            "prompts/p.md", "@system\nYou speak of topic {{ number % 3 }}.\n@user\n{{ question }}\n"
        )
        path = project.path / "pipelines/ask.yaml"
        path.write_text(path.read_text().replace('template: "{{ question }}"', "prompt: p"))
        project.cli("run", "ask")
        topics = [body["messages"][0]["content"] for body in endpoint.bodies]
    assert sum(a != b for a, b in zip(topics, topics[1:], strict=False)) == 2
    assert [row["number"] for row in project.read("runs/ask/corpus.jsonl")] == list(range(60))


@pytest.mark.slow
def test_twenty_thousand_rows_through_a_bad_endpoint(project):
    """10 % 429 (half with Retry-After), 5 % 500, 502 and 503, 2 % dropped connections, 1 % cut JSON: every
    row right, none twice.
    """
    import random
    from collections import Counter

    chance, given = random.Random(5), Counter()

    def bad(body, times):
        luck = chance.random()
        kind = (
            "429"
            if luck < 0.10
            else "5xx"
            if luck < 0.15
            else "drop"
            if luck < 0.17
            else "cut"
            if luck < 0.18
            else "ok"
        )
        given[kind] += 1
        if kind == "429":
            return status(429, **({"Retry-After": "1"} if chance.random() < 0.5 else {}))()
        if kind == "5xx":
            return status(chance.choice([500, 502, 503]))()
        if kind == "drop":
            raise ConnectionResetError
        return truncated() if kind == "cut" else None

    with Endpoint(bad) as endpoint:
        project.ask_pipeline(endpoint.url, 20_000, model=", max_concurrency: 256")
        project.cli("run", "ask", timeout=560)
    rows = project.read("runs/ask/corpus.jsonl")
    assert [row["number"] for row in rows] == list(range(20_000))
    assert all(
        row["answer"] == reply({"messages": [{"role": "user", "content": f"What is {row['number']}?"}]})
        for row in rows
    )
    totals = json.loads((project.path / "runs/ask/usage.json").read_text())["totals"]
    faults = sum(given.values()) - given["ok"]
    assert (
        totals["answers"] == totals["requests"] == given["ok"] == 20_000
        and totals["retries"] == faults > 3000
    )
