"""What is billed is counted and kept under the cap: every provider's usage, answers that cannot be used, and what may be billed."""

import json
import random
import sqlite3

import pytest
from aiohttp import web

import distillgen
from distillgen.teachers import Price
from distillgen.teachers._usage import counts_of
from tests.endpoint import Endpoint, completion

USAGE = {
    "openai": (
        {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 0},
         "completion_tokens_details": {"reasoning_tokens": 15, "accepted_prediction_tokens": 2}}, (100, 60, 0, 20, 15)),
    "openai responses": (
        {"input_tokens": 100, "input_tokens_details": {"cached_tokens": 60}, "output_tokens": 20, "output_tokens_details": {"reasoning_tokens": 15},
         "total_tokens": 120}, (100, 60, 0, 20, 15)),
    "openrouter writes": (
        {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30}},
        (100, 60, 30, 20, 0)),
    "anthropic": (
        {"input_tokens": 10, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 60, "output_tokens": 20}, (100, 60, 30, 20, 0)),
    "anthropic, by how long it is kept": (
        {"input_tokens": 10, "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10}, "cache_read_input_tokens": 60,
         "output_tokens": 20}, (100, 60, 30, 20, 0)),
    "litellm, among the prompt's": (
        {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 60},
        (100, 60, 30, 20, 0)),
    "a proxy, beside the prompt's": (
        {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 120, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 60},
        (100, 60, 30, 20, 0)),
    "a proxy without a total": (
        {"prompt_tokens": 10, "completion_tokens": 20, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 60}, (100, 60, 30, 20, 0)),
    "bedrock": (
        {"inputTokens": 10, "outputTokens": 20, "totalTokens": 120, "cacheReadInputTokens": 60, "cacheWriteInputTokens": 30}, (100, 60, 30, 20, 0)),
    "qwen": (
        {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
         "prompt_tokens_details": {"cached_tokens": 0, "cache_creation": {"ephemeral_5m_input_tokens": 90}, "cache_creation_input_tokens": 90}},
        (100, 0, 90, 20, 0)),
    "deepseek": (
        {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "prompt_cache_hit_tokens": 60, "prompt_cache_miss_tokens": 40,
         "completion_tokens_details": {"reasoning_tokens": 15}}, (100, 60, 0, 20, 15)),
    "deepseek without a sum": (
        {"completion_tokens": 20, "prompt_cache_hit_tokens": 60, "prompt_cache_miss_tokens": 40}, (100, 60, 0, 20, 0)),
    "moonshot": ({"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "cached_tokens": 60}, (100, 60, 0, 20, 0)),
    "xai": (
        {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 120, "prompt_tokens_details": {"cached_tokens": 60, "text_tokens": 100},
         "completion_tokens_details": {"reasoning_tokens": 15}}, (100, 60, 0, 20, 15)),
    "reasoning beside, without a total": (
        {"prompt_tokens": 100, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 15}}, (100, 0, 0, 20, 15)),
    "perplexity": (
        {"prompt_tokens": 90, "completion_tokens": 5, "total_tokens": 95, "citation_tokens": 10, "reasoning_tokens": 15, "num_search_queries": 3},
        (100, 0, 0, 20, 15)),
    "gemini": (
        {"promptTokenCount": 90, "toolUsePromptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 15, "cachedContentTokenCount": 60,
         "totalTokenCount": 120, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 90}]}, (100, 60, 0, 20, 15)),
    "gemini, through its compatible door": ({"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 120}, (100, 0, 0, 20, 0)),
    "vllm": (
        {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "prompt_tokens_details": None}, (100, 0, 0, 20, 0)),
    "llama.cpp": (
        {"completion_tokens": 20, "prompt_tokens": 100, "total_tokens": 120, "prompt_tokens_details": {"cached_tokens": 99}}, (100, 99, 0, 20, 0)),
    "ollama": ({"prompt_eval_count": 100, "eval_count": 20}, (100, 0, 0, 20, 0)),
    "no completion's, but a total": ({"prompt_tokens": 100, "total_tokens": 120}, (100, 0, 0, 20, 0)),
    "numbers as texts": ({"prompt_tokens": "100", "completion_tokens": "20.0", "total_tokens": 120.0}, (100, 0, 0, 20, 0)),
}  # fmt: skip
NAMES = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


@pytest.mark.parametrize("name", USAGE)
def test_the_usage_of_each_provider_is_read(name):
    usage, counts = USAGE[name]
    said = counts_of(usage)
    assert tuple(said.get(key, 0) for key in NAMES) == counts and not said.get("uncounted")


@pytest.mark.parametrize(
    "usage, uncounted",
    [(None, "both"), ({}, "both"), ([1], "both"), ("much", "both"), ({"total_tokens": 9}, "both"), ({"prompt_tokens": 9}, "output"),
     ({"completion_tokens": 9}, "input"), ({"prompt_tokens": -5, "completion_tokens": 9}, "input"),
     ({"prompt_tokens": 0, "completion_tokens": 9}, "input"), ({"prompt_tokens": 5, "completion_tokens": 1e300}, "output"),
     ({"prompt_tokens": 5, "completion_tokens": float("nan")}, "output"), ({"prompt_tokens": 5, "completion_tokens": 10**30}, "output"),
     ({"prompt_tokens": True, "completion_tokens": 9}, "input"), ({"prompt_tokens": "many", "completion_tokens": [9]}, "both"),
     ({"prompt_tokens": 9, "completion_tokens": 9, "prompt_tokens_details": {"cache_write_tokens": -9}}, "input"),
     ({"prompt_tokens": 9, "completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": "x"}}, "output")],
)  # fmt: skip
def test_what_is_no_count_is_uncounted(usage, uncounted):
    sides = {"both": {"input_tokens", "output_tokens"}, "input": {"input_tokens"}, "output": {"output_tokens"}}
    if isinstance(usage, dict) and usage.get("completion_tokens") == [9]:
        uncounted = "both"
    assert set(counts_of(usage)["uncounted"]) == sides[uncounted]


def test_all_that_an_embedding_used_was_read():
    assert counts_of({"total_tokens": 9}, answers=False)["input_tokens"] == counts_of({"prompt_tokens": 9, "total_tokens": 9}, answers=False)["input_tokens"] == 9


def test_each_kind_of_token_has_its_price():
    price = Price(input=1, cached_input=0.1, cache_write=1.25, output=10)
    assert price.cost_usd(100, 60, 20, 30) == pytest.approx((10 * 1 + 60 * 0.1 + 30 * 1.25 + 20 * 10) / 1e6)
    assert Price(input=1, output=10).cost_usd(100, 60, 20, 30) == pytest.approx((100 * 1 + 20 * 10) / 1e6)


def state(project, run="ask"):
    return json.loads((project.path / "runs" / run / "usage.json").read_text())


PRICE = ", price: {input: 1000, cached_input: 100, cache_write: 2000, output: 10000}, max_concurrency: 8, max_retries: 2"


class Biller(Endpoint):
    """Bills every request that it reads by its own account: what its `usage` says, also where its answer then is of no use."""

    def __init__(self, how):
        super().__init__(self.serve)
        self.how, self.billed, self.chance = how, 0.0, random.Random(3)

    async def serve(self, body, times):
        size, most = len(json.dumps(body["messages"])) // 4, body["max_tokens"] * body.get("n", 1)
        cached, written, output = self.chance.randrange(size // 2), self.chance.randrange(size // 2), self.chance.randrange(1, most)
        fresh = size - cached - written
        self.billed += (fresh * 1000 + cached * 100 + written * 2000 + output * 10000) / 1e6
        usage = {"prompt_tokens": size, "completion_tokens": output, "total_tokens": size + output,
                 "prompt_tokens_details": {"cached_tokens": cached, "cache_write_tokens": written}}  # fmt: skip
        how = self.chance.choice(("whole", self.how)) if self.how != "beside" else self.how
        if how == "cut":
            return web.Response(body=json.dumps(completion(body, usage=usage)).encode()[:-9], content_type="application/json")
        if how == "no choices":
            return completion(body, choices=[], usage=usage)
        if how == "one bad of three":
            whole = completion(body, usage=usage)
            return whole | {"choices": [whole["choices"][0], {"index": 1, "message": 7}, *whole["choices"][2:]]}
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
            usage |= {"completion_tokens": output - reasoning, "completion_tokens_details": {"reasoning_tokens": reasoning}}
        return completion(body, usage=usage)


@pytest.mark.parametrize(
    "how", ["whole", "cut", "no choices", "one bad of three", "too few", "no usage", "broken", "gateway", "absurd", "beside"]
)  # fmt: skip
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
    assert used["totals"]["answers"] == sqlite3.connect(project.path / "all.sqlite3").execute(
        "SELECT count(*) FROM answers WHERE length(key) = 32").fetchone()[0]  # fmt: skip


def test_without_a_price_for_cache_writes_the_cap_would_not_hold():
    """The control of the one above: what a write costs more than reading is told by its price alone."""
    told, untold = Price(input=1000, cache_write=2000), Price(input=1000)
    assert told.cost_usd(100, 0, 0, 100) == 2 * untold.cost_usd(100, 0, 0, 100)


def test_of_three_samples_of_which_one_is_bad_the_good_ones_are_kept_and_one_is_asked_again(project):
    def one_bad(body, times):
        whole = completion(body)
        return whole | {"choices": [whole["choices"][0], 7, whole["choices"][2]]} if body.get("n") == 3 else None

    with Endpoint(one_bad) as endpoint:
        project.ask_pipeline(endpoint.url, 1, stage=", n: 3")
        run = distillgen.run("ask")
        assert [body.get("n", 1) for body in endpoint.bodies] == [3, 1]
    assert run.state["kept"] == 3 and run.state["totals"]["output_tokens"] == 20 and run.state["totals"]["requests"] == 2


def test_what_was_billed_for_no_answer_is_counted_once_and_in_the_next_session(project):
    with Endpoint(lambda body, times: completion(body, choices=[])) as endpoint:
        project.ask_pipeline(endpoint.url, 1, model=", max_retries: 1, price: {input: 1000, output: 1000}")
        first = distillgen.run("ask").state
        assert (first["totals"]["input_tokens"], first["totals"]["answers"], first["failed"]) == (20, 1, 1)
        assert first["totals"]["cost_usd"] == pytest.approx(2 * 0.015)
        assert distillgen.run("ask").state["totals"] == first["totals"] and endpoint.asked.total() == 2


def test_an_answer_that_does_not_say_what_it_used_counts_with_its_bound(project):
    with Endpoint(lambda body, times: completion(body, usage=None)) as endpoint:
        project.ask_pipeline(endpoint.url, 1, model=", price: {input: 1000, output: 1000}", stage=", max_tokens: 50")
        totals = distillgen.run("ask").state["totals"]
        sent = len(json.dumps(endpoint.bodies[0]["messages"]))
    assert totals["output_tokens"] == 50 and sent < totals["input_tokens"] < sent + 100
    assert totals["cost_usd"] == pytest.approx((totals["input_tokens"] + 50) / 1000)
