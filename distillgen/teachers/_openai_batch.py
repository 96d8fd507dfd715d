"""The batch API of OpenAI and others: a file of requests is uploaded, and a batch is made of it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from distillgen.inference.faults import Rejected, Retryable
from distillgen.record import dumps
from distillgen.teachers._addresses import Place
from distillgen.teachers._batch_api import LOOKS, BatchApi, LineResult, Report
from distillgen.teachers._openai_client import OpenAIClient
from distillgen.teachers._openai_spec import OpenAISpec

if TYPE_CHECKING:
    from openai import AsyncOpenAI

T = TypeVar("T")

FILE_BYTES = 200_000_000
UPLOADS = 4  # tries after the first


class OpenAIBatches(BatchApi):
    """Goes through the openai package. A batch has our uuid in its metadata."""

    client: OpenAIClient
    spec: OpenAISpec
    queue_full = re.compile("token_limit_exceeded|enqueued token", re.IGNORECASE)

    def __init__(self, client: OpenAIClient, spec: OpenAISpec, place: Place) -> None:
        super().__init__(client, spec, place)
        self.most_bytes, self.looks = FILE_BYTES, LOOKS
        self._path = "/v1/completions" if spec.api == "completions" else "/v1/chat/completions"

    def line(self, custom_id: str, body: Mapping[str, Any]) -> bytes:
        """Return the line of a file."""
        line = {"custom_id": custom_id, "method": "POST", "url": self._path, "body": body}
        return dumps(line, sort_keys=False) + b"\n"

    async def upload(self, lines: Mapping[str, bytes]) -> str:
        """Upload a file."""
        options: Any = {"file": ("distillgen.jsonl", b"".join(lines.values())), "purpose": "batch"}
        return _id_of(await self._call(lambda c: c.with_options(max_retries=UPLOADS).files.create(**options)))

    async def create(self, uuid: str, file: str, lines: Mapping[str, bytes]) -> str:
        """Create a batch of a file."""
        options: Any = {"endpoint": self._path, "completion_window": "24h", "metadata": {"distillgen": uuid}}
        return _id_of(await self._call(lambda c: c.batches.create(input_file_id=file, **options)))

    async def look(self, batch: str) -> Report:
        """Return the state of a batch."""
        report = await self._call(lambda client: client.batches.retrieve(batch))
        status, counts = report.status.lower(), report.request_counts  # some endpoints use capitals
        errors = (report.errors.data if report.errors else None) or []
        faults = [f"{e.code}: {e.message}{f' (line {e.line})' if e.line else ''}" for e in errors[:3]]
        total = counts.total if counts else 0
        done = counts.completed + counts.failed if counts and total else 0
        return Report(
            status,
            done,
            total,
            due=None if status == "completed" or not total else done,
            sources={file: file for file in (report.error_file_id, report.output_file_id) if file},
            fault="; ".join(faults),
        )

    async def find(self, uuid: str, basis: str) -> str:
        """Return the id of the batch with our uuid, or ""."""

        async def find(package: AsyncOpenAI) -> list[str]:
            return [
                b.id
                async for b in package.batches.list(limit=100)
                if (b.metadata or {}).get("distillgen") == uuid
            ]

        return next(iter(await self._call(find)), "")

    async def lines_at(self, source: Any) -> Sequence[Any]:
        """Return the lines of a file. It is read as bytes: a text has more line ends than JSON."""
        return (await self._call(lambda client: client.files.content(source))).content.splitlines()

    def result_of(self, line: Mapping[str, Any]) -> tuple[str, LineResult | None]:
        """Return the custom_id of a line and its result."""
        custom_id, response, error = line["custom_id"], line.get("response") or {}, line.get("error") or {}
        if response.get("status_code") == 200:
            return custom_id, self.answer_of(response["body"])
        if response:
            return custom_id, self.refusal_of(response["status_code"], response.get("body"))
        code = str(error.get("code"))
        if code in ("batch_expired", "batch_cancelled"):
            return custom_id, None
        fault = self.client.redact(f"{code}: {error.get('message')}")
        return custom_id, (Rejected if "invalid" in code else Retryable)(fault)

    async def _call(self, send: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        return await self.client.by_package(self.place, send)


def _id_of(answer: Any) -> str:
    """Return the id of a file or batch. Raise Retryable if the answer has none."""
    if name := getattr(answer, "id", None):
        return str(name)
    raise Retryable(f"the batch API gave no id: {answer}")
