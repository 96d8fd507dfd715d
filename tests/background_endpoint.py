"""An endpoint that also speaks OpenAI's Responses API in the background, with faults that a test chooses."""

import asyncio
import json
import time
from collections import Counter

from aiohttp import web

from tests.endpoint import Endpoint, reply

PARAMETERS = {
    *("model", "input", "background", "store", "metadata", "max_output_tokens", "temperature", "top_p"),
    *("text", "tools", "tool_choice", "reasoning", "include", "top_logprobs", "service_tier"),
}


def message(text: str, **changes) -> dict:
    """An item of an output."""
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "status": "completed", "content": [part]} | changes


def ended(body: dict, **changes) -> dict:
    """The part of a response that its end adds."""
    usage = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    }
    text = reply({"messages": body["input"]})
    return {"status": "completed", "output": [message(text)], "usage": usage} | changes


class BackgroundEndpoint(Endpoint):
    """`end(body, times)` returns what the end of the response to a question adds, or None for the usual;
    `times` counts the responses to it. A response ends `latency_s` after its creation.

    `fault(step, times)` is called before and after a response is created ("create", "created") and when it is
    looked at ("look"), with the number of such steps of this question or response; it returns an HTTP
    response that is given instead, or "break" to break the connection. With `honours_keys`, a repeated
    Idempotency-Key gives the same response. No answer leaves the endpoint to what is
    `held`, "create" or "look".
    """

    def __init__(self, end=None, latency_s=0.0, *, fault=lambda step, times: None, honours_keys=True):
        super().__init__(None, latency_s)
        self.end, self.fault, self.honours_keys = end, fault, honours_keys
        self.responses: dict[str, dict] = {}
        self.made: Counter[str] = Counter()
        self.posts = self.deduplicated = 0
        self.held = set[str]()
        self.looks: Counter[str] = Counter()
        self.keys: list[str] = []
        self._by_key: dict[str, tuple[str, dict]] = {}

    def routes(self, router: web.UrlDispatcher) -> None:
        super().routes(router)
        router.add_post("/v1/responses", self._create)
        router.add_get("/v1/responses/{id}", self._look)

    def _answer_of(self, response: dict) -> dict:
        """What the endpoint shows of a response now."""
        response = dict(response)
        if time.monotonic() < response.pop("ends_at"):
            return response | {"status": "in_progress"}
        return response | response.pop("end")

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body, key = await request.json(), request.headers["Idempotency-Key"]
        self.posts += 1
        self.keys.append(key)
        question = json.dumps(body["input"])
        if reason := flaw(body):
            return refused(400, reason)
        if fault := self._fault(request, "create", self.posts):
            return fault
        if self.honours_keys and key in self._by_key:
            response_id, first = self._by_key[key]
            if first != body:
                return refused(400, "the key came with other parameters")
            self.deduplicated += 1
            return web.json_response(self._answer_of(self.responses[response_id]))
        self.made[question] += 1
        self.bodies.append(body)
        given = self.end(body, self.made[question]) if self.end else None
        response = {
            "id": f"resp_{len(self.responses)}",
            "object": "response",
            "status": "queued",
            "model": body["model"],
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
            "end": ended(body) if given is None else given,
            "ends_at": time.monotonic() + self.latency_s,
        }
        self.responses[response["id"]] = response
        self._by_key[key] = response["id"], body
        if fault := self._fault(request, "created", len(self.responses)):
            return fault
        while "create" in self.held:
            await asyncio.sleep(0.01)
        shown = dict(response)
        del shown["end"], shown["ends_at"]
        return web.json_response(shown)

    async def _look(self, request: web.Request) -> web.StreamResponse:
        response_id = request.match_info["id"]
        self.looks[response_id] += 1
        if fault := self._fault(request, "look", self.looks[response_id]):
            return fault
        while "look" in self.held:
            await asyncio.sleep(0.01)
        if response_id not in self.responses:
            return refused(404, f"Response with id '{response_id}' not found.")
        return web.json_response(self._answer_of(self.responses[response_id]))

    def _fault(self, request: web.Request, step: str, times: int) -> web.StreamResponse | None:
        fault = self.fault(step, times)
        if fault == "break":
            request.transport.abort()
            raise ConnectionResetError
        return fault

    def end_now(self) -> None:
        """End every response, and those to come at once."""
        self.latency_s = 0.0
        for response in self.responses.values():
            response["ends_at"] = 0.0

    def repeats(self) -> int:
        """The responses beyond the first to each question."""
        return self.made.total() - len(self.made)


def flaw(body: dict) -> str:
    """Why the parameters are none of the API's, or ""."""
    if unknown := body.keys() - PARAMETERS:
        return f"Unknown parameter: '{min(unknown)}'."
    if not (body.get("background") is True and body.get("store") is True):
        return "background needs store"
    for item in body["input"]:
        kind = item.get("type", "message")
        needed = {
            "message": {"role", "content"},
            "function_call": {"call_id", "name", "arguments"},
            "function_call_output": {"call_id", "output"},
        }[kind]
        if needed - item.keys() or (kind == "message" and item["role"] == "tool"):
            return f"an item lacks {needed - item.keys()}"
        parts = item.get("content") if isinstance(item.get("content"), list) else []
        text = "output_text" if item.get("role") == "assistant" else "input_text"
        if any(part["type"] not in (text, "input_image") for part in parts):
            return f"wrong parts: {parts}"
    if any(
        "function" in tool or not {"type", "name", "parameters", "strict"} <= tool.keys()
        for tool in body.get("tools", ())
    ):
        return "a tool is not flat"
    return ""


def refused(status: int, text: str, **headers) -> web.Response:
    return web.json_response({"error": {"message": text, "code": None}}, status=status, headers=headers)
