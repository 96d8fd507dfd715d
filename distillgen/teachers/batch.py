"""The batch API of OpenAI and others: requests gathered into files, answered within a day for about half the price.

Each step of a submission is durable before the next one is taken, and a batch carries an id of ours as metadata. So a
process that is killed at any instant finds its batches again: no line is paid for twice, and no answer is lost.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from distillgen.record import dumps
from distillgen.teachers import Completion, Rejected, Request, Retryable, TeacherDown, succeeded
from distillgen.teachers.openai import OpenAI, Place, completions_of, read_json

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

T = TypeVar("T")

log = logging.getLogger("distillgen")

FILE_BYTES = 200_000_000
KEY_DIGITS = 48  # of a ledger key's 64, for some endpoints take no custom_id of more than 64 characters
UPLOADS = 4  # tries after the first
QUEUE_PAUSES = 10  # longest waits between looks, before a full queue is tried again
_QUEUE_FULL = re.compile("token_limit_exceeded|enqueued token", re.IGNORECASE)

Outcome = list[Completion] | Exception
Outcomes = dict[str, Outcome]


class QueueFull(Exception):
    """The account has as many tokens enqueued as it may have; once other batches have ended there is room again."""


class Batches:
    """What a teacher has at a batch API: its requests are gathered and submitted, and what comes back is handed out.

    A batch is known by our uuid, its uploaded file and its id at the endpoint, the latter two empty until there are any.
    """

    def __init__(self, teacher: OpenAI, place: Place) -> None:
        self.teacher, self.spec, self.place, self.ledger = teacher, teacher.spec, place, teacher.services.ledger
        self._path = "/v1/completions" if self.spec.api == "completions" else "/v1/chat/completions"
        self._tasks: dict[str, asyncio.Task[Outcomes]] = {}
        self._gathering: asyncio.Task[Outcomes]
        self._lines: dict[str, bytes] = {}
        self._bytes = 0
        self._standing: dict[str, str] = {}
        self._stopped: Exception | None = None

    async def ask(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """One line: what the last batch that it was put in says, also if that was in a former session, else a new one."""
        key = request.keys(self.teacher.identity, samples[0] + 1)[-1]
        custom_id = f"{key.hex()[:KEY_DIGITS]}-{attempt}"
        outcome: Outcome | None = None
        if found := self.ledger.find_batch(custom_id):
            task = self._tasks.get(found[0]) or self._start(found[0], self._resume(*found))
            outcome = (await asyncio.shield(task)).pop(custom_id, None)
        if outcome is None or isinstance(outcome, (Retryable, TeacherDown)):  # that batch has nothing more to give
            task = self._gather(custom_id, self.teacher.body(request, len(samples), attempt, samples[0]))
            outcome = (await asyncio.shield(task)).pop(custom_id)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def stop(self, reason: Exception) -> None:
        """Wait for nothing any more; `reason` is told what goes on at the endpoint."""
        self._stopped = reason
        if self._standing:
            remedy = "the same command waits for what is there, and asks only the rest"
            reason.add_note(f"at the endpoint, which goes on: {', '.join(self._standing)}; {remedy}")
        for task in self._tasks.values():
            task.cancel()

    def _start(self, uuid: str, work: Coroutine[Any, Any, Outcomes]) -> asyncio.Task[Outcomes]:
        task = self._tasks[uuid] = asyncio.create_task(work)

        def over(_: object) -> None:
            if not succeeded(task):  # whoever asks next begins anew
                del self._tasks[uuid]

        task.add_done_callback(over)
        return task

    def _gather(self, custom_id: str, body: Mapping[str, Any]) -> asyncio.Task[Outcomes]:
        """Put a line into the batch that is being gathered, or into the next one where that is full."""
        if self._stopped:
            raise self._stopped
        line = dumps({"custom_id": custom_id, "method": "POST", "url": self._path, "body": body}, sort_keys=False) + b"\n"
        self._bytes += len(line)
        if not self._lines or len(self._lines) == self.spec.batch_size or self._bytes > FILE_BYTES:
            self._lines, self._bytes, uuid = {}, len(line), uuid4().hex
            self._gathering = self._start(uuid, self._carry(uuid, self._lines))
        self._lines[custom_id] = line
        return self._gathering

    async def _carry(self, uuid: str, lines: dict[str, bytes]) -> Outcomes:
        """Wait until a batch is full or nothing more is asked, submit it, and wait for what comes of it."""
        seen = 0
        while lines is self._lines and seen < len(lines) < self.spec.batch_size:
            seen = len(lines)
            await asyncio.sleep(self.spec.gather_s)
        custom_ids, content = list(lines), b"".join(lines.values())
        lines.clear()
        await self.ledger.add_batch(uuid, "", "", custom_ids)
        file = await self._upload(content)
        del content
        while True:
            try:
                await self.ledger.add_batch(uuid, file, "", custom_ids)
                batch = await self._create(uuid, file)
                await self.ledger.add_batch(uuid, file, batch)
                return await self._outcomes(uuid, batch, custom_ids)
            except QueueFull as error:
                await self._wait_out(error, QUEUE_PAUSES * self.spec.poll_s)
                uuid = uuid4().hex

    async def _resume(self, uuid: str, file: str, batch: str) -> Outcomes:
        """What there is of a submission that broke off; nothing where the endpoint made no batch of it."""
        if batch := batch or (await self._find(uuid) if file else ""):
            await self.ledger.add_batch(uuid, file, batch)
            with suppress(QueueFull):
                return await self._outcomes(uuid, batch)
        await self.ledger.forget_batch(uuid)
        return {}

    async def _outcomes(self, uuid: str, batch: str, custom_ids: Sequence[str] = ()) -> Outcomes:
        """Every result of a batch once it has ended, and why there is none for the others of `custom_ids`."""
        ended = await self._ended(batch)
        if ended.status == "failed":
            await self.ledger.forget_batch(uuid)
            errors = (ended.errors.data if ended.errors else None) or []
            why = "; ".join(f"{e.code}: {e.message}{f' (line {e.line})' if e.line else ''}" for e in errors[:3])
            if _QUEUE_FULL.search(why):
                raise QueueFull(self.teacher.redact(why))
            raise self.teacher.down(f"{batch} was not accepted: {why}. None of it was asked; mend that and run again")
        outcomes: Outcomes = {}
        for file in filter(None, (ended.error_file_id, ended.output_file_id)):
            outcomes.update(self._read(await self._download(file)))
        cancelled = f"{batch} was cancelled; what it answered is kept, and running again asks the rest"
        expired = f"{batch} ended ({ended.status}) without an answer to this request"
        for custom_id in set(custom_ids).difference(outcomes):
            outcomes[custom_id] = self.teacher.down(cancelled) if ended.status == "cancelled" else Retryable(expired)
        return outcomes

    async def _ended(self, batch: str) -> Batch:
        """Look after a batch, less and less often, until it has ended."""
        pause_s = min(1.0, self.spec.poll_s)
        self._tell(batch, "submitted")
        try:
            while True:
                report = await self._insist(lambda client: client.batches.retrieve(batch))
                if report.status in ("completed", "expired", "cancelled", "failed"):
                    return report
                n = report.request_counts
                self._tell(batch, f"{n.completed + n.failed:,} of {n.total:,} done" if n and n.total else report.status)
                await self._pause(pause_s)
                pause_s = min(1.5 * pause_s, self.spec.poll_s)
        finally:
            self._tell(batch)

    def _tell(self, batch: str, how: str = "") -> None:
        """Say how the batches stand that are waited for; without `how`, this one no longer is."""
        self._standing = {name: said for name, said in {**self._standing, batch: how}.items() if said}
        self.teacher.activity.note = "; ".join(f"batch {name}: {said}" for name, said in self._standing.items())

    def _read(self, content: bytes) -> Iterator[tuple[str, Outcome]]:
        """The results in a file; a line that cannot be read is one that is not there."""
        for line in content.splitlines():  # as bytes: a text has more ends of lines than JSON knows
            try:
                result = read_json(line)
                if outcome := self._outcome(result.get("response") or {}, result.get("error") or {}):
                    yield result["custom_id"], outcome
            except (Retryable, AttributeError, KeyError, TypeError) as error:
                log.warning("%s: a result cannot be read: %s", self.teacher.name, self.teacher.redact(repr(error)))

    def _outcome(self, response: Mapping[str, Any], error: Mapping[str, Any]) -> Outcome | None:
        """What a result says, understood as it would be online; None where the batch had ended before it was asked."""
        if response.get("status_code") == 200:
            try:
                return completions_of(response["body"])
            except Retryable as unusable:
                return unusable
        if response:
            return self.teacher.refusal_of(self.place, response["status_code"], dumps(response.get("body")), {})
        code = str(error.get("code"))
        if code in ("batch_expired", "batch_cancelled"):
            return None
        return (Rejected if "invalid" in code else Retryable)(self.teacher.redact(f"{code}: {error.get('message')}"))

    async def _upload(self, content: bytes) -> str:
        options: Any = {"file": ("distillgen.jsonl", content), "purpose": "batch"}
        return (await self._call(lambda client: client.with_options(max_retries=UPLOADS).files.create(**options))).id

    async def _create(self, uuid: str, file: str) -> str:
        options: Any = {"endpoint": self._path, "completion_window": "24h", "metadata": {"distillgen": uuid}}
        try:
            return (await self._call(lambda client: client.batches.create(input_file_id=file, **options))).id
        except Retryable:
            if made := await self._find(uuid):  # it was made, and only the answer did not come
                return made
            raise

    async def _find(self, uuid: str) -> str:
        """The batch that was made with our uuid, if any; one that was made a moment ago may not be listed yet."""

        async def find(client: AsyncOpenAI) -> list[str]:
            return [b.id async for b in client.batches.list(limit=100) if (b.metadata or {}).get("distillgen") == uuid]

        for pause_s in (0.0, self.spec.poll_s):
            await self._pause(pause_s)
            if found := await self._insist(find):
                return found[0]
        return ""

    async def _download(self, file: str) -> bytes:
        return (await self._insist(lambda client: client.files.content(file))).content

    async def _insist(self, send: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        """Ask about what is at the endpoint, and paid for: an outage is waited out, however long."""
        while True:
            try:
                return await self._call(send)
            except Retryable as error:
                await self._wait_out(error, self.spec.poll_s)

    async def _wait_out(self, error: Exception, pause_s: float) -> None:
        self.teacher.activity.note = self.teacher.redact(" ".join(f"waiting for the batch API: {error}".split()))
        log.warning("%s: %s", self.teacher.name, self.teacher.activity.note)
        await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> None:
        """Sleep; that nothing moves meanwhile is as it should be, and no reason for an alarm."""
        self.teacher.activity.moved_at = time.monotonic() + pause_s
        await asyncio.sleep(pause_s)

    async def _call(self, send: Callable[[AsyncOpenAI], Awaitable[T]]) -> T:
        """Ask the batch API for something; what it rejects is the fault of no row."""
        try:
            return await self.teacher.by_package(self.place, send)
        except (Rejected, Retryable) as error:
            if _QUEUE_FULL.search(str(error)):
                raise QueueFull(str(error)) from error
            if isinstance(error, Rejected):
                remedy = "none of it was asked; mend that and run again"
                raise self.teacher.down(f"the batch API refuses: {error}; {remedy}") from error
            raise
