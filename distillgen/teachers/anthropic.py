"""Anthropic's Messages API: system, tools, pictures, JSON by a schema, thinking and cached prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.inference.faults import Rejected
from distillgen.inference.request import Completion, Request
from distillgen.teachers._addresses import Address
from distillgen.teachers._anthropic_batch import AnthropicBatches
from distillgen.teachers._batch_spec import BatchSpec
from distillgen.teachers._batches import BatchClient
from distillgen.teachers._cache_option import CacheOption
from distillgen.teachers._http_spec import NativeSpec
from distillgen.teachers._native_client import NativeClient, closed, schema_words
from distillgen.teachers._turns import (
    Answer,
    Call,
    Part,
    Picture,
    Result,
    Sound,
    Text,
    call_of,
    completions_from,
    functions_of,
    mappings,
    text_of,
    turns_of,
)

OFFICIAL = "https://api.anthropic.com"
VERSION = "2023-06-01"
STREAMED = 21_333  # tokens of an answer above which it is streamed, as Anthropic's own package demands


class AnthropicSpec(CacheOption, BatchSpec, NativeSpec):
    """A model behind Anthropic's Messages API.

    The API wants `max_tokens`: 4,096, unless an entry, a prompt or a stage sets it. `extra: {thinking: {type:
    enabled, budget_tokens: 2000}}` asks for reasoning, whose tokens `max_tokens` includes.
    """

    base_url: str = Field(OFFICIAL, description="address of the endpoint, up to and without /v1/messages")
    batch_size: int = Field(10_000, ge=1, le=100_000, description="largest number of requests in a batch")
    max_tokens: int | None = Field(4096, gt=0, description="largest number of tokens of an answer")

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities of the protocol."""
        return frozenset({"json_schema", "tools", "images"})

    def check(self, root: Path) -> None:
        """Raise ConfigError for a malformed address, a missing key, or an answer without a bound."""
        super().check(root)
        if self.base_url.rstrip("/") == OFFICIAL and not self.api_key:
            raise ConfigError("api.anthropic.com needs a key: api_key: ${ANTHROPIC_API_KEY}")
        if self.temperature is not None and self.temperature > 1:
            raise ConfigError(f"'temperature' {self.temperature:g}: Anthropic's go from 0 to 1")


class Anthropic(BatchClient, NativeClient):
    """Asks for one answer a request, online or in a batch."""

    spec_type = AnthropicSpec
    spec: AnthropicSpec
    batch_api = AnthropicBatches
    lacks = frozenset({"seed", "min_p", "presence_penalty", "frequency_penalty"})
    required = frozenset({"model", "messages", "max_tokens", "tools", "stream"})
    schema_parameter = "output_config"
    replacements = {"output_config": "the schema is put into the prompt"}
    paths = "/v1/messages(/batches.*)?$"

    @property
    def identity(self) -> str:  # type: ignore[override]
        """The address, and the protocol."""
        return f"{self.spec.identity}#messages"

    def headers(self, address: Address) -> dict[str, str]:
        """Return the key, and the version of the protocol."""
        key = {"x-api-key": address.api_key} if address.api_key else {}
        return key | {"anthropic-version": VERSION}

    def path(self, request: Request) -> str:
        """Return the path of messages."""
        return "v1/messages"

    def body(self, request: Request, n: int, attempt: int, sample: int) -> dict[str, Any]:
        """Return the JSON body of a request."""
        sampling = dict(request.sampling)
        extra = sampling.pop("extra", {})
        system, turns = turns_of(request.messages)
        body: dict[str, Any] = {"model": request.model, "messages": [_message(*turn) for turn in turns]}
        if system:
            body["system"] = [{"type": "text", "text": text} for text in system]
        if request.tools:
            body["tools"] = [
                {"name": name, "description": description, "input_schema": schema}
                for name, description, schema in functions_of(request)
            ]
        if (stop := sampling.pop("stop", None)) is not None:
            body["stop_sequences"] = [stop] if isinstance(stop, str) else stop
        body |= sampling | extra
        if body.setdefault("max_tokens", 4096) > STREAMED and self.spec.mode == "online":
            body["stream"] = True
        if self.spec.cache:
            _mark(body, {"type": "ephemeral", "ttl": self.spec.cache})
        if request.schema is not None:
            if (schema := closed(request.schema)) is None:
                return self.with_words(body, schema_words(request.schema))
            form = {"type": "json_schema", "schema": schema}
            body["output_config"] = {**body.get("output_config", {}), "format": form}
        return body

    def schema_of(self, body: Mapping[str, Any]) -> Any:
        """Return the schema, or {} if the parameter holds another option alone."""
        return body["output_config"].get("format", {}).get("schema", {})

    def with_words(self, body: Mapping[str, Any], words: str) -> dict[str, Any]:
        """Return the body with a text at the end of the last turn."""
        *before, last = body["messages"]
        return {**body, "messages": [*before, {**last, "content": [*last["content"], _block(Text(words))]}]}

    def holds_answer(self, payload: Mapping[str, Any]) -> bool:
        """Return whether the JSON is a message."""
        return "content" in payload

    def completions(self, payload: Any) -> list[Completion]:
        """Return the message as a completion."""
        return message_of(payload)

    def unstreamed(self, content: bytes) -> dict[str, Any] | None:
        """Return the message in the events of a stream; None if it breaks off."""
        return streamed_message(content)


def _message(role: str, parts: list[Part]) -> dict[str, Any]:
    return {"role": role, "content": [_block(part) for part in parts]}


def _block(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Picture("", url):
            return {"type": "image", "source": {"type": "url", "url": url}}
        case Picture(media, content):
            return {"type": "image", "source": {"type": "base64", "media_type": media, "data": content}}
        case Sound():
            raise Rejected("this provider takes texts and pictures, and no sounds")
        case Call(id, name, arguments, _):
            return {"type": "tool_use", "id": id, "name": name, "input": arguments}
        case Result(id, _, text):
            return {"type": "tool_result", "tool_use_id": id, "content": text}


def _mark(body: dict[str, Any], control: Mapping[str, Any]) -> None:
    """Ask the provider to keep the tools and the system, and the turns before the last one."""
    if len(body["messages"]) > 1 and body["messages"][-2]["content"]:
        body["messages"][-2]["content"][-1]["cache_control"] = control
    for name in ("system", "tools"):
        if body.get(name):
            body[name][-1] = {**body[name][-1], "cache_control": control}
            return


def message_of(payload: Any) -> list[Completion]:
    """Return the completion in a message of the API. Raise Retryable if it is none."""
    content = payload.get("content") if isinstance(payload, dict) else None
    if not isinstance(content, list):
        return completions_from(payload, (), None, "")
    blocks = mappings(content)
    details = payload.get("stop_details")
    refusal = text_of(details.get("explanation")) if isinstance(details, dict) else ""
    answer = Answer(
        texts=[text_of(block.get("text")) for block in blocks if block.get("type") == "text"],
        thoughts=[text_of(block.get("thinking")) for block in blocks if block.get("type") == "thinking"],
        calls=[
            call_of(str(block.get("id", "")), block.get("name"), block.get("input"))
            for block in blocks
            if block.get("type") == "tool_use"
        ],
        finish=payload.get("stop_reason"),
        refusal=refusal if payload.get("stop_reason") == "refusal" else "",
    )
    return completions_from(payload, [answer], payload.get("usage"), payload.get("model"))


def streamed_message(content: bytes) -> dict[str, Any] | None:
    """Return the message in a stream's events; an error that comes first; None if the stream breaks off."""
    message: dict[str, Any] = {}
    for line in content.splitlines():
        if not line.startswith(b"data:"):
            continue
        try:
            event = orjson.loads(line[5:])
            match event["type"]:
                case "error":
                    return None if message else event
                case "message_start":
                    message = {**event["message"], "content": []}
                case "content_block_start":
                    message["content"].append({**event["content_block"]})
                case "content_block_delta":
                    _add(message["content"][event["index"]], event["delta"])
                case "message_delta":
                    message |= event["delta"]
                    counts = {name: n for name, n in (event.get("usage") or {}).items() if n is not None}
                    message["usage"] = {**(message.get("usage") or {}), **counts}
                case "message_stop":
                    for block in message["content"]:
                        if "partial" in block:
                            block["input"] = orjson.loads(block.pop("partial") or b"{}")
                    return message
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError):
            return None
    return None


def _add(block: dict[str, Any], delta: Mapping[str, Any]) -> None:
    for name, target in (("text", "text"), ("thinking", "thinking"), ("partial_json", "partial")):
        if name in delta:
            block[target] = block.get(target, "") + delta[name]
