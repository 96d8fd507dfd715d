"""An endpoint that also speaks OpenAI's files and batches, and ends a batch in any way a test chooses."""

import json
from collections import Counter

from aiohttp import web

from tests.endpoint import Endpoint, completion

STATES = ("validating", "in_progress", "finalizing")


def line_error(code: str) -> dict:
    """What a line says that was never asked."""
    return {
        "response": None,
        "error": {"code": code, "message": f"the request met {code} with the key secret-key-123"},
    }


class BatchEndpoint(Endpoint):
    """`fate(number)` says how the batch of that number ends. `step(name)` is called at each step of the
    protocol and says whether the connection breaks there, or raises another answer. A batch moves on whenever
    it is looked at, unless it is `held`; so many lists as `late` says do not show the newest one yet. `flaw`
    is what is wrong with the results of an ended batch, the first `flawed` times that they are looked at: no
    file, a file that is not there, that breaks (500), is cut off, or lacks lines. `redirect` returns the
    address that a request is to go to, or "".
    """

    flaw, flawed = "", 0

    def __init__(
        self, behave=None, *, fate=lambda number: "completed", step=lambda name: False, key="secret-key-123"
    ):
        super().__init__(behave)
        self.fate, self.step, self.key = fate, step, key
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.held, self.late = False, 0
        self.lines: Counter[str] = Counter()
        self.steps: list[str] = []
        self.redirect = lambda request: ""

    def routes(self, router: web.UrlDispatcher) -> None:
        super().routes(router)
        router.add_post("/v1/files", self.guarded(self._upload))
        router.add_get("/v1/files/{id}/content", self.guarded(self._content))
        router.add_post("/v1/batches", self.guarded(self._create))
        router.add_get("/v1/batches", self.guarded(self._list))
        router.add_get("/v1/batches/{id}", self.guarded(self._retrieve))

    def guarded(self, handle):
        async def checked(request: web.Request) -> web.StreamResponse:
            if address := self.redirect(request):
                return web.Response(status=307, headers={"location": address})
            if request.headers.get("Authorization") != f"Bearer {self.key}":
                return refused(401, "wrong key")
            return await handle(request)

        return checked

    def reach(self, name: str) -> None:
        self.steps.append(name)
        if self.step(name):
            raise ConnectionResetError

    async def _upload(self, request: web.Request) -> web.Response:
        parts = {part.name: await part.read() async for part in await request.multipart()}
        self.reach("upload")
        assert parts["purpose"] == b"batch"
        file = f"file-{len(self.files)}"
        self.files[file] = bytes(parts["file"])
        self.reach("uploaded")
        return web.json_response(
            {
                "id": file,
                "object": "file",
                "bytes": len(self.files[file]),
                "created_at": 1,
                "filename": "x.jsonl",
                "purpose": "batch",
                "status": "processed",
            }
        )

    async def _content(self, request: web.Request) -> web.Response:
        self.reach("download")
        content = self.files[request.match_info["id"]]
        if (
            self.flaw
            and self.flaw != "no file"
            and self.flawed > 0
            and not request.match_info["id"].endswith("error")
        ):
            self.flawed -= 1
            if self.flaw in ("404", "500"):
                return refused(int(self.flaw), "no such file yet")
            content = content[:-30] if self.flaw == "cut" else b"\n".join(content.splitlines()[:-2])
        return web.Response(body=content, content_type="application/octet-stream")

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.reach("create")
        if asked["input_file_id"] not in self.files:
            return refused(400, "no such file")
        batch = {
            "id": f"batch_{len(self.batches)}",
            "object": "batch",
            "status": "validating",
            "created_at": len(self.batches),
            **asked,
        }
        self.batches[batch["id"]] = batch
        lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        batch["fate"], batch["errors"] = (
            self.fate(len(self.batches) - 1),
            self.validated(lines, asked["endpoint"]),
        )
        if batch["errors"]:
            batch["fate"] = "failed"
        elif batch["fate"] == "full":
            message = "Enqueued token limit reached for m. Limit: 9 enqueued tokens."
            batch["fate"], batch["errors"] = (
                "failed",
                {"data": [{"code": "token_limit_exceeded", "message": message, "line": None}]},
            )
        if batch["fate"] != "failed":
            self.lines.update(line["custom_id"] for line in lines)
            batch["request_counts"] = {"total": len(lines), "completed": len(lines) // 3, "failed": 0}
        self.reach("created")
        return web.json_response(batch)

    def validated(self, lines, endpoint) -> dict | None:
        assert (
            len(lines) <= 50_000
            and endpoint == lines[0]["url"]
            and all(line["method"] == "POST" for line in lines)
        )
        assert len({line["custom_id"] for line in lines}) == len(lines) and all(
            len(line["custom_id"]) <= 64 for line in lines
        )
        wrong = [i for i, line in enumerate(lines, 1) if line["body"]["model"] != "m"]
        return (
            {"data": [{"code": "model_not_found", "message": "no such model", "line": i} for i in wrong]}
            if wrong
            else None
        )

    async def _list(self, request: web.Request) -> web.Response:
        """Newest first, never more than two at once."""
        self.reach("list")
        newest = [*self.batches.values()][::-1][self.late > 0 :]
        self.late -= 1
        start = next((i + 1 for i, b in enumerate(newest) if b["id"] == request.query.get("after")), 0)
        page = newest[start : start + 2]
        return web.json_response({"object": "list", "data": page, "has_more": start + 2 < len(newest)})

    async def _retrieve(self, request: web.Request) -> web.Response:
        self.reach("retrieve")
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return refused(404, "no such batch")
        if batch["status"] in STATES and not self.held:
            batch["status"] = (*STATES, batch["fate"])[STATES.index(batch["status"]) + 1]
            if batch["status"] not in (*STATES, "failed"):
                self.end(batch)
        if self.flaw == "no file" and self.flawed > 0 and batch["status"] not in STATES:
            self.flawed -= 1
            return web.json_response(
                {
                    name: value
                    for name, value in batch.items()
                    if name not in ("output_file_id", "error_file_id")
                }
            )
        return web.json_response(batch)

    def end(self, batch: dict) -> None:
        """Write its files. One that expired or was cancelled has answered half; the former is silent about
        some of the rest.
        """
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        results = []
        for i, line in enumerate(lines):
            unasked = batch["status"] != "completed" and i >= len(lines) // 2
            if batch["status"] == "expired" and unasked and i % 3 == 0:
                continue
            result = line_error(f"batch_{batch['status']}") if unasked else self.result(line["body"])
            results.append({"id": f"batch_req_{i}", "custom_id": line["custom_id"], "error": None, **result})
        good = [r for r in results if (r["response"] or {}).get("status_code") == 200]
        for name, some in (("output", good[::-1]), ("error", [r for r in results if r not in good])):
            if some:
                batch[f"{name}_file_id"] = file = f"file-{batch['id']}-{name}"
                self.files[file] = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in some).encode()
        batch["request_counts"] = {
            "total": len(lines),
            "completed": len(good),
            "failed": len(results) - len(good),
        }

    def result(self, body: dict) -> dict:
        key = json.dumps(body)
        self.asked[key] += 1
        self.bodies.append(body)
        given = self.behave(body, self.asked[key]) if self.behave else None
        if isinstance(given, web.Response):
            return {
                "response": {"status_code": given.status, "request_id": "x", "body": json.loads(given.text)}
            }
        if isinstance(given, dict) and "response" in given:
            return given
        return {
            "response": {
                "status_code": 200,
                "request_id": "x",
                "body": completion(body) if given is None else given,
            }
        }


def refused(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": "x"}}, status=status)
