"""Anthropic's Message Batches.

Such a batch has no name and no metadata, and shows the custom_ids of its requests when it has ended. So these
begin with a mark of the submission, and the batch of an interrupted submission is looked for among those that
were created at that time, and read once they have ended.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from distillgen.teachers._batch_api import FINAL_STATES, BatchApi, LineResult, Report, usable
from distillgen.teachers._native_client import NativeClient
from distillgen.teachers._openai_wire import read_json

MARK_DIGITS = 10  # of our uuid; with it, a custom_id has at most 64 characters
CLOCK_S = 3600.0  # by which this machine's clock may differ from the endpoint's
PAGE = 100
_PATH = "v1/messages/batches"
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The statuses that errors of these types have online; others have 500."""


class AnthropicBatches(BatchApi):
    """Speaks the protocol of Message Batches."""

    client: NativeClient
    queue_full = re.compile("HTTP (429|529)\\b")

    def line(self, custom_id: str, body: Mapping[str, Any]) -> bytes:
        """Return the parameters of a message."""
        return self.client.content(body)

    async def create(self, uuid: str, file: str, lines: Mapping[str, bytes]) -> str:
        """Create a batch of lines."""
        requests = (
            b'{"custom_id":"%s-%s","params":%s}' % (_mark(uuid).encode(), custom_id.encode(), line)
            for custom_id, line in lines.items()
        )
        answer = await self.client.fetch_json(self.place, _PATH, b'{"requests":[%s]}' % b",".join(requests))
        with usable():
            return str(answer["id"])

    async def look(self, batch: str) -> Report:
        """Return the state of a batch."""
        answer = await self.client.fetch_json(self.place, f"{_PATH}/{batch}")
        with usable():
            return _report(answer)

    async def find(self, uuid: str, basis: str) -> str:
        """Return the id of the batch with our uuid: wait until those that may be it have ended."""
        foreign = set[str]()
        while candidates := [
            (id, report)
            for id, report in await self.insist(lambda: self._candidates(uuid, float(basis)))
            if id not in foreign
        ]:
            for id, report in candidates:
                if report.status in FINAL_STATES:
                    if await self._begins_with(report, f"{_mark(uuid)}-"):
                        return id
                    foreign.add(id)
            if waiting := " or ".join(id for id, report in candidates if report.status not in FINAL_STATES):
                self.note(waiting, "may be of this run, which shows when it has ended")
                try:
                    await self.pause(self.spec.poll_s)
                finally:
                    self.note(waiting)
        return ""

    async def _begins_with(self, report: Report, mark: str) -> bool:
        """Return whether the custom_ids in the results of a batch begin with a mark."""
        for source in report.sources.values():
            lines = await self.insist(lambda source=source: self.lines_at(source), self.looks)  # type: ignore[misc]
            with usable():
                return any(str(read_json(line)["custom_id"]).startswith(mark) for line in lines[:1])
        return False

    async def _candidates(self, uuid: str, moment: float) -> list[tuple[str, Report]]:
        """Return the batches that a creation at a moment may have made, and no other submission."""
        earliest, latest = moment - CLOCK_S, moment + self.spec.timeout_s + CLOCK_S
        candidates, after, lines = list[tuple[str, Report]](), "", self.ledger.lines_of_batch(uuid)
        while True:  # the newest are listed first
            page = await self.client.fetch_json(self.place, f"{_PATH}?limit={PAGE}{after}")
            with usable():
                for batch in page["data"]:
                    id, report = str(batch["id"]), _report(batch)
                    after = f"&after_id={id}"
                    created_at = datetime.fromisoformat(batch["created_at"]).timestamp()
                    if created_at < earliest:
                        return candidates
                    large = not report.total or report.total >= lines
                    if created_at <= latest and large and not self.ledger.has_batch(id):
                        candidates.append((id, report))
            if not page.get("has_more") or not page["data"]:
                return candidates

    async def lines_at(self, source: Any) -> Sequence[Any]:
        """Return the lines of the results."""
        return [line for line in (await self.client.fetch(self.place, source)).splitlines() if line]

    def result_of(self, line: Mapping[str, Any]) -> tuple[str, LineResult | None]:
        """Return the custom_id of a line, without the mark, and its result."""
        custom_id, result = line["custom_id"].partition("-")[2], line["result"]
        match result["type"]:
            case "succeeded":
                return custom_id, self.answer_of(result["message"])
            case "errored":
                error = result["error"].get("error") or result["error"]
                return custom_id, self.refusal_of(_STATUS.get(error.get("type"), 500), {"error": error})
            case _:  # expired, canceled
                return custom_id, None


def _mark(uuid: str) -> str:
    return uuid[:MARK_DIGITS]


def _report(batch: Mapping[str, Any]) -> Report:
    """Return what a batch says of itself. Each of its requests has a result when it has ended."""
    counts = batch["request_counts"]
    status, total = str(batch["processing_status"]), sum(counts.values())
    if status != "ended":
        return Report(status, total - counts.get("processing", 0), total)
    status = "cancelled" if counts.get("canceled") else "expired" if counts.get("expired") else "completed"
    sources = {} if batch.get("archived_at") else {"of results": f"{_PATH}/{batch['id']}/results"}
    return Report(status, total, total, total or None, sources)
