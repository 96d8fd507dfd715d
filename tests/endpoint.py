"""A real HTTP server that speaks the OpenAI protocol, counts requests, and misbehaves as a test chooses."""

import asyncio
import hashlib
import json
import threading
from collections import Counter

from aiohttp import web


def reply(body: dict, number: int = 0) -> str:
    """An answer that is a pure function of the request and the choice's number."""
    asked = json.dumps([body["messages"] if "messages" in body else body["prompt"], number], sort_keys=True)
    return f"answer {hashlib.sha256(asked.encode()).hexdigest()[:12]}"


def completion(body: dict, **changes) -> dict:
    """A chat.completion object with `n` choices."""
    choices = [
        {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": reply(body, i)}}
        for i in range(body.get("n", 1))
    ]
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5 * len(choices),
        "total_tokens": 10 + 5 * len(choices),
    }
    return {"object": "chat.completion", "model": body["model"], "choices": choices, "usage": usage} | changes


class Endpoint:
    """Runs in a thread of its own. `behave(body, times)` may return a dict (the JSON), a web.Response, or
    None (answer).
    """

    want = 0  # the port; 0 takes a free one

    def __init__(self, behave=None, latency_s: float = 0.0):
        self.behave, self.latency_s = behave, latency_s
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.in_flight: Counter[str] = Counter()
        self.most_in_flight = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "Endpoint":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=1 << 30)
        self.routes(app.router)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self.want, backlog=2048, reuse_address=True)
        self._loop.run_until_complete(site.start())
        self.port = site._server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/chat/completions", self._answer)
        router.add_post("/v1/completions", self._answer)
        router.add_post("/v1/embeddings", self._answer)

    def usual(self, request: web.Request, body: dict) -> dict | web.Response:
        """The answer to a request, unless a test chooses another."""
        return completion(body)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body, key = json.loads(raw), raw.decode()
        self.asked[key] += 1
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.in_flight[key] += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight.total())
        try:
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            result = self.behave(body, self.asked[key]) if self.behave else None
            if asyncio.iscoroutine(result):
                result = await result
            result = self.usual(request, body) if result is None else result
            return result if isinstance(result, web.StreamResponse) else web.json_response(result)
        except ConnectionResetError:
            request.transport.abort()  # or aiohttp would answer with 500
            raise
        finally:
            self.in_flight[key] -= 1
