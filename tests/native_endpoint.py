"""Real HTTP servers that speak the protocols of Anthropic, Gemini and Bedrock, with their refusals."""

import json

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
