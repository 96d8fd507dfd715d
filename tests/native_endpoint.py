"""Real HTTP servers that speak the protocols of Anthropic, Gemini and Bedrock, with their refusals."""

import hashlib
import hmac
import io
import json
import os
import re
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace
from unittest.mock import patch
from urllib.parse import quote

from aiohttp import web

from tests.endpoint import Endpoint, reply

KEY = "sk-native-0123456789"


def refused(status: int, kind: str, message: str, headers: dict | None = None) -> web.Response:
    """An error in Anthropic's form."""
    body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}
    return web.json_response(body, status=status, headers=headers)


def message(body: dict, **changes) -> dict:
    """A message of Anthropic's API."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": reply(body)}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 5},
    } | changes


def stream(body: dict, *, lasts: int = 99) -> web.Response:
    """The events of a message, as many as it lasts."""
    start = message(body, content=[], stop_reason=None, usage={"input_tokens": 10, "output_tokens": 1})
    words = reply(body)
    events = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": words[:4]}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": words[4:]}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ][:lasts]
    text = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    return web.Response(text=text, content_type="text/event-stream")


class AnthropicEndpoint(Endpoint):
    """The Messages API. `lacks` names parameters that its model does not take."""

    TAKEN = frozenset(
        "model messages max_tokens system temperature top_p top_k stop_sequences stream tools tool_choice"
        " thinking output_config metadata service_tier".split()
    )
    lacks: frozenset[str] = frozenset()
    content: list | None = None  # of every message, instead of a text that depends on the request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/messages", self._answer)

    def usual(self, request: web.Request, body: dict) -> dict | web.Response:
        if request.headers.get("x-api-key") != KEY:
            return refused(401, "authentication_error", "invalid x-api-key")
        if request.headers.get("anthropic-version") != "2023-06-01":
            return refused(400, "invalid_request_error", "anthropic-version: header is required")
        for name in sorted(body.keys() - self.TAKEN | body.keys() & self.lacks):
            return refused(400, "invalid_request_error", f"{name}: Extra inputs are not permitted")
        roles = [turn["role"] for turn in body["messages"]]
        if "max_tokens" not in body or roles[0] != "user" or not {"user", "assistant"}.issuperset(roles):
            return refused(400, "invalid_request_error", "messages: malformed")
        if not open_objects(body.get("output_config", {}).get("format", {}).get("schema")):
            fixed = {"content": self.content} if self.content else {}
            return stream(body) if body.get("stream") else message(body, **fixed)
        text = "output_config.format.schema: For 'object' type, 'additionalProperties' must be set to false"
        return refused(400, "invalid_request_error", text)


def open_objects(schema) -> bool:
    """Whether an object of a schema may have further keys."""
    if isinstance(schema, list):
        return any(map(open_objects, schema))
    if not isinstance(schema, dict):
        return False
    is_open = schema.get("type") == "object" and schema.get("additionalProperties") is not False
    return is_open or any(map(open_objects, schema.values()))


class GeminiEndpoint(Endpoint):
    """The Gemini API. `off` holds a message about what is not enabled for its model."""

    TAKEN = frozenset(
        "temperature topP topK maxOutputTokens stopSequences seed presencePenalty frequencyPenalty logprobs"
        " responseLogprobs responseMimeType responseJsonSchema thinkingConfig".split()
    )
    lacks: frozenset[str] = frozenset()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1beta"

    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1beta/models/{method}", self._answer)

    def usual(self, request: web.Request, body: dict) -> dict | web.Response:
        if request.headers.get("x-goog-api-key") != KEY:
            return google_error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.")
        model, _, method = request.match_info["method"].partition(":")
        if method == "embedContent":
            return {"embedding": {"values": [0.25, -1.5]}}
        options = body.get("generationConfig", {})
        for name in sorted(options.keys() - self.TAKEN | options.keys() & self.lacks):
            message = f"Invalid JSON payload received. Unknown name \"{name}\" at 'generation_config'"
            return google_error(400, "INVALID_ARGUMENT", f"{message}: Cannot find field.")
        roles = [content["role"] for content in body["contents"]]
        if roles[0] != "user" or not {"user", "model"}.issuperset(roles):
            return google_error(400, "INVALID_ARGUMENT", "Please use a valid role: user, model.")
        return candidates({"messages": body["contents"], "model": model})


def google_error(status: int, kind: str, message: str, details: list | None = None) -> web.Response:
    """An error in Google's form."""
    error = {"code": status, "message": message, "status": kind, "details": details or []}
    return web.json_response({"error": error}, status=status)


def candidates(body: dict, parts: list | None = None, *, finish: str = "STOP", **usage) -> dict:
    """An answer of the Gemini API."""
    counts = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15} | usage
    content = {"role": "model", "parts": [{"text": reply(body)}] if parts is None else parts}
    return {
        "candidates": [{"content": content, "finishReason": finish, "index": 0}],
        "usageMetadata": counts,
        "modelVersion": body.get("model", "gemini-x"),
    }


class BedrockEndpoint(Endpoint):
    """The Converse API. It takes the Bedrock key, or a signature with the secret of `SECRET`."""

    ACCESS, SECRET = "AKIA0123456789", "aws/secret+0123456789"
    TAKEN = frozenset(
        "messages system toolConfig inferenceConfig outputConfig additionalModelRequestFields".split()
    )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/model/{model}/converse", self._answer)

    def usual(self, request: web.Request, body: dict) -> dict | web.Response:
        authorization = request.headers.get("Authorization", "")
        if authorization != f"Bearer {KEY}" and not self.is_signed(request, authorization):
            return aws_error(403, "AccessDeniedException", "The security token in the request is invalid.")
        roles = [turn["role"] for turn in body["messages"]]
        if body.keys() - self.TAKEN or not {"user", "assistant"}.issuperset(roles):
            return aws_error(400, "ValidationException", "Malformed input request")
        return converse({"messages": body["messages"]})

    def is_signed(self, request: web.Request, authorization: str) -> bool:
        """Whether a request has AWS Signature Version 4, computed here from what came over the wire."""
        sign = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=(\w+)/((\d{8})/eu-west-1/bedrock/aws4_request), "
            r"SignedHeaders=([\w;-]+), Signature=(\w+)",
            authorization,
        )
        if not sign or sign[1] != self.ACCESS or "host" not in sign[4].split(";"):
            return False
        headers = "".join(f"{name}:{request.headers[name].strip()}\n" for name in sign[4].split(";"))
        path = quote(request.raw_path, safe="/~")  # encoded twice, as for every service but S3
        body = hashlib.sha256(request._read_bytes).hexdigest()
        canonical = f"POST\n{path}\n\n{headers}\n{sign[4]}\n{body}"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{request.headers['X-Amz-Date']}\n{sign[2]}\n{hashed}"
        key = f"AWS4{self.SECRET}".encode()
        for word in (*sign[2].split("/"), text):
            key = hmac.new(key, word.encode(), "sha256").digest()
        return key.hex() == sign[5]


def aws_error(status: int, kind: str, message: str, headers: dict | None = None) -> web.Response:
    """An error in AWS's form."""
    headers = {"x-amzn-errortype": f"{kind}:http://internal.amazon.com/coral/"} | (headers or {})
    return web.json_response({"message": message}, status=status, headers=headers)


def converse(body: dict, content: list | None = None, *, stop: str = "end_turn", **usage) -> dict:
    """An answer of the Converse API."""
    counts = {"inputTokens": 10, "outputTokens": 5, "totalTokens": 15} | usage
    content = [{"text": reply(body)}] if content is None else content
    message = {"role": "assistant", "content": content}
    return {"output": {"message": message}, "stopReason": stop, "usage": counts, "metrics": {"latencyMs": 9}}


def cli(*args: str, check: int | None = 0, env: dict | None = None) -> SimpleNamespace:
    """`python -m distillgen ARGS` in this process, which takes a tenth of the time of one of its own."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["distillgen", *args]
    try:
        with patch.dict(os.environ, env or {}), redirect_stdout(out), redirect_stderr(err):
            runpy.run_module("distillgen", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = argv
    assert check in (None, code), f"exit {code}, expected {check}\n{out.getvalue()}\n{err.getvalue()}"
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())
