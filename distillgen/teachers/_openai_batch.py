"""The batch API of OpenAI and others: requests gathered into files, answered within a day for about half the price.

Each step of a submission is durable before the next one is taken, and a batch carries an id of ours as metadata. So a
process that is killed at any instant finds its batches again: no line is paid for twice, and no answer is lost.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from distillgen.inference.faults import Rejected, Retryable, TeacherDown
from distillgen.inference.outcome import succeeded
from distillgen.inference.request import LOST_ANSWER, Completion, Request
from distillgen.record import dumps
from distillgen.teachers._addresses import Place
from distillgen.teachers._openai_client import OpenAIClient
from distillgen.teachers._openai_wire import completions_of, read_json
from distillgen.teachers._refusal import NothingThere, NotTaken

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

T = TypeVar("T")

log = logging.getLogger("distillgen")

FILE_BYTES = 200_000_000
KEY_DIGITS = 48  # of a ledger key's 64, for some endpoints take no custom_id of more than 64 characters
UPLOADS = 4  # tries after the first
QUEUE_PAUSES = 10  # longest waits between looks, before a full queue is tried again
LOOKS = 20  # at a batch that has ended, for results that are paid for and not there yet; about 7 minutes
_QUEUE_FULL = re.compile("token_limit_exceeded|enqueued token", re.IGNORECASE)

Outcome = list[Completion] | Exception


class Outcomes(dict[str, Outcome | None]):
    """What the lines of a batch came to by custom_id, and what that is for a line without a result; None: it is to go into
    a new batch.
    """

    missing: Exception | None = None

    def take(self, custom_id: str) -> Outcome | None:
        """A line's outcome, once: a line that is to be asked again is in this batch no longer."""
        outcome = self.pop(custom_id, self.missing)
        if isinstance(outcome, Retryable):
            self[custom_id] = None
        return outcome


class ResultsMissing(TeacherDown):
    """A batch has ended and is paid for, and its results do not come. Its lines are not submitted again: the next run looks."""


class QueueFull(Exception):
    """The account has as many tokens enqueued as it may have; once other batches have ended there is room again."""


class Batches:
    """What a teacher has at a batch API: its requests are gathered and submitted, and what comes back is handed out.

    A batch is known by our uuid, its uploaded file and its id at the endpoint, the latter two empty until there are any.
    """

    def __init__(self, teacher: OpenAIClient, place: Place) -> None:
        self.teacher, self.spec, self.place, self.ledger = (
            teacher,
            teacher.spec,
            place,
            teacher.services.ledger,
        )
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
        body = self.teacher.body(request, len(samples), attempt, samples[0])
        outcome: Outcome | None = None
        if submission := self.ledger.find_batch(custom_id):
            task = self._tasks.get(submission[0]) or self._start(submission[0], self._resume(*submission))
            outcome = (await asyncio.shield(task)).take(custom_id)
            if isinstance(outcome, (Retryable, TeacherDown)) and not isinstance(outcome, ResultsMissing):
                if getattr(outcome, "used", None):
                    raise outcome  # it is billed, and asked again as a fault that passes
                outcome = None  # that batch has nothing more to give
        if outcome is None:
            task = self._gather(custom_id, self.teacher.fitted(body))
            outcome = (await asyncio.shield(task)).take(custom_id)
        if outcome is None:
            raise Retryable("the batch was not made")
        if isinstance(outcome, Exception):
            raise outcome
        return self.teacher.marked(outcome, body)

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
        line = (
            dumps(
                {"custom_id": custom_id, "method": "POST", "url": self._path, "body": body}, sort_keys=False
            )
            + b"\n"
        )
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
                return await self._outcomes(uuid, batch, LOOKS)
            except QueueFull as error:
                await self._wait_out(str(error), QUEUE_PAUSES * self.spec.poll_s)
                uuid = uuid4().hex

    async def _resume(self, uuid: str, file: str, batch: str) -> Outcomes:
        """What there is of a submission that broke off; nothing where the endpoint made no batch of it."""
        if batch := batch or (await self._find(uuid) if file else ""):
            await self.ledger.add_batch(uuid, file, batch)
            with suppress(QueueFull):
                return await self._outcomes(uuid, batch)
        await self.ledger.forget_batch(uuid)
        return Outcomes()

    async def _outcomes(self, uuid: str, batch: str, looks: int = 1) -> Outcomes:
        """Every result of a batch once it has ended, and what is to become of a line that has none.

        A new batch may take so many `looks` to be known everywhere at the endpoint.
        """
        ended = await self._ended(batch, looks)
        if ended.status == "failed" and not (ended.output_file_id or ended.error_file_id):
            await self.ledger.forget_batch(uuid)
            errors = (ended.errors.data if ended.errors else None) or []
            why = "; ".join(
                f"{e.code}: {e.message}{f' (line {e.line})' if e.line else ''}" for e in errors[:3]
            )
            if _QUEUE_FULL.search(why):
                raise QueueFull(self.teacher.redact(why))
            raise self.teacher.down(
                f"{batch} was not accepted: {why}. None of it was asked; mend that and run again"
            )
        pause_s, lines = min(1.0, self.spec.poll_s), self.ledger.lines_of_batch(uuid)
        for _ in range(LOOKS):
            outcomes, results, flaw = await self._results(ended)
            due = _due(ended, lines)
            lack = flaw or (f"its files hold {results:,} of {due:,} results" if results < due else "")
            if not lack:
                break
            await self._wait_out(f"{batch} has ended ({ended.status}), but {lack}", pause_s)
            pause_s = min(1.5 * pause_s, max(2.0, self.spec.poll_s))
            ended = await self._retrieved(batch)
        remedy = "'mode: online' asks what is missing anew, and that is paid for again"
        if flaw:
            lost = f"{batch} has ended ({ended.status}) and is paid for, but {flaw}. None of it was submitted again"
            again = f"the same command looks for its results once more; {remedy}"
            outcomes.missing = ResultsMissing(str(self.teacher.down(f"{lost}; {again}")))
        elif ended.status == "cancelled":
            kept = "what it answered is kept, and running again asks the rest"
            outcomes.missing = self.teacher.down(f"{batch} was cancelled; {kept}")
        elif lack:
            again = "--retry-failed asks it again, and that is paid for again"
            why = f"{batch} ended ({ended.status}), but {lack}, and none is this request's; {again}"
            outcomes.missing = Rejected(why, used=LOST_ANSWER)
        else:
            outcomes.missing = Retryable(f"{batch} ended ({ended.status}) without an answer to this request")
        return outcomes

    async def _results(self, ended: Batch) -> tuple[Outcomes, int, str]:
        """What the files of a batch hold now: the outcomes, the number of lines, and why there may be more."""
        outcomes, results, flaw = Outcomes(), 0, ""
        files = [file for file in (ended.error_file_id, ended.output_file_id) if file]
        if not files and (ended.status == "completed" or _due(ended, 1)):
            flaw = "there is no file of results"
        for file in files:
            try:
                content = await self._insist(lambda client, file=file: client.files.content(file))  # type: ignore[misc]
            except NothingThere as error:
                flaw = f"its file {file} is not there: {error}"
                continue
            for (
                line
            ) in content.content.splitlines():  # as bytes: a text has more ends of lines than JSON knows
                try:
                    result = read_json(line)
                    custom_id = result["custom_id"]
                    outcome = self._outcome(result.get("response") or {}, result.get("error") or {})
                except (Retryable, AttributeError, KeyError, TypeError) as error:
                    flaw = (
                        f"a line of its file {file} cannot be read: {self.teacher.redact(repr(error))[:80]}"
                    )
                    continue
                results += 1
                if outcome:
                    outcomes[custom_id] = outcome
        return outcomes, results, flaw

    async def _ended(self, batch: str, looks: int) -> Batch:
        """Look after a batch, less and less often, until it has ended."""
        pause_s = min(1.0, self.spec.poll_s)
        self._tell(batch, "submitted")
        try:
            while True:
                report = await self._retrieved(batch, looks)
                if report.status in ("completed", "expired", "cancelled", "failed"):
                    return report
                n = report.request_counts
                self._tell(
                    batch,
                    f"{n.completed + n.failed:,} of {n.total:,} done" if n and n.total else report.status,
                )
                await self._pause(pause_s)
                pause_s = min(1.5 * pause_s, self.spec.poll_s)
        finally:
            self._tell(batch)

    async def _retrieved(self, batch: str, looks: int = 1) -> Batch:
        report = await self._insist(lambda client: client.batches.retrieve(batch), looks)
        report.status = report.status.lower()  # type: ignore[assignment]  # some endpoints shout
        return report

    def _tell(self, batch: str, how: str = "") -> None:
        """Say how the batches stand that are waited for; without `how`, this one no longer is."""
        self._standing = {name: said for name, said in {**self._standing, batch: how}.items() if said}
        self.teacher.activity.note = "; ".join(
            f"batch {name}: {said}" for name, said in self._standing.items()
        )

    def _outcome(self, response: Mapping[str, Any], error: Mapping[str, Any]) -> Outcome | None:
        """What a result says, understood as it would be online; None where the batch had ended before it was asked."""
        if response.get("status_code") == 200:
            try:
                return completions_of(response["body"])
            except Retryable as unusable:
                return unusable
        if response:
            refusal = self.teacher.refusal_of(
                self.place, response["status_code"], dumps(response.get("body")), {}
            )
            if not isinstance(refusal, NotTaken):
                return refusal
            self.teacher.learn(frozenset({refusal.name}))
            return Retryable(str(refusal))  # the next batch goes without it
        code = str(error.get("code"))
        if code in ("batch_expired", "batch_cancelled"):
            return None
        return (Rejected if "invalid" in code else Retryable)(
            self.teacher.redact(f"{code}: {error.get('message')}")
        )

    async def _upload(self, content: bytes) -> str:
        options: Any = {"file": ("distillgen.jsonl", content), "purpose": "batch"}
        made = await self._call(
            lambda client: client.with_options(max_retries=UPLOADS).files.create(**options)
        )
        return _id_of(made)

    async def _create(self, uuid: str, file: str) -> str:
        options: Any = {"endpoint": self._path, "completion_window": "24h", "metadata": {"distillgen": uuid}}
        try:
            return _id_of(
                await self._call(lambda client: client.batches.create(input_file_id=file, **options))
            )
        except Retryable:
            if made := await self._find(uuid):  # it was made, and only the answer did not come
                return made
            raise

    async def _find(self, uuid: str) -> str:
        """The batch that was made with our uuid, if any; one that was made a moment ago may not be listed yet."""

        async def find(client: AsyncOpenAI) -> list[str]:
            return [
                b.id
                async for b in client.batches.list(limit=100)
                if (b.metadata or {}).get("distillgen") == uuid
            ]

        for pause_s in (0.0, self.spec.poll_s):
            await self._pause(pause_s)
            if found := await self._insist(find):
                return found[0]
        return ""

    async def _insist(self, send: Callable[[AsyncOpenAI], Awaitable[T]], looks: int = 1) -> T:
        """Ask about what is at the endpoint, and paid for: an outage is waited out, however long; what is not there is looked
        for so many times.
        """
        while True:
            try:
                return await self._call(send, "what is there is safe; mend that and run again")
            except Retryable as error:
                await self._wait_out(str(error), self.spec.poll_s)
            except NothingThere as error:
                looks -= 1
                if looks <= 0:
                    raise
                await self._wait_out(str(error), self.spec.poll_s)

    async def _wait_out(self, reason: str, pause_s: float) -> None:
        self.teacher.activity.note = self.teacher.redact(
            " ".join(f"waiting for the batch API: {reason}".split())
        )
        log.warning("%s: %s", self.teacher.name, self.teacher.activity.note)
        await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> None:
        """Sleep; that nothing moves meanwhile is as it should be, and no reason for an alarm."""
        self.teacher.activity.moved_at = time.monotonic() + pause_s
        await asyncio.sleep(pause_s)

    async def _call(
        self,
        send: Callable[[AsyncOpenAI], Awaitable[T]],
        remedy: str = "none of it was asked; mend that and run again",
    ) -> T:
        """Ask the batch API for something; what it rejects is the fault of no row."""
        try:
            return await self.teacher.by_package(self.place, send)
        except (Rejected, Retryable) as error:
            if _QUEUE_FULL.search(str(error)):
                raise QueueFull(str(error)) from error
            if isinstance(error, Rejected):
                raise self.teacher.down(f"the batch API refuses: {error}; {remedy}") from error
            raise


def _id_of(made: Any) -> str:
    """The id of a file or batch. Raises Retryable where the answer, which came with status 200, names none."""
    if name := getattr(made, "id", None):
        return str(name)
    raise Retryable(f"the batch API gave no id: {made}")


def _due(ended: Batch, lines: int) -> int:
    """How many results a batch of so many lines must have given: all of a completed one, of another those that it counts."""
    counts = ended.request_counts
    if ended.status == "completed" or not counts or not counts.total:
        return lines
    return counts.completed + counts.failed
