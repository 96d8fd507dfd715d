"""Pieces of the protocols of Anthropic, Gemini and Bedrock, without a server."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from distillgen.inference.endpoint import Services
from distillgen.inference.presets import with_preset
from distillgen.inference.price_list import _most
from distillgen.inference.request import Request
from distillgen.project import Project
from distillgen.teachers._native_client import closed
from distillgen.teachers.anthropic import AnthropicSpec, message_of, streamed_message
from distillgen.teachers.bedrock import Bedrock, BedrockSpec
from distillgen.teachers.gemini import Gemini, GeminiSpec
from tests.native_endpoint import message


def events(*pieces):
    return "".join(f"event: x\ndata: {json.dumps(piece)}\n\n" for piece in pieces).encode()


START = {"type": "message_start", "message": message({"model": "m", "messages": []}, content=[])}
BUSY = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


def test_a_streamed_call_has_its_arguments():
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
    stream = events(
        START,
        {"type": "content_block_start", "index": 0, "content_block": block},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "input_json_delta", "partial_json": text},
            }
            for text in ('{"x": ', "[1, 2]}")
        ),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    )
    (completion,) = message_of(streamed_message(stream))
    assert json.loads(completion.tool_calls[0]["function"]["arguments"]) == {"x": [1, 2]}
    assert (completion.input_tokens, completion.output_tokens, completion.finish) == (10, 7, "tool_use")


def test_an_error_after_a_stream_has_begun_may_be_billed():
    assert streamed_message(events(BUSY)) == BUSY
    assert streamed_message(events(START, BUSY)) is None


def test_an_answer_without_a_count_of_its_tokens_is_uncounted():
    answer = message({"model": "m", "messages": []}, usage={"input_tokens": 10, "output_tokens": 0})
    assert message_of(answer)[0].uncounted == ("output_tokens",)
    assert message_of({**answer, "content": []})[0].uncounted == ()


def test_a_closed_schema_has_no_bounds_and_no_open_object():
    item = {"type": "object", "properties": {"minimum": {"type": "integer", "minimum": 1, "maximum": 9}}}
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": item, "minItems": 1}}}
    copy = closed(schema)
    inner = copy["properties"]["a"]
    assert copy["additionalProperties"] is inner["items"]["additionalProperties"] is False
    assert inner["items"]["properties"] == {"minimum": {"type": "integer"}} and "minItems" not in inner
    for part in ({"type": "object"}, {**item, "additionalProperties": True}):
        assert closed({"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, part]}}}) is None


def test_prices_of_the_cache_that_are_set_are_kept():
    options = {"provider": "anthropic", "model": "m", "cache": "1h"}
    by_rule = AnthropicSpec(**options, price={"input": 3, "output": 15}).price
    assert (by_rule.cached_input, by_rule.cache_write) == (pytest.approx(0.3), 6)
    assert AnthropicSpec(**options, price={"input": 3, "cache_write": 9}).price.cache_write == 9
    assert AnthropicSpec(provider="anthropic", model="m", price={"input": 3}).price.cache_write is None


def test_each_sample_and_try_has_a_seed_of_its_own():
    spec = GeminiSpec(provider="gemini", model="m", api_key="k")
    endpoint = Gemini("m", spec, Services(None, None, "run", Path()))
    request = Request("m", messages=[{"role": "user", "content": "q"}], sampling={"seed": 5})
    seeds = [endpoint.body(request, 1, attempt, sample)["seed"] for sample in (0, 1) for attempt in (0, 1)]
    assert seeds[0] == 5 and len({*seeds}) == 4


def test_the_id_of_a_model_is_one_part_of_a_path():
    spec = BedrockSpec(provider="bedrock", model="m", api_key="k", region="eu-west-1")
    endpoint = Bedrock("m", spec, Services(None, None, "run", Path()))
    profile = "arn:aws:bedrock:eu-west-1:1:inference-profile/eu.x-v1:0"
    path = endpoint.path(Request(profile))
    assert path.count("/") == 2 and "%2F" in path and "%3A" in path
    assert spec.base_url == "https://bedrock-runtime.eu-west-1.amazonaws.com"


def test_a_key_is_not_sent_in_the_clear(tmp_path):
    clear = {"provider": "groq", "model": "x", "base_url": "http://api.groq.com/openai/v1"}
    assert "api_key" not in with_preset(clear, Project(tmp_path))
    azure = {"provider": "azure", "model": "x", "base_url": "http://mine.openai.azure.com/openai/v1"}
    assert "api_key" not in with_preset(azure, Project(tmp_path))


def test_the_highest_tier_of_a_price_bounds_the_cost():
    tiered = SimpleNamespace(base=3, tiers=[SimpleNamespace(start=200_000, price=6)])
    assert (_most(tiered), _most(3), _most(None)) == (6.0, 3.0, None)


def test_batches_of_bedrock_are_refused_with_the_reason():
    options = {"provider": "bedrock", "model": "m", "api_key": "k"}
    assert BedrockSpec(**options).api_key == "k"
    with pytest.raises(ValueError, match="need a bucket of S3 and a role of IAM"):
        BedrockSpec(**options, mode="batch")


def test_a_further_key_goes_to_the_address_of_its_entry():
    also = [{"api_key": "second"}, {"api_key": "third", "base_url": "https://other.example"}]
    for spec in (
        AnthropicSpec(provider="anthropic", model="m", also=also),
        GeminiSpec(provider="gemini", model="m", also=also),
        BedrockSpec(provider="bedrock", model="m", region="eu-west-1", also=also),
    ):
        assert [address.base_url for address in spec.also] == [spec.base_url, "https://other.example"]
        assert "openai" not in spec.base_url
