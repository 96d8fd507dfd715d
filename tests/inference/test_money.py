"""Money: usage reports of every provider, unusable answers and possible charges are counted and kept under
the cap.
"""

import asyncio
import json
import random
import signal
import sqlite3
import sys
import time

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

import distillgen
from distillgen.inference.pricing import Pricing
from distillgen.inference.request import Request
from distillgen.inference.spec import Price
from distillgen.pipeline.load import load
from distillgen.runs.foresight import likely
from distillgen.teachers._openai_spec import OpenAISpec
from distillgen.teachers._usage import counts_of
from tests.batch_endpoint import BatchEndpoint
from tests.command_process import ForkedCommand
from tests.endpoint import Endpoint, completion

USAGE = {
    "openai": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 15, "accepted_prediction_tokens": 2},
        },
        (100, 60, 0, 20, 15),
    ),
    "openai responses": (
        {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 60},
            "output_tokens": 20,
            "output_tokens_details": {"reasoning_tokens": 15},
            "total_tokens": 120,
        },
        (100, 60, 0, 20, 15),
    ),
    "openrouter writes": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
        },
        (100, 60, 30, 20, 0),
    ),
    "anthropic": (
        {
            "input_tokens": 10,
            "cache_creation_input_tokens": 30,
            "cache_read_input_tokens": 60,
            "output_tokens": 20,
        },
        (100, 60, 30, 20, 0),
    ),
    "anthropic, by how long it is kept": (
        {
            "input_tokens": 10,
            "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
            "cache_read_input_tokens": 60,
            "output_tokens": 20,
        },
        (100, 60, 30, 20, 0),
    ),
    "litellm, among the prompt's": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "cache_creation_input_tokens": 30,
            "cache_read_input_tokens": 60,
        },
        (100, 60, 30, 20, 0),
    ),
    "a proxy, beside the prompt's": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 20,
            "total_tokens": 120,
            "cache_creation_input_tokens": 30,
            "cache_read_input_tokens": 60,
        },
        (100, 60, 30, 20, 0),
    ),
    "a proxy without a total": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 20,
            "cache_creation_input_tokens": 30,
            "cache_read_input_tokens": 60,
        },
        (100, 60, 30, 20, 0),
    ),
    "bedrock": (
        {
            "inputTokens": 10,
            "outputTokens": 20,
            "totalTokens": 120,
            "cacheReadInputTokens": 60,
            "cacheWriteInputTokens": 30,
        },
        (100, 60, 30, 20, 0),
    ),
    "qwen": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "prompt_tokens_details": {
                "cached_tokens": 0,
                "cache_creation": {"ephemeral_5m_input_tokens": 90},
                "cache_creation_input_tokens": 90,
            },
        },
        (100, 0, 90, 20, 0),
    ),
    "deepseek": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "prompt_cache_hit_tokens": 60,
            "prompt_cache_miss_tokens": 40,
            "completion_tokens_details": {"reasoning_tokens": 15},
        },
        (100, 60, 0, 20, 15),
    ),
    "deepseek without a sum": (
        {"completion_tokens": 20, "prompt_cache_hit_tokens": 60, "prompt_cache_miss_tokens": 40},
        (100, 60, 0, 20, 0),
    ),
    "moonshot": (
        {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "cached_tokens": 60},
        (100, 60, 0, 20, 0),
    ),
    "xai": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 5,
            "total_tokens": 120,
            "prompt_tokens_details": {"cached_tokens": 60, "text_tokens": 100},
            "completion_tokens_details": {"reasoning_tokens": 15},
        },
        (100, 60, 0, 20, 15),
    ),
    "reasoning beside, without a total": (
        {"prompt_tokens": 100, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 15}},
        (100, 0, 0, 20, 15),
    ),
    "perplexity": (
        {
            "prompt_tokens": 90,
            "completion_tokens": 5,
            "total_tokens": 95,
            "citation_tokens": 10,
            "reasoning_tokens": 15,
            "num_search_queries": 3,
        },
        (100, 0, 0, 20, 15),
    ),
    "gemini": (
        {
            "promptTokenCount": 90,
            "toolUsePromptTokenCount": 10,
            "candidatesTokenCount": 5,
            "thoughtsTokenCount": 15,
            "cachedContentTokenCount": 60,
            "totalTokenCount": 120,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 90}],
        },
        (100, 60, 0, 20, 15),
    ),
    "gemini, through its compatible door": (
        {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 120},
        (100, 0, 0, 20, 0),
    ),
    "vllm": (
        {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "prompt_tokens_details": None},
        (100, 0, 0, 20, 0),
    ),
    "llama.cpp": (
        {
            "completion_tokens": 20,
            "prompt_tokens": 100,
            "total_tokens": 120,
            "prompt_tokens_details": {"cached_tokens": 99},
        },
        (100, 99, 0, 20, 0),
    ),
    "ollama": ({"prompt_eval_count": 100, "eval_count": 20}, (100, 0, 0, 20, 0)),
    "no completion's, but a total": ({"prompt_tokens": 100, "total_tokens": 120}, (100, 0, 0, 20, 0)),
    "numbers as texts": (
        {"prompt_tokens": "100", "completion_tokens": "20.0", "total_tokens": 120.0},
        (100, 0, 0, 20, 0),
    ),
}
NAMES = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


@pytest.mark.parametrize("name", USAGE)
def test_the_usage_of_each_provider_is_read(name):
    usage, counts = USAGE[name]
    said = counts_of(usage)
    assert tuple(said.get(key, 0) for key in NAMES) == counts and not said.get("uncounted")


@pytest.mark.parametrize(
    "usage, uncounted",
    [
        (None, "both"),
        ({}, "both"),
        ([1], "both"),
        ("much", "both"),
        ({"total_tokens": 9}, "both"),
        ({"prompt_tokens": 9}, "output"),
        ({"completion_tokens": 9}, "input"),
        ({"prompt_tokens": -5, "completion_tokens": 9}, "input"),
        ({"prompt_tokens": 0, "completion_tokens": 9}, "input"),
        ({"prompt_tokens": 5, "completion_tokens": 1e300}, "output"),
        ({"prompt_tokens": 5, "completion_tokens": float("nan")}, "output"),
        ({"prompt_tokens": 5, "completion_tokens": 10**30}, "output"),
        ({"prompt_tokens": True, "completion_tokens": 9}, "input"),
        ({"prompt_tokens": "many", "completion_tokens": [9]}, "both"),
        (
            {"prompt_tokens": 9, "completion_tokens": 9, "prompt_tokens_details": {"cache_write_tokens": -9}},
            "input",
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 9,
                "completion_tokens_details": {"reasoning_tokens": "x"},
            },
            "output",
        ),
    ],
)
def test_what_is_no_count_is_uncounted(usage, uncounted):
    sides = {
        "both": {"input_tokens", "output_tokens"},
        "input": {"input_tokens"},
        "output": {"output_tokens"},
    }
    if isinstance(usage, dict) and usage.get("completion_tokens") == [9]:
        uncounted = "both"
    assert set(counts_of(usage)["uncounted"]) == sides[uncounted]


NUMBERS = st.one_of(
    st.integers(-5, 500),
    st.just(10**30),
    st.floats(),
    st.text("0123456789.-e", max_size=4),
    st.none(),
    st.booleans(),
    st.just([1]),
)
WORDS = sorted(
    {name for usage, _ in USAGE.values() for name in usage}
    | {"cached_tokens", "cache_write_tokens", "reasoning_tokens"}
)
FORMS = st.recursive(
    NUMBERS, lambda inner: st.dictionaries(st.sampled_from(WORDS), inner, max_size=6), max_leaves=12
)


@settings(max_examples=400, deadline=None)
@given(FORMS, st.booleans())
def test_token_counts_are_valid_whatever_usage_says(usage, answers):
    said = {name: 0 for name in NAMES} | counts_of(usage, answers=answers)
    assert all(type(said[name]) is int and 0 <= said[name] < 10**11 for name in NAMES)
    assert (
        said["cached_tokens"] + said["cache_write_tokens"] <= said["input_tokens"]
        and said["reasoning_tokens"] <= said["output_tokens"]
    )
    if (
        isinstance(usage, dict)
        and type(total := usage.get("total_tokens")) is int
        and 0 <= total < 10**9
        and not said.get("uncounted")
    ):
        assert said["input_tokens"] + said["output_tokens"] >= total


def test_usage_in_usage_without_end_is_no_traceback():
    deep = {}
    for _ in range(5000):
        deep = {"prompt_tokens_details": deep}
    assert set(counts_of(deep)["uncounted"]) == {"input_tokens", "output_tokens"}


def test_all_that_an_embedding_used_was_read():
    assert (
        counts_of({"total_tokens": 9}, answers=False)["input_tokens"]
        == counts_of({"prompt_tokens": 9, "total_tokens": 9}, answers=False)["input_tokens"]
        == 9
    )


def test_each_kind_of_token_has_its_price():
    price = Price(input=1, cached_input=0.1, cache_write=1.25, output=10)
    assert price.cost_usd(100, 60, 20, 30) == pytest.approx((10 * 1 + 60 * 0.1 + 30 * 1.25 + 20 * 10) / 1e6)
    assert Price(input=1, output=10).cost_usd(100, 60, 20, 30) == pytest.approx((100 * 1 + 20 * 10) / 1e6)


def state(project, run="ask"):
    return json.loads((project.path / "runs" / run / "usage.json").read_text())


PRICE = (
    ", price: {input: 1000, cached_input: 100, cache_write: 2000, output: 10000}, "
    "max_concurrency: 8, max_retries: 2"
)


class Biller(Endpoint):
    """Bills every request that it reads by its own account: what its `usage` says, also where its answer then
    is of no use.
    """

    def __init__(self, how):
        super().__init__(self.serve)
        self.how, self.billed, self.chance = how, 0.0, random.Random(3)

    async def serve(self, body, times):
        size, most = len(json.dumps(body["messages"])) // 4, body["max_tokens"] * body.get("n", 1)
        cached, written, output = (
            self.chance.randrange(size // 2),
            self.chance.randrange(size // 2),
            self.chance.randrange(1, most),
        )
        fresh = size - cached - written
        self.billed += (fresh * 1000 + cached * 100 + written * 2000 + output * 10000) / 1e6
        usage = {
            "prompt_tokens": size,
            "completion_tokens": output,
            "total_tokens": size + output,
            "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written},
        }
        how = self.chance.choice(("whole", self.how)) if self.how != "beside" else self.how
        if how == "cut":
            return web.Response(
                body=json.dumps(completion(body, usage=usage)).encode()[:-9], content_type="application/json"
            )
        if how == "no choices":
            return completion(body, choices=[], usage=usage)
        if how == "one bad of three":
            whole = completion(body, usage=usage)
            return whole | {
                "choices": [whole["choices"][0], {"index": 1, "message": 7}, *whole["choices"][2:]]
            }
        if how == "too few":
            return completion({**body, "n": 1}, usage=usage)
        if how == "no usage":
            return completion(body, usage=None)
        if how == "broken":
            raise ConnectionResetError
        if how == "gateway":
            return web.Response(status=504)
        if how == "absurd":
            return completion(body, usage={"prompt_tokens": -3, "completion_tokens": "?"})
        if how == "beside":
            reasoning = self.chance.randrange(output)
            usage |= {
                "completion_tokens": output - reasoning,
                "completion_tokens_details": {"reasoning_tokens": reasoning},
            }
        return completion(body, usage=usage)


@pytest.mark.parametrize(
    "how",
    [
        "whole",
        "cut",
        "no choices",
        "one bad of three",
        "too few",
        "no usage",
        "broken",
        "gateway",
        "absurd",
        "beside",
    ],
)
def test_the_cap_holds_against_what_is_billed(project, how):
    """A cap that pays for a part of the rows; what the run says that it spent is at least what was billed."""
    with Biller(how) as endpoint:
        project.ask_pipeline(endpoint.url, 60, model=PRICE, stage=", n: 3, max_tokens: 20")
        project.rows("data/seeds.jsonl", [{"question": f"What is {i}? " * 12} for i in range(60)])
        for cap in (3, 6):
            with pytest.raises(distillgen.errors.BudgetStop):
                distillgen.run("ask", max_cost_usd=cap, ledger=project.path / "all.sqlite3")
            assert endpoint.billed <= state(project)["totals"]["cost_usd"] + 1e-6 <= cap + 2e-6
        used = state(project)
    spent = sum(use["cost_usd"] for use in used["usage"] if use["status"] in ("unusable", "lost"))
    assert (spent > 0) == (how in ("cut", "no choices", "broken", "gateway"))
    if how in ("whole", "too few", "beside", "cut", "one bad of three"):
        assert used["totals"]["cache_write_tokens"] > 0 and used["totals"]["cached_tokens"] > 0
    assert (
        used["totals"]["answers"]
        == sqlite3.connect(project.path / "all.sqlite3")
        .execute("SELECT count(*) FROM answers WHERE length(key) = 32")
        .fetchone()[0]
    )


@pytest.mark.parametrize(
    "kind, price", [("cache_write_tokens", "cache_write"), ("cached_tokens", "cached_input")]
)
def test_the_cap_holds_where_every_token_is_of_the_dearest_kind(project, kind, price):
    """A token a byte, all of it written to the cache, or read from it, at a thousand times the price of other
    input.
    """

    def bill(body, times):
        size = len(json.dumps(body["messages"], ensure_ascii=False))
        return completion(
            body,
            usage={
                "prompt_tokens": size,
                "completion_tokens": 1,
                "total_tokens": size + 1,
                "prompt_tokens_details": {kind: size},
            },
        )

    model = f", price: {{input: 1, {price}: 1000, output: 1}}, max_concurrency: 16"
    with Endpoint(bill, latency_s=0.1) as endpoint:
        project.ask_pipeline(endpoint.url, 40, model=model, stage=", max_tokens: 2")
        with pytest.raises(distillgen.errors.BudgetStop):
            distillgen.run("ask", max_cost_usd=0.5)
        billed = sum(len(json.dumps(body["messages"])) / 1000 for body in endpoint.bodies)
    assert 0.3 < billed <= state(project)["totals"]["cost_usd"] <= 0.5


def test_without_a_price_for_cache_writes_the_cap_would_not_hold():
    """The control of the one above: what a write costs more than reading is told by its price alone."""
    told, untold = Price(input=1000, cache_write=2000), Price(input=1000)
    assert told.cost_usd(100, 0, 0, 100) == 2 * untold.cost_usd(100, 0, 0, 100)


def test_only_the_bad_one_of_three_samples_is_asked_again(project):
    def one_bad(body, times):
        whole = completion(body)
        return (
            whole | {"choices": [whole["choices"][0], 7, whole["choices"][2]]} if body.get("n") == 3 else None
        )

    with Endpoint(one_bad) as endpoint:
        project.ask_pipeline(endpoint.url, 1, stage=", n: 3")
        run = distillgen.run("ask")
        assert [body.get("n", 1) for body in endpoint.bodies] == [3, 1]
    assert (
        run.state["kept"] == 3
        and run.state["totals"]["output_tokens"] == 20
        and run.state["totals"]["requests"] == 2
    )


def test_billing_without_an_answer_is_counted_once_over_sessions(project):
    with Endpoint(lambda body, times: completion(body, choices=[])) as endpoint:
        project.ask_pipeline(endpoint.url, 1, model=", max_retries: 1, price: {input: 1000, output: 1000}")
        first = distillgen.run("ask").state
        assert (first["totals"]["input_tokens"], first["totals"]["answers"], first["failed"]) == (20, 1, 1)
        assert first["totals"]["cost_usd"] == pytest.approx(2 * 0.015)
        assert distillgen.run("ask").state["totals"] == first["totals"] and endpoint.asked.total() == 2


def test_an_endpoint_that_ignores_max_tokens_is_not_trusted_again(project):
    """The first answers cost ten times what they may; what comes after is set aside accordingly."""

    def long(body, times):
        return completion(body, usage={"prompt_tokens": 10, "completion_tokens": 500, "total_tokens": 510})

    with Endpoint(long) as endpoint:
        project.ask_pipeline(
            endpoint.url, 200, model=", price: {output: 1000}, max_concurrency: 4", stage=", max_tokens: 50"
        )
        with pytest.raises(distillgen.errors.BudgetStop):
            distillgen.run("ask", max_cost_usd=20)
    assert 15 < state(project)["totals"]["cost_usd"] <= 20
    assert "cost more than the worst case of its request" in (project.path / "runs/ask/run.log").read_text()


@pytest.mark.parametrize("transport", ["http", "openai"])
@pytest.mark.parametrize(
    "how, status",
    [
        ("cut", "unusable"),
        ("dropped", "lost"),
        ("slow", "lost"),
        ("gateway", "lost"),
        ("busy", ""),
        ("away", ""),
    ],
)
def test_sent_requests_count_over_both_transports(project, transport, how, status):
    async def behave(body, times):
        if how == "dropped":
            raise ConnectionResetError
        if how == "slow":
            await asyncio.sleep(3)
        if how == "cut":
            return web.Response(body=b'{"choices": [{"mess', content_type="application/json")
        return web.Response(status={"gateway": 504, "busy": 503}.get(how, 200), text="{}")

    model = f", transport: {transport}, timeout_s: 1, max_retries: 0, price: {{input: 1000, output: 1000}}"
    with Endpoint(behave) as endpoint:
        project.ask_pipeline(
            "http://127.0.0.1:9/v1" if how == "away" else endpoint.url,
            1,
            model=model,
            stage=", max_tokens: 50",
        )
        try:
            used = distillgen.run("ask").state["usage"]
        except distillgen.errors.DistillgenError:
            used = state(project)["usage"]
    billed = [use for use in used if use["cost_usd"]]
    assert [use["status"] for use in billed] == [status] * bool(status)
    assert all(
        use["output_tokens"] == 50 and use["input_tokens"] > 20 and use["answers"] == use["requests"] == 0
        for use in billed
    )


def test_an_embedding_and_a_score_that_cannot_be_used_are_counted():
    from distillgen.inference.faults import Rejected, Retryable
    from distillgen.teachers._openai_wire import embedding_of, score_of

    for read, wrong in ((embedding_of, Retryable), (lambda body: score_of(body, "t"), Rejected)):
        with pytest.raises(wrong) as raised:
            read({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}})
        assert raised.value.used.status == "unusable" and raised.value.used.input_tokens in (7, 8)


def test_unusable_batch_lines_are_counted_and_asked_again(project):
    def first_fails(body, times):
        return (
            {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 7}} if times == 1 else None
        )

    with BatchEndpoint(first_fails) as endpoint:
        batch = ", mode: batch, gather_s: 0.2, poll_s: 0.1, price: {input: 1000, output: 1000, batch: 0.5}"
        project.ask_pipeline(endpoint.url, 3, model=batch)
        totals = distillgen.run("ask").state["totals"]
    assert (
        totals["answers"] == 3
        and totals["input_tokens"] == 330
        and totals["cost_usd"] == pytest.approx(3 * (107 + 15) / 2000)
    )


BATCH = ", mode: batch, gather_s: 0.2, poll_s: 0.1, price: {input: 1000, output: 1000, batch: 0.5}"
ONLINE_KINDS = {  # a stage, and an answer of 10 input tokens to its request
    "embed": (
        '  - embed: {model: teacher, template: "{{ question }}"}\n',
        {"data": [{"embedding": [0.1, 0.2]}], "usage": {"prompt_tokens": 10, "total_tokens": 10}},
    ),
    "score": (
        '  - score: {model: teacher, context: "{{ question }}", target: "Yes"}\n',
        {
            "prompt_logprobs": [None, {"1": {"logprob": -0.5, "rank": 1, "decoded_token": "Yes"}}],
            "choices": [{"message": {"content": "x"}, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
        },
    ),
}


def goes_online(body: dict) -> bool:
    return "input" in body or "prompt_logprobs" in body


def embed_alone(path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "generate" not in line) + "\n")


@pytest.mark.parametrize("kind", ONLINE_KINDS)
def test_what_goes_online_in_spite_of_mode_batch_has_the_online_price(project, kind):
    """As counted, bounded, planned and foreseen; the answers of the stage before it are of a batch."""
    after, answer = ONLINE_KINDS[kind]
    with BatchEndpoint(lambda body, times: answer if goes_online(body) else None) as endpoint:
        project.ask_pipeline(
            endpoint.url, 4, model=BATCH + ", server: vllm", after=after, stage=", max_tokens: 5"
        )
        distillgen.run("ask")
        assert len(endpoint.lines) == 4 and sum(map(goes_online, endpoint.bodies)) == 4
    costs = {use["stage"]: use["cost_usd"] for use in state(project)["usage"]}
    assert costs == {"generate": pytest.approx(4 * 0.0075), kind: pytest.approx(4 * 0.01)}
    pipelines = {mode: load("ask", [f"teacher.mode={mode}"]) for mode in ("batch", "online")}
    plans = {mode: [estimate for _, estimate in one.plan()] for mode, one in pipelines.items()}
    worst = {mode: [estimate.max_cost_usd for estimate in plan[1:]] for mode, plan in plans.items()}
    assert worst["batch"][0] == pytest.approx(worst["online"][0] / 2)
    assert worst["batch"][1] == worst["online"][1] > 4 * 0.01
    ledger = project.path / "runs/ledger.sqlite3"
    guesses = likely(pipelines["batch"], project.path / "runs/ask", ledger, plans["batch"])
    assert [guess.cost_usd for guess in guesses[1:]] == [pytest.approx(cost) for cost in costs.values()]


def test_the_bound_of_what_goes_online_in_spite_of_mode_batch_has_the_online_price():
    price = {"input": 1000, "output": 1000, "batch": 0.5}
    spec = OpenAISpec(provider="openai", model="m", api_key="k", mode="batch", price=price)
    text = {"messages": [{"role": "user", "content": "What?"}]}
    factors = [(text, 0.5), ({"embed": "What?"}, 1.0), (text | {"target": "Yes"}, 1.0)]
    for fields, factor in factors:
        request = Request("m", **fields)
        most_tokens = len(request.json) + ("target" in fields)
        assert Pricing("m", spec).worst_cost_usd(request, 1) == pytest.approx(factor * most_tokens / 1000)


def test_an_embedding_that_is_given_up_is_lost_where_answers_of_batches_are_not(project):
    after, answer = ONLINE_KINDS["embed"]
    with BatchEndpoint(lambda body, times: answer) as endpoint:
        endpoint.latency_s = 30
        embed_alone(project.ask_pipeline(endpoint.url, 3, model=BATCH, after=after))
        command = [sys.executable, "-m", "distillgen", "run", "ask", "--max-cost-usd", "9"]
        process = ForkedCommand(command, project.path, project.env())
        while endpoint.asked.total() < 3:
            time.sleep(0.01)
        process.kill()
        process.wait()
        endpoint.latency_s = 0
        distillgen.run("ask", max_cost_usd=9)
    usage = {use["status"]: use for use in state(project)["usage"]}
    assert usage["ok"]["cost_usd"] == pytest.approx(0.03) and usage["lost"]["cost_usd"] >= 0.03


def test_what_is_given_up_in_flight_is_counted_as_lost(project):
    """The second Ctrl-C waits for nothing."""
    with Endpoint(latency_s=300) as endpoint:
        project.ask_pipeline(
            endpoint.url, 3, model=", price: {input: 1000, output: 1000}", stage=", max_tokens: 50"
        )
        command = [sys.executable, "-m", "distillgen", "run", "ask"]
        process = ForkedCommand(command, project.path, project.env())
        while endpoint.asked.total() < 3:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        time.sleep(1.5)  # two signals of one moment would be one
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    (lost,) = state(project)["usage"]
    assert (
        lost["status"] == "lost"
        and lost["output_tokens"] == 150
        and lost["cost_usd"] > 0.15
        and lost["answers"] == 0
    )


def test_an_answer_without_usage_counts_with_its_bound(project):
    with Endpoint(lambda body, times: completion(body, usage=None)) as endpoint:
        project.ask_pipeline(
            endpoint.url, 1, model=", price: {input: 1000, output: 1000}", stage=", max_tokens: 50"
        )
        totals = distillgen.run("ask").state["totals"]
        sent = len(json.dumps(endpoint.bodies[0]["messages"]))
    assert totals["output_tokens"] == 50 and sent < totals["input_tokens"] < sent + 100
    assert totals["cost_usd"] == pytest.approx((totals["input_tokens"] + 50) / 1000)
