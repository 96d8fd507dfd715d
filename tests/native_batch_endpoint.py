"""Real HTTP servers that speak Anthropic's Message Batches and Gemini's batchGenerateContent, with their
faults.
"""

import json
import re
from collections import Counter
from datetime import UTC, datetime

from aiohttp import web

from tests.native_endpoint import KEY, AnthropicEndpoint, GeminiEndpoint, google_error, refused


class Batching:
    """What both have in common: a batch moves on whenever it is looked at, unless it is `held`.

    `fate(number)` says how the batch of that number ends. `step(name)` is called at each step of the protocol
    and says whether the connection breaks there, or gives or raises another answer. So many lists as `late`
    says do not show the newest batch yet. `lines` counts our ids of the lines of all batches. `redirect`
    returns the address that a request is to go to, or "".
    """

    provider, model = "", ""

    def __init__(self, behave=None, *, fate=lambda number: "completed", step=lambda name: False):
        super().__init__(behave)
        self.fate, self.step = fate, step
        self.batches: dict[str, dict] = {}
        self.lines: Counter[str] = Counter()
        self.steps: list[str] = []
        self.held, self.late = False, 0
        self.redirect = lambda request: ""

    def reach(self, name: str) -> None:
        self.steps.append(name)
        given = self.step(name)
        if isinstance(given, web.Response):
            raise Given(given)
        if given:
            raise ConnectionResetError

    def guarded(self, handle):
        async def checked(request: web.Request) -> web.StreamResponse:
            try:
                if address := self.redirect(request):
                    return web.Response(status=307, headers={"location": address})
                if KEY not in (request.headers.get("x-api-key"), request.headers.get("x-goog-api-key")):
                    return refused(401, "authentication_error", "invalid x-api-key")
                return await handle(request)
            except Given as given:
                return given.answer
            except ConnectionResetError:
                request.transport.abort()
                raise

        return checked

    def add(self, name: str, requests: list[tuple[str, dict]], **fields) -> dict:
        """A new batch of lines, each an id on the wire and its body."""
        batch = {"name": name, "requests": requests, "looks": 0, "state": "going", "fate": "completed"}
        self.batches[name] = batch | fields
        return self.batches[name]

    def look(self, request: web.Request, batch: dict) -> dict:
        """Move a batch on. One that expires or is cancelled has answered the first half."""
        if batch["state"] == "going" and not self.held and not batch.get("stuck"):
            batch["looks"] += 1
            if batch["looks"] > 2:
                batch["state"] = batch["fate"]
                half = len(batch["requests"]) // 2
                asked = half if batch["fate"] in ("expired", "cancelled") else len(batch["requests"])
                batch["results"] = [
                    (id, self.answer(request, body) if i < asked else None)
                    for i, (id, body) in enumerate(batch["requests"])
                ]
        return batch

    def answer(self, request: web.Request, body: dict):
        """What a line answers: a mapping, or a response with an error."""
        key = json.dumps(body)
        self.asked[key] += 1
        self.bodies.append(body)
        given = self.behave(body, self.asked[key]) if self.behave else None
        return self.usual(request, body) if given is None else given

    def listed(self, batches: list[dict], after: int, most: int) -> tuple[list[dict], bool]:
        newest = batches[::-1][self.late > 0 :]
        self.late -= after == 0
        return newest[after : after + most], after + most < len(newest)


class Given(Exception):
    def __init__(self, answer: web.Response):
        super().__init__()
        self.answer = answer


class AnthropicBatchEndpoint(Batching, AnthropicEndpoint):
    """`GET /v1/messages/batches` gives two batches at once, the newest first."""

    provider, model = "anthropic", "claude-x"
    missing = 0  # looks at results that find none

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.downloads: list[str] = []

    def routes(self, router: web.UrlDispatcher) -> None:
        super().routes(router)
        router.add_post("/v1/messages/batches", self.guarded(self._create))
        router.add_get("/v1/messages/batches", self.guarded(self._list))
        router.add_get("/v1/messages/batches/{id}", self.guarded(self._retrieve))
        router.add_get("/v1/messages/batches/{id}/results", self.guarded(self._results))

    async def _create(self, request: web.Request) -> web.Response:
        asked = (await request.json())["requests"]
        self.reach("create")
        ids = [one["custom_id"] for one in asked]
        assert len(set(ids)) == len(ids) <= 100_000
        assert all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", id) for id in ids)
        if any("stream" in one["params"] for one in asked):
            message = "requests.0.params.stream: Extra inputs are not permitted"
            return refused(400, "invalid_request_error", message)
        name = f"msgbatch_{len(self.batches)}"
        requests = [(one["custom_id"], one["params"]) for one in asked]
        batch = self.add(name, requests, fate=self.fate(len(self.batches)))
        self.lines.update(id.partition("-")[2] for id in ids)
        self.reach("created")
        return web.json_response(self.shown(batch))

    def add(self, name: str, requests: list[tuple[str, dict]], **fields) -> dict:
        return super().add(name, requests, **{"created_at": datetime.now(UTC).isoformat()} | fields)

    def shown(self, batch: dict) -> dict:
        kinds = ("processing", "succeeded", "errored", "canceled", "expired")
        counts = dict.fromkeys(kinds, 0)
        ended = batch["state"] != "going"
        for i in range(len(batch["requests"])):
            counts[result_of(batch, i)["type"] if ended else "processing"] += 1
        if batch.get("uncounted") and not ended:
            counts = dict.fromkeys(kinds, 0)
        results = f"http://elsewhere.invalid/v1/messages/batches/{batch['name']}/results"
        return {
            "id": batch["name"],
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": counts,
            "created_at": batch["created_at"],
            "expires_at": batch["created_at"],
            "ended_at": batch["created_at"] if ended else None,
            "cancel_initiated_at": None,
            "archived_at": batch.get("archived_at"),
            "results_url": results if ended else None,
        }

    async def _list(self, request: web.Request) -> web.Response:
        self.reach("list")
        batches = [self.look(request, batch) for batch in self.batches.values()]
        ids = [batch["name"] for batch in batches[::-1]]
        after = request.query.get("after_id")
        page, more = self.listed(batches, ids.index(after) + 1 if after else 0, 2)
        return web.json_response({"data": [self.shown(batch) for batch in page], "has_more": more})

    async def _retrieve(self, request: web.Request) -> web.Response:
        self.reach("retrieve")
        if (batch := self.batches.get(request.match_info["id"])) is None:
            return refused(404, "not_found_error", "no such batch")
        return web.json_response(self.shown(self.look(request, batch)))

    async def _results(self, request: web.Request) -> web.Response:
        self.reach("download")
        batch = self.batches[request.match_info["id"]]
        self.downloads.append(batch["name"])
        if batch["state"] == "going" or self.missing > 0:
            self.missing -= 1
            return refused(404, "not_found_error", "no results yet")
        ids = [id for id, _ in batch["requests"]]
        results = [{"custom_id": id, "result": result_of(batch, i)} for i, id in enumerate(ids)]
        text = "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in results[::-1])
        return web.Response(text=text, content_type="application/x-jsonl")


def result_of(batch: dict, i: int) -> dict:
    answer = batch["results"][i][1]
    if answer is None:
        return {"type": {"cancelled": "canceled"}.get(batch["state"], batch["state"])}
    if isinstance(answer, web.Response):
        return {"type": "errored", "error": json.loads(answer.text)}
    return {"type": "succeeded", "message": answer}


class GeminiBatchEndpoint(Batching, GeminiEndpoint):
    """`GET /v1beta/batches` gives two batches at once. Without pageSize it gives none, as the real one."""

    provider, model = "gemini", "gem"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.files: dict[str, bytes] = {}

    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1beta/models/{method}", self._post)
        router.add_post("/upload/v1beta/files", self.guarded(self._upload))
        router.add_get("/download/v1beta/files/{file}", self.guarded(self._download))
        router.add_get("/v1beta/batches", self.guarded(self._list))
        router.add_get("/v1beta/batches/{id}", self.guarded(self._retrieve))

    async def _post(self, request: web.Request) -> web.StreamResponse:
        is_batch = request.match_info["method"].endswith(":batchGenerateContent")
        return await (self.guarded(self._create)(request) if is_batch else self._answer(request))

    async def _upload(self, request: web.Request) -> web.Response:
        assert request.headers["x-goog-upload-protocol"] == "multipart"
        parts = [await part.read() async for part in await request.multipart()]
        self.reach("upload")
        assert set(json.loads(parts[0])) == {"file"}
        name = f"files/in{len(self.files)}"
        self.files[name] = bytes(parts[1])
        self.reach("uploaded")
        return web.json_response({"file": {"name": name, "sizeBytes": str(len(parts[1]))}})

    async def _download(self, request: web.Request) -> web.Response:
        self.reach("download")
        name, _, method = request.match_info["file"].partition(":")
        assert method == "download" and request.query["alt"] == "media"
        if f"files/{name}" not in self.files:
            return google_error(404, "NOT_FOUND", "no such file")
        return web.Response(body=self.files[f"files/{name}"], content_type="application/jsonl")

    async def _create(self, request: web.Request) -> web.Response:
        raw = await request.read()
        batch = json.loads(raw)["batch"]
        self.reach("create")
        assert batch["displayName"] and batch.keys() == {"displayName", "inputConfig"}
        ((kind, source),) = batch["inputConfig"].items()
        if kind == "fileName":
            rows = [json.loads(line) for line in self.files[source].splitlines()]
            requests = [(row["key"], row["request"]) for row in rows]
        else:
            assert len(raw) <= 20_000_000
            requests = [(row["metadata"]["key"], row["request"]) for row in source["requests"]]
        name, title = f"batches/{len(self.batches)}", batch["displayName"]
        fate = self.fate(len(self.batches))
        batch = self.add(name, requests, fate=fate, displayName=title, inline=kind != "fileName")
        if fate != "failed":
            self.lines.update(id for id, _ in requests)
        self.reach("created")
        return web.json_response(self.shown(batch))

    def shown(self, batch: dict) -> dict:
        """The operation of a batch; the counts are texts, and those of 0 are left out."""
        state = {"going": "running", "completed": "succeeded"}.get(batch["state"], batch["state"])
        stats = {"requestCount": str(len(batch["requests"]))}
        metadata = {"displayName": batch["displayName"], "state": f"BATCH_STATE_{state.upper()}"}
        shown = {"name": batch["name"], "metadata": metadata | {"batchStats": stats}}
        if state == "running":
            return shown
        if state == "failed":
            return shown | {"done": True, "error": {"code": 3, "message": "model gem is not known"}}
        if state == "expired":
            return shown | {"done": True}
        if state == "cancelled":
            shown["error"] = {"code": 1, "message": "cancelled"}
        results = [result_line(id, answer, batch["inline"]) for id, answer in batch["results"]]
        stats["successfulRequestCount"] = str(sum("response" in result for result in results))
        if batch["inline"]:
            output = {"inlinedResponses": {"inlinedResponses": results}}
        else:
            output = {"responsesFile": f"files/batch-{batch['name'][8:]}"}
            text = "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in results)
            self.files[output["responsesFile"]] = text.encode()
        metadata["output"] = output
        return shown | {"done": True, "response": output}

    async def _list(self, request: web.Request) -> web.Response:
        self.reach("list")
        if "pageSize" not in request.query:
            return web.json_response({})
        after = int(request.query.get("pageToken", "0"))
        page, more = self.listed([*self.batches.values()], after, 2)
        answer = {"operations": [self.shown(batch) for batch in page]}
        return web.json_response(answer | ({"nextPageToken": str(after + 2)} if more else {}))

    async def _retrieve(self, request: web.Request) -> web.Response:
        self.reach("retrieve")
        if (batch := self.batches.get(f"batches/{request.match_info['id']}")) is None:
            return google_error(404, "NOT_FOUND", "no such batch")
        shown = self.shown(self.look(request, batch))
        if "response" in shown and batch["inline"]:
            self.reach("download")
        return web.json_response(shown)

    def answer(self, request: web.Request, body: dict):
        return super().answer(Asked(request, self.model), body)


class Asked:
    """A request for a batch, as the protocol's own server sees one of its lines."""

    def __init__(self, request: web.Request, model: str):
        self.headers, self.match_info = request.headers, {"method": f"{model}:generateContent"}


CODES = {400: 3, 404: 5, 429: 8, 500: 13, 503: 14}


def result_line(id: str, answer, inline: bool) -> dict:
    line = {"metadata": {"key": id}} if inline else {"key": id}
    if answer is None:
        return line | {"error": {"code": 1, "message": "the batch was cancelled"}}
    if isinstance(answer, web.Response):
        error = json.loads(answer.text)["error"]
        return line | {"error": {"code": CODES[answer.status], "message": error["message"]}}
    return line | {"response": answer}
