"""A provider behind a fake HTTP client: the seed decides what it answers, how it fails and what it bills."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import orjson
from pyreqwest.exceptions import RequestError, RequestTimeoutError

from tests.simulator.world import Process, World

PRICE = {"input": 1000.0, "output": 10000.0}  # US dollars for 1,000,000 tokens
FAULTS = {
    "429": 3,
    "503": 2,
    "500": 1,
    "gateway": 1,
    "no connection": 1,
    "torn": 2,
    "time-out": 2,
    "malformed": 1,
    "no choices": 1,
    "one choice": 1,
    "cut off": 1,
}
"""What can happen to a request, with weights."""
UNBILLED = ("429", "503", "500", "no connection")
UNSURE = ("gateway", "torn", "time-out")
"""Fates with which some requests are billed."""
ANSWERED = ("answered", "one choice", "cut off")
LOST = ("given up", "gateway", "torn", "time-out", "malformed", "no choices")
"""Fates of requests that may be billed, although no answer comes."""
ANSWER = re.compile(r"answer (\d+)\.(\d+) ")


@dataclass
class Call:
    """A request that reached the provider."""

    number: int
    process: Process
    run: str
    prompt: str
    samples: int
    at: float
    fate: str = "answered"
    tokens: tuple[int, int] = (0, 0)
    cost_usd: float = 0.0
    """What is billed."""
    ended: bool = False
    """Whether the client has got an answer or an error."""
    requests: int = 0
    not_before: float = 0.0
    """Before this moment the client is not to ask again."""
    stored: int = 0
    stored_usd: float = 0.0
    """Its answers in the ledger."""

    @property
    def in_flight(self) -> bool:
        """Whether its answer may still come into the ledger."""
        if not self.process.alive or self.process.stopped_s:
            return False
        return not self.ended or self.fate in ANSWERED and not self.stored


class Provider:
    """Answers prompts; the answer's text holds the number of its call."""

    def __init__(self, world: World, faulty: float, latency_s: float) -> None:
        self.world, self.faulty, self.latency_s = world, faulty, latency_s
        self.calls: list[Call] = []
        self.of_prompt: defaultdict[str, list[Call]] = defaultdict(list)
        self.billed: Counter[str] = Counter()
        self.flying: Counter[str] = Counter()

    async def serve(self, body: bytes, timeout_s: float) -> Response:
        """Answer one request. Raise as the HTTP client does."""
        world, draw, sent = self.world, self.world.draw, orjson.loads(body)
        call = self._arrived(sent)
        faulty = draw.random() < self.faulty
        if faulty:
            call.fate = draw.choices([*FAULTS], [*FAULTS.values()])[0]
        if call.fate not in UNBILLED and (call.fate not in UNSURE or draw.random() < 0.7):
            self._bill(call, sent["max_tokens"])  # now: it works on, whatever becomes of the client
        begun = world.now
        try:
            if call.fate == "time-out":
                await asyncio.sleep(timeout_s)
                raise RequestTimeoutError("timed out", {"causes": []})
            await asyncio.sleep(min(draw.expovariate(1 / self.latency_s), timeout_s * 0.9))
            if world.now - begun > timeout_s:  # the process was stopped meanwhile
                call.fate = "time-out"
                raise RequestTimeoutError("timed out", {"causes": []})
            return self._response(call)
        except asyncio.CancelledError:
            call.fate = "given up"
            raise
        except RequestError:
            world.note(f"{call.process.name}: call {call.number} ends: {call.fate}")
            raise
        finally:
            call.ended = True
            self.flying[call.process.name] -= 1

    def _arrived(self, sent: dict[str, Any]) -> Call:
        process, prompt = self.world.current, sent["messages"][-1]["content"]
        call = Call(len(self.calls), process, process.run, prompt, sent.get("n", 1), self.world.now)
        self.world.note(f"{process.name}: call {call.number}: {call.samples} x {prompt!r}")
        self.check(call)
        self.calls.append(call)
        self.of_prompt[prompt].append(call)
        self.flying[process.name] += 1
        return call

    def check(self, call: Call) -> None:
        """Raise Broken if the call should not have been made."""

    def _bill(self, call: Call, most_tokens: int) -> None:
        choices = 1 if call.fate == "one choice" else call.samples
        call.tokens = (len(call.prompt) // 4 + 1, choices * self.world.draw.randint(1, most_tokens))
        call.cost_usd = (call.tokens[0] * PRICE["input"] + call.tokens[1] * PRICE["output"]) / 1e6
        self.billed[call.run] += call.cost_usd

    def _response(self, call: Call) -> Response:
        draw, fate = self.world.draw, call.fate
        self.world.note(f"{call.process.name}: call {call.number} ends: {fate}")
        if fate == "429":
            return Response(429, b'{"error":{"message":"rate limit"}}', self._wait(call))
        if fate in ("500", "503"):
            return Response(int(fate), b'{"error":{"message":"overloaded"}}')
        if fate == "gateway":
            return Response(draw.choice([502, 504]), b"<html><title>Bad gateway</title></html>")
        if fate == "no connection":
            raise RequestError("error", {"causes": [{"message": "client error (Connect)"}]})
        if fate == "torn":
            raise RequestError("error", {"causes": [{"message": "connection closed"}]})
        call.process.tokens = [sum(pair) for pair in zip(call.process.tokens, call.tokens, strict=True)]
        usage = {"prompt_tokens": call.tokens[0], "completion_tokens": call.tokens[1]}
        finish = "length" if fate == "cut off" else "stop"
        answers = [] if fate == "no choices" else range(1 if fate == "one choice" else call.samples)
        choices = [
            {
                "index": i,
                "finish_reason": finish,
                "message": {
                    "role": "assistant",
                    "content": f"answer {call.number}.{i} to {call.prompt}"[:60],
                },
            }
            for i in answers
        ]
        content = orjson.dumps({"model": "m", "choices": choices, "usage": usage})
        return Response(200, content[:-9] if fate == "malformed" else content)

    def _wait(self, call: Call) -> dict[str, str]:
        """A header that asks for a pause of some seconds, in one of the forms in use."""
        seconds = self.world.draw.choice([0, 1, 7, 30])
        form = self.world.draw.randrange(3)
        if form == 0:
            return {}
        call.not_before = self.world.now + seconds - 1  # a date is cut to whole seconds
        if form == 1:
            return {"retry-after": str(seconds)}
        moment = datetime.fromtimestamp(self.world.wall(), UTC) + timedelta(seconds=seconds)
        return {"retry-after": format_datetime(moment, usegmt=True)}


@dataclass(frozen=True)
class Response:
    """What the HTTP client gives."""

    status: int
    content: bytes
    headers: dict[str, str] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", self.headers or {})

    async def bytes(self) -> bytes:
        return self.content


class ClientBuilder:
    """The HTTP client's builder, and the client that it builds."""

    provider: Provider

    def timeout(self, longest: timedelta) -> ClientBuilder:
        self.timeout_s = longest.total_seconds()
        return self

    def _same(self, *_: Any) -> ClientBuilder:
        return self

    connect_timeout = no_proxy = follow_redirects = default_headers = build = _same

    def post(self, url: str) -> Outgoing:
        return Outgoing(self)

    async def close(self) -> None:
        pass


class Outgoing:
    """A request that is being built, and sent."""

    def __init__(self, client: ClientBuilder) -> None:
        self._client = client

    def body_bytes(self, body: bytes) -> Outgoing:
        self._body = body
        return self

    def build(self) -> Outgoing:
        return self

    async def send(self) -> Response:
        return await self._client.provider.serve(self._body, self._client.timeout_s)
