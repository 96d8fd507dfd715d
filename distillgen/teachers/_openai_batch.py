"""The batch API of OpenAI and others: requests are gathered into files and answered within a day at about
half the price.

Each step of a submission is stored before the next one, and a batch has our uuid in its metadata. A process
that is killed finds its batches again in its next run: no line is paid for twice, and no answer is lost.
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
from distillgen.inference.teacher import REJECTIONS
from distillgen.record import dumps
from distillgen.teachers._addresses import Place
from distillgen.teachers._openai_client import OpenAIClient
from distillgen.teachers._openai_wire import completions_of, read_json
from distillgen.teachers._refusal import Misfit, NothingThere, NotTaken

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

T = TypeVar("T")

log = logging.getLogger("distillgen")

FILE_BYTES = 200_000_000
KEY_DIGITS = 48  # of the 64 of a ledger key: some endpoints limit a custom_id to 64 characters
UPLOADS = 4  # tries after the first
QUEUE_PAUSES = 10  # the pause before a full queue is tried again, in longest pauses between two looks
LOOKS = 20  # looks at an ended batch whose results are missing; they take about 7 minutes
_QUEUE_FULL = re.compile("token_limit_exceeded|enqueued token", re.IGNORECASE)

LineResult = list[Completion] | Exception


class LineResults(dict[str, LineResult | None]):
    """The results of a batch by custom_id. `missing` is the result of a line that has none. None means: ask
    again, in a new batch.
    """

    missing: Exception | None = None

    def take(self, custom_id: str) -> LineResult | None:
        """Remove and return the result of a line. A line with a temporary fault is asked again in a new
        batch.
        """
        result = self.pop(custom_id, self.missing)
        if isinstance(result, Retryable):
            self[custom_id] = None
        return result


class ResultsMissing(TeacherDown):
    """A batch has ended, and its results do not come. Its lines are paid for and not submitted again: the
    next run looks.
    """


class QueueFull(Exception):
    """The account has too many tokens enqueued; there is room once other batches have ended."""


class Batches:
    """The batches of one endpoint: gathers requests, submits them, and returns the results.

    A batch has our uuid, an uploaded file and an id at the endpoint; the latter two are empty until they
    exist.
    """

    def __init__(self, client: OpenAIClient, place: Place) -> None:
        self.client, self.spec, self.place, self.ledger = (client, client.spec, place, client.services.ledger)
        self._path = "/v1/completions" if self.spec.api == "completions" else "/v1/chat/completions"
        self._tasks: dict[str, asyncio.Task[LineResults]] = {}
        self._gathering: asyncio.Task[LineResults]
        self._lines: dict[str, bytes] = {}
        self._bytes = 0
        self._states: dict[str, str] = {}
        self._stopped: Exception | None = None

    async def ask(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Return the result of a line in its last batch, which may be of an earlier run, or in a new one."""
        key = request.keys(self.client.identity, samples[0] + 1)[-1]
        custom_id = f"{key.hex()[:KEY_DIGITS]}-{attempt}"
        body = self.client.body(request, len(samples), attempt, samples[0])
        result: LineResult | None = None
        if submission := self.ledger.find_batch(custom_id):
            task = self._tasks.get(submission[0]) or self._start(submission[0], self._resume(*submission))
            result = (await asyncio.shield(task)).take(custom_id)
            if isinstance(result, (Retryable, TeacherDown)) and not isinstance(result, ResultsMissing):
                if getattr(result, "used", None):
                    raise result  # it is billed, and asked again as a temporary fault
                result = None
        if result is None:
            task = self._gather(custom_id, self.client.fitted(body))
            result = (await asyncio.shield(task)).take(custom_id)
        if result is None:
            raise Retryable("the batch was not made")
        if isinstance(result, Exception):
            raise result
        return self.client.marked(result, body)

    def stop(self, reason: Exception) -> None:
        """Stop waiting. Add a note to `reason` that names the batches that go on at the endpoint."""
        self._stopped = reason
        if self._states:
            remedy = "the same command waits for these batches, and asks only the other requests"
            reason.add_note(f"at the endpoint, which goes on: {', '.join(self._states)}; {remedy}")
        for task in self._tasks.values():
            task.cancel()

    def _start(self, uuid: str, work: Coroutine[Any, Any, LineResults]) -> asyncio.Task[LineResults]:
        task = self._tasks[uuid] = asyncio.create_task(work)

        def over(_: object) -> None:
            if not succeeded(task):  # the next request starts again
                del self._tasks[uuid]

        task.add_done_callback(over)
        return task

    def _gather(self, custom_id: str, body: Mapping[str, Any]) -> asyncio.Task[LineResults]:
        """Add a line to the batch that is being gathered, or to the next one if that is full."""
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

    async def _carry(self, uuid: str, lines: dict[str, bytes]) -> LineResults:
        """Wait until a batch is full or no more requests come; submit it, and wait for its results."""
        count = 0
        while lines is self._lines and count < len(lines) < self.spec.batch_size:
            count = len(lines)
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

    async def _resume(self, uuid: str, file: str, batch: str) -> LineResults:
        """Return the results of an interrupted submission; none if the endpoint has no batch of it."""
        if batch := batch or (await self._find(uuid) if file else ""):
            await self.ledger.add_batch(uuid, file, batch)
            with suppress(QueueFull):
                return await self._outcomes(uuid, batch)
        await self.ledger.forget_batch(uuid)
        return LineResults()

    async def _outcomes(self, uuid: str, batch: str, looks: int = 1) -> LineResults:
        """Wait until a batch has ended, and return its results and what happens to lines without one.

        `looks` is the number of looks until the endpoint knows a new batch.
        """
        report = await self._final_report(batch, looks)
        if report.status == "failed" and not (report.output_file_id or report.error_file_id):
            await self.ledger.forget_batch(uuid)
            errors = (report.errors.data if report.errors else None) or []
            faults = "; ".join(
                f"{e.code}: {e.message}{f' (line {e.line})' if e.line else ''}" for e in errors[:3]
            )
            if _QUEUE_FULL.search(faults):
                raise QueueFull(self.client.redact(faults))
            raise self.client.down(
                f"{batch} was not accepted: {faults}. None of it was asked; correct that and run again"
            )
        pause_s, lines = min(1.0, self.spec.poll_s), self.ledger.lines_of_batch(uuid)
        for _ in range(LOOKS):
            outcomes, results, flaw = await self._results(report)
            due = _due(report, lines)
            lack = flaw or (f"its files hold {results:,} of {due:,} results" if results < due else "")
            if not lack:
                break
            await self._wait_out(f"{batch} has ended ({report.status}), but {lack}", pause_s)
            pause_s = min(1.5 * pause_s, max(2.0, self.spec.poll_s))
            report = await self._retrieved(batch)
        remedy = "'mode: online' asks for the missing answers again, and they are paid for again"
        if flaw:
            lost = f"{batch} has ended ({report.status}) and is paid for, but {flaw}."
            lost += " None of it was submitted again"
            again = f"the same command looks for its results once more; {remedy}"
            outcomes.missing = ResultsMissing(str(self.client.down(f"{lost}; {again}")))
        elif report.status == "cancelled":
            kept = "its answers are kept, and running again asks the other requests"
            outcomes.missing = self.client.down(f"{batch} was cancelled; {kept}")
        elif lack:
            again = "--retry-failed asks it again, and that is paid for again"
            reason = f"{batch} ended ({report.status}), but {lack}, and none is this request's; {again}"
            outcomes.missing = Rejected(reason, used=LOST_ANSWER)
        else:
            outcomes.missing = Retryable(f"{batch} ended ({report.status}) without an answer to this request")
        return outcomes

    async def _results(self, report: Batch) -> tuple[LineResults, int, str]:
        """Return the results in the files of a batch, their number, and why there may be more."""
        outcomes, results, flaw = LineResults(), 0, ""
        files = [file for file in (report.error_file_id, report.output_file_id) if file]
        if not files and (report.status == "completed" or _due(report, 1)):
            flaw = "it has no file of results"
        for file in files:
            try:
                content = await self._insist(lambda client, file=file: client.files.content(file))  # type: ignore[misc]
            except NothingThere as error:
                flaw = f"its file {file} is not there: {error}"
                continue
            for line in content.content.splitlines():  # bytes: a text has more line ends than JSON
                try:
                    result = read_json(line)
                    custom_id = result["custom_id"]
                    outcome = self._outcome(result.get("response") or {}, result.get("error") or {})
                except (Retryable, AttributeError, KeyError, TypeError) as error:
                    flaw = f"a line of its file {file} cannot be read: {self.client.redact(repr(error))[:80]}"
                    continue
                results += 1
                if outcome:
                    outcomes[custom_id] = outcome
        misfits = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Misfit)}
        answered = any(isinstance(outcome, list) for outcome in outcomes.values())
        if not answered and (len(misfits) >= REJECTIONS or not self.client.activity.answered):
            outcomes |= {name: self.client.misfit(outcome, {}) for name, outcome in misfits.items()}
        return outcomes, results, flaw

    async def _final_report(self, batch: str, looks: int) -> Batch:
        """Look at a batch, less and less often, until it has ended; return its last report."""
        pause_s = min(1.0, self.spec.poll_s)
        self._note(batch, "submitted")
        try:
            while True:
                report = await self._retrieved(batch, looks)
                if report.status in ("completed", "expired", "cancelled", "failed"):
                    return report
                n = report.request_counts
                self._note(
                    batch,
                    f"{n.completed + n.failed:,} of {n.total:,} done" if n and n.total else report.status,
                )
                await self._pause(pause_s)
                pause_s = min(1.5 * pause_s, self.spec.poll_s)
        finally:
            self._note(batch)

    async def _retrieved(self, batch: str, looks: int = 1) -> Batch:
        report = await self._insist(lambda client: client.batches.retrieve(batch), looks)
        report.status = report.status.lower()  # type: ignore[assignment]  # some endpoints use capitals
        return report

    def _note(self, batch: str, state: str = "") -> None:
        """Show the state of a batch; without a state, stop showing the batch."""
        self._states = {name: state for name, state in {**self._states, batch: state}.items() if state}
        self.client.activity.note = "; ".join(
            f"batch {name}: {state}" for name, state in self._states.items()
        )

    def _outcome(self, response: Mapping[str, Any], error: Mapping[str, Any]) -> LineResult | None:
        """Return the result of a line, read as an answer online; None if the batch ended before the line was
        answered.
        """
        if response.get("status_code") == 200:
            try:
                return completions_of(response["body"])
            except Retryable as unusable:
                return unusable
        if response:
            refusal = self.client.refusal_of(
                self.place, response["status_code"], dumps(response.get("body")), {}
            )
            if not isinstance(refusal, NotTaken):
                return refusal
            self.client.learn(frozenset({refusal.name}))
            return Retryable(str(refusal))  # the next batch leaves it out
        code = str(error.get("code"))
        if code in ("batch_expired", "batch_cancelled"):
            return None
        return (Rejected if "invalid" in code else Retryable)(
            self.client.redact(f"{code}: {error.get('message')}")
        )

    async def _upload(self, content: bytes) -> str:
        options: Any = {"file": ("distillgen.jsonl", content), "purpose": "batch"}
        file = await self._call(
            lambda client: client.with_options(max_retries=UPLOADS).files.create(**options)
        )
        return _id_of(file)

    async def _create(self, uuid: str, file: str) -> str:
        options: Any = {"endpoint": self._path, "completion_window": "24h", "metadata": {"distillgen": uuid}}
        try:
            return _id_of(
                await self._call(lambda client: client.batches.create(input_file_id=file, **options))
            )
        except Retryable:
            if batch := await self._find(uuid):  # it was made, and only the answer did not come
                return batch
            raise

    async def _find(self, uuid: str) -> str:
        """Return the id of the batch with our uuid, or "". The endpoint may list a new batch only after a
        while.
        """

        async def find(package: AsyncOpenAI) -> list[str]:
            return [
                b.id
                async for b in package.batches.list(limit=100)
                if (b.metadata or {}).get("distillgen") == uuid
            ]

        for pause_s in (0.0, self.spec.poll_s):
            await self._pause(pause_s)
            if batches := await self._insist(find):
                return batches[0]
        return ""

    async def _insist(self, send: Callable[[AsyncOpenAI], Awaitable[T]], looks: int = 1) -> T:
        """Ask about something that is paid for: wait until an outage ends, and look `looks` times for what is
        not there.
        """
        while True:
            try:
                return await self._call(send, "submitted batches are safe; correct that and run again")
            except Retryable as error:
                await self._wait_out(str(error), self.spec.poll_s)
            except NothingThere as error:
                looks -= 1
                if looks <= 0:
                    raise
                await self._wait_out(str(error), self.spec.poll_s)

    async def _wait_out(self, reason: str, pause_s: float) -> None:
        self.client.activity.note = self.client.redact(
            " ".join(f"waiting for the batch API: {reason}".split())
        )
        log.warning("%s: %s", self.client.name, self.client.activity.note)
        await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> None:
        """Sleep. The progress display does not take the pause for a hang."""
        self.client.activity.moved_at = time.monotonic() + pause_s
        await asyncio.sleep(pause_s)

    async def _call(
        self,
        send: Callable[[AsyncOpenAI], Awaitable[T]],
        remedy: str = "none of it was asked; correct that and run again",
    ) -> T:
        """Call the batch API. A rejection is not the fault of a row: it ends the run."""
        try:
            return await self.client.by_package(self.place, send)
        except (Rejected, Retryable) as error:
            if _QUEUE_FULL.search(str(error)):
                raise QueueFull(str(error)) from error
            if isinstance(error, Rejected):
                raise self.client.down(f"the batch API refuses: {error}; {remedy}") from error
            raise


def _id_of(answer: Any) -> str:
    """Return the id of a file or batch. Raise Retryable if the answer has none."""
    if name := getattr(answer, "id", None):
        return str(name)
    raise Retryable(f"the batch API gave no id: {answer}")


def _due(report: Batch, lines: int) -> int:
    """Return the number of results that an ended batch must have: that of its lines, or, if it is incomplete,
    its counts.
    """
    counts = report.request_counts
    if report.status == "completed" or not counts or not counts.total:
        return lines
    return counts.completed + counts.failed
