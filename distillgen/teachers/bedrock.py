"""Amazon Bedrock's Converse API, with a Bedrock key or AWS credentials."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
from pydantic import Field, model_validator

from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.inference.faults import Rejected
from distillgen.inference.request import Completion, Request
from distillgen.record import dumps
from distillgen.teachers._addresses import Address, Place
from distillgen.teachers._cache_option import CacheOption
from distillgen.teachers._http_spec import NativeSpec
from distillgen.teachers._native_client import NativeClient, closed, schema_words
from distillgen.teachers._refusal import COMMON
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

_INSIDE = {"max_tokens": "maxTokens", "temperature": "temperature", "top_p": "topP", "stop": "stopSequences"}
_WRONG_MODEL = re.compile(rb"model identifier|on-demand throughput|inference profile", re.IGNORECASE)


class BedrockSpec(CacheOption, NativeSpec):
    """A model behind Amazon Bedrock's Converse API.

    `model` is the id or the ARN of a model or of an inference profile. Without `api_key`, which is a Bedrock
    key, requests are signed with the credentials that botocore finds: variables of the environment, a
    profile, or the role of the machine. `extra: {additionalModelRequestFields: {…}}` holds further parameters
    of a model.
    """

    region: str | None = Field(
        None, pattern="^[a-z0-9-]+$", description="region, such as us-east-1, or ${AWS_REGION}"
    )
    base_url: str = Field("", description="address of the endpoint; default: that of the region")

    @model_validator(mode="before")
    @classmethod
    def _online(cls, options: Any) -> Any:
        """Refuse the batch mode."""
        if isinstance(options, dict) and "mode" in options:
            why = "Bedrock's batches need a bucket of S3 and a role of IAM"
            raise ValueError(f"provider bedrock has no 'mode', for {why}: leave it out to ask online")
        return options

    @model_validator(mode="before")
    @classmethod
    def _address(cls, options: Any) -> Any:
        """Fill the address of the region."""
        if isinstance(options, dict) and not options.get("base_url") and (region := options.get("region")):
            return {**options, "base_url": f"https://bedrock-runtime.{region}.amazonaws.com"}
        return options

    @property
    def capabilities(self) -> frozenset[str]:
        """The capabilities of the protocol."""
        return frozenset({"json_schema", "tools", "images"})

    def check(self, root: Path) -> None:
        """Raise ConfigError for a missing region, or a missing package to sign with."""
        if not self.base_url:
            raise ConfigError("provider bedrock needs a region: region: us-east-1, or region: ${AWS_REGION}")
        super().check(root)
        if not all(address.api_key for address in (self, *self.also)):
            need("provider bedrock without 'api_key'", "botocore")


class Bedrock(NativeClient):
    """Asks for one answer a request."""

    spec_type = BedrockSpec
    spec: BedrockSpec
    lacks = frozenset({"top_k", "seed", "min_p", "presence_penalty", "frequency_penalty"})
    required = frozenset({"messages", "toolConfig"})
    schema_parameter = "outputConfig"
    replacements = {"outputConfig": "the schema is put into the prompt"}
    paths = "/model/[^/]*/converse$"

    @property
    def identity(self) -> str:  # type: ignore[override]
        """The address, and the protocol."""
        return f"{self.spec.identity}#converse"

    def headers(self, address: Address) -> dict[str, str]:
        """Return the Bedrock key, if there is one."""
        return {"authorization": f"Bearer {address.api_key}"} if address.api_key else {}

    def path(self, request: Request) -> str:
        """Return the path of the model."""
        return f"model/{quote(request.model, safe='')}/converse"

    @cached_property
    def _credentials(self) -> Any:
        from botocore.session import get_session

        if credentials := get_session().get_credentials():
            return credentials
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give a Bedrock key"
        raise self.down(f"there are no AWS credentials; {remedy}: api_key: ${{AWS_BEARER_TOKEN_BEDROCK}}")

    def outgoing(self, client: Any, url: str, body: Mapping[str, Any]) -> Any:
        """Return the HTTP request, signed unless the address has a key."""
        inside = {name: value for name, value in body.items() if name in _INSIDE.values()}
        outside = {name: value for name, value in body.items() if name not in inside}
        content = dumps(outside | ({"inferenceConfig": inside} if inside else {}), sort_keys=False)
        request = client.post(url).body_bytes(content)
        keys = [place.address.api_key for place in self._places if url.startswith(place.address.base_url)]
        return (request if all(keys) else request.headers(self._signature(url, content))).build()

    def _signature(self, url: str, content: bytes) -> dict[str, str]:
        """Return the headers of AWS Signature Version 4."""
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        request = AWSRequest("POST", url, data=content)
        frozen = self._credentials.get_frozen_credentials()
        SigV4Auth(frozen, "bedrock", self.spec.region or "us-east-1").add_auth(request)
        return dict(request.headers.items())

    def body(self, request: Request, n: int, attempt: int, sample: int) -> dict[str, Any]:
        """Return the parameters; those of inferenceConfig stand beside the others."""
        sampling = dict(request.sampling)
        extra = sampling.pop("extra", {})
        system, turns = turns_of(request.messages)
        body: dict[str, Any] = {"messages": [_message(*turn) for turn in turns]}
        if system:
            body["system"] = [{"text": text} for text in system]
        if request.tools:
            body["toolConfig"] = {"tools": [_tool(*function) for function in functions_of(request)]}
        if isinstance(sampling.get("stop"), str):
            sampling["stop"] = [sampling["stop"]]
        body |= {_INSIDE.get(name, name): value for name, value in sampling.items()}
        if self.spec.cache:
            _mark(body, {"cachePoint": {"type": "default", "ttl": self.spec.cache}})
        if request.schema is not None:
            if (schema := closed(request.schema)) is None:
                return {**self.with_words(body, schema_words(request.schema)), **extra}
            text = dumps(schema, sort_keys=False).decode()
            form = {"type": "json_schema", "structure": {"jsonSchema": {"name": "answer", "schema": text}}}
            body["outputConfig"] = {"textFormat": form}
        return {**body, **extra}

    def schema_of(self, body: Mapping[str, Any]) -> Any:
        """Return the schema."""
        return orjson.loads(body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"])

    def with_words(self, body: Mapping[str, Any], words: str) -> dict[str, Any]:
        """Return the parameters with a text at the end of the last turn."""
        *before, last = body["messages"]
        return {**body, "messages": [*before, {**last, "content": [*last["content"], {"text": words}]}]}

    def holds_answer(self, payload: Mapping[str, Any]) -> bool:
        """Return whether the JSON has an output."""
        return "output" in payload

    def completions(self, payload: Any) -> list[Completion]:
        """Return the message as a completion."""
        output = payload.get("output") if isinstance(payload, dict) else None
        message = output.get("message") if isinstance(output, dict) else None
        if not isinstance(message, dict) or not isinstance(message.get("content"), list):
            return completions_from(
                payload, (), payload.get("usage") if isinstance(payload, dict) else None, ""
            )
        blocks = mappings(message["content"])
        uses = mappings([block.get("toolUse") for block in blocks])
        thoughts = mappings([block.get("reasoningContent") for block in blocks])
        answer = Answer(
            texts=[text_of(block.get("text")) for block in blocks],
            thoughts=[
                text_of(part.get("text")) for part in mappings([t.get("reasoningText") for t in thoughts])
            ],
            calls=[call_of(str(use.get("toolUseId", "")), use.get("name"), use.get("input")) for use in uses],
            finish=payload.get("stopReason"),
        )
        return completions_from(payload, [answer], payload.get("usage"), "")

    def refusal_of(
        self,
        place: Place,
        status: int,
        content: bytes,
        headers: Mapping[str, str],
        parameters: Iterable[str] = COMMON,
    ) -> Exception:
        """Return the error of a response; a model that is not there ends the run."""
        refusal = super().refusal_of(place, status, content, headers, parameters)
        if isinstance(refusal, Rejected) and status == 400 and _WRONG_MODEL.search(content):
            return self.down(f"{refusal}. Check model ('{self.spec.model}') and region")
        return refusal


def _message(role: str, parts: list[Part]) -> dict[str, Any]:
    return {"role": role, "content": [_block(part) for part in parts]}


def _block(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"text": text}
        case Picture("", _):
            raise Rejected("Bedrock takes pictures as data: URLs, and no address of one")
        case Picture(media, content):
            return {"image": {"format": media.rpartition("/")[2], "source": {"bytes": content}}}
        case Sound():
            raise Rejected("this provider takes texts and pictures, and no sounds")
        case Call(id, name, arguments, _):
            return {"toolUse": {"toolUseId": id, "name": name, "input": arguments}}
        case Result(id, _, text):
            return {"toolResult": {"toolUseId": id, "content": [{"text": text}]}}


def _tool(name: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    spec = {"name": name, "inputSchema": {"json": schema}}
    return {"toolSpec": spec | ({"description": description} if description else {})}


def _mark(body: dict[str, Any], point: Mapping[str, Any]) -> None:
    """Ask the provider to keep the tools and the system, and the turns before the last one."""
    if len(body["messages"]) > 1:
        body["messages"][-2]["content"].append(point)
    if body.get("system"):
        body["system"].append(point)
    elif body.get("toolConfig"):
        body["toolConfig"]["tools"].append(point)
