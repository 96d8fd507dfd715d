"""Batches of the Gemini API: models.batchGenerateContent, with the requests inline, or in a file if they are
large.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from distillgen.inference.faults import Retryable
from distillgen.record import dumps
from distillgen.teachers._batch_api import BatchApi, LineResult, Report, usable
from distillgen.teachers._native_client import NativeClient
from distillgen.teachers._turns import mappings

INLINE_BYTES = 19_000_000  # the endpoint takes 20 MB
FILE_BYTES = 200_000_000  # the endpoint takes 2 GB
PAGE = 100
_BOUNDARY = "distillgen-batch"
_STATES = {"succeeded": "completed", "partially_succeeded": "completed"}
_STATUS = {3: 400, 5: 404, 7: 403, 8: 429, 9: 400, 11: 400, 12: 501, 14: 503, 16: 401}
"""The statuses of HTTP for codes of google.rpc.Status; others are 500. 1 is a request that was cancelled."""
_CANCELLED = 1


class GeminiBatches(BatchApi):
    """Speaks the protocol of batchGenerateContent. A batch has our uuid in its display name."""

    client: NativeClient
    queue_full = re.compile("HTTP 429\\b")
    most_bytes = FILE_BYTES

    def line(self, custom_id: str, body: Mapping[str, Any]) -> bytes:
        """Return the request as it is sent online."""
        return self.client.content(body)

    async def upload(self, lines: Mapping[str, bytes]) -> str:
        """Upload a file, unless the lines can be sent at the creation."""
        if sum(map(len, lines.values())) + 100 * len(lines) < INLINE_BYTES:
            return ""
        rows = b"\n".join(
            b'{"key":"%s","request":%s}' % (custom_id.encode(), line) for custom_id, line in lines.items()
        )
        head = b'{"file":{"displayName":"distillgen.jsonl"}}'
        content = _related(("application/json", head), ("application/jsonl", rows))
        headers = {
            "content-type": f"multipart/related; boundary={_BOUNDARY}",
            "x-goog-upload-protocol": "multipart",
        }
        path = self._beside("upload", "files")
        return _name_of((await self.client.fetch_json(self.place, path, content, headers)).get("file"))

    async def create(self, uuid: str, file: str, lines: Mapping[str, bytes]) -> str:
        """Create a batch of a file, or of lines."""
        rows = b",".join(
            b'{"metadata":{"key":"%s"},"request":%s}' % (custom_id.encode(), line)
            for custom_id, line in lines.items()
        )
        source = b'{"requests":{"requests":[%s]}}' % rows if lines else dumps({"fileName": file})
        content = b'{"batch":{"displayName":"%s","inputConfig":%s}}' % (_title(uuid).encode(), source)
        model = self.client.model if "/" in self.client.model else f"models/{self.client.model}"
        path = f"{model}:batchGenerateContent"
        return _name_of(await self.client.fetch_json(self.place, path, content))

    async def look(self, batch: str) -> Report:
        """Return the state of a batch, with its results if they are inline."""
        answer = await self.client.fetch_json(self.place, batch)
        with usable():
            return _report(answer)

    async def find(self, uuid: str, basis: str) -> str:
        """Return the id of the batch with our uuid, or ""."""
        token = ""
        while True:
            page = await self.client.fetch_json(self.place, f"batches?pageSize={PAGE}{token}")
            for batch in mappings(page.get("operations")):
                if (batch.get("metadata") or {}).get("displayName") == _title(uuid):
                    return _name_of(batch)
            if not page.get("nextPageToken"):
                return ""
            token = f"&pageToken={quote(page['nextPageToken'], safe='')}"

    async def lines_at(self, source: Any) -> Sequence[Any]:
        """Return the lines of a file, or results that came inline."""
        if not isinstance(source, str):
            return mappings(source)
        path = f"{self._beside('download', source)}:download?alt=media"
        return [line for line in (await self.client.fetch(self.place, path)).splitlines() if line]

    def _beside(self, verb: str, name: str) -> str:
        """Return the address of a file, which has a verb before the version."""
        before, _, version = self.place.address.base_url.rstrip("/").rpartition("/")
        return f"{before}/{verb}/{version}/{name}"

    def result_of(self, line: Mapping[str, Any]) -> tuple[str, LineResult | None]:
        """Return the custom_id of a line and its result."""
        custom_id = line["key"] if "key" in line else line["metadata"]["key"]
        if not (error := line.get("error")):
            return custom_id, self.answer_of(line.get("response") or {})
        if (code := error.get("code", 0)) == _CANCELLED:
            return custom_id, None
        return custom_id, self.refusal_of(code if code >= 400 else _STATUS.get(code, 500), {"error": error})


def _title(uuid: str) -> str:
    return f"distillgen-{uuid}"


def _name_of(answer: Any) -> str:
    """Return the name of a file or batch. Raise Retryable if the answer has none."""
    if isinstance(answer, dict) and (name := answer.get("name")):
        return str(name)
    raise Retryable(f"the batch API gave no name: {answer}")


def _related(*parts: tuple[str, bytes]) -> bytes:
    """Return the content of a multipart/related request."""
    pieces = (
        b"--%s\r\nContent-Type: %s\r\n\r\n%s\r\n" % (_BOUNDARY.encode(), kind.encode(), content)
        for kind, content in parts
    )
    return b"%s--%s--\r\n" % (b"".join(pieces), _BOUNDARY.encode())


def _report(operation: Mapping[str, Any]) -> Report:
    """Return what the operation of a batch says of it."""
    metadata, error = operation.get("metadata") or {}, operation.get("error") or {}
    state = str(metadata.get("state", "")).lower().rpartition("state_")[2]  # of batch_state or job_state
    if operation.get("done") and state in ("", "pending", "running"):
        state = "cancelled" if error.get("code") == _CANCELLED else "failed" if error else "succeeded"
    stats = metadata.get("batchStats") or {}
    total, good, bad = (int(stats.get(f"{name}equestCount") or 0) for name in ("r", "successfulR", "failedR"))
    sources = dict(_sources((operation.get("response"), metadata.get("output"))))
    due = None if state in _STATES else 0
    return Report(_STATES.get(state, state), good + bad, total, due, sources, str(error.get("message", "")))


def _sources(outputs: Iterable[Any]) -> Iterable[tuple[str, Any]]:
    """Yield what holds the results, by name; the operation may repeat it."""
    for output in outputs:
        output = output if isinstance(output, dict) else {}
        output = output.get("output") or output
        inline = output.get("inlinedResponses")
        if inline:
            yield "of results", inline.get("inlinedResponses") if isinstance(inline, dict) else inline
        elif file := output.get("responsesFile"):
            yield str(file), str(file)
