"""Batches of any provider: requests are gathered, sent together, and answered within a day at about half the
price.

Each step of a submission is stored before the next one, and a batch carries our uuid. A process that is
killed finds its batches again in its next run: no line is paid for twice, and no answer is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar
from uuid import uuid4

from distillgen.inference.endpoint import Services
from distillgen.inference.faults import NothingAsked, Rejected, Retryable, TeacherDown
from distillgen.inference.outcome import succeeded
from distillgen.inference.request import LOST_ANSWER, Completion, Request
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import REJECTIONS
from distillgen.teachers._batch_api import BatchApi, LineResult, Report
from distillgen.teachers._batch_spec import BatchSpec
from distillgen.teachers._http_client import HttpClient
from distillgen.teachers._openai_wire import read_json
from distillgen.teachers._refusal import Misfit, NothingThere

BATCHES = 4  # batches at the endpoint at once, unless max_concurrency is set
KEY_DIGITS = 48  # of the 64 of a ledger key: some endpoints limit a custom_id to 64 characters
QUEUE_PAUSES = 10  # the pause before a full queue is tried again, in longest pauses between two looks
_UNASKED = "none of it was asked; correct that and run again"


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
    """The account has too much enqueued; there is room once other batches have ended."""


class Batches:
    """The batches of one endpoint: gathers requests, submits them, and returns the results.

    What is stored of a batch is our uuid, then its basis (the id of an uploaded file, or else the time of its
    creation), and then its id at the endpoint.
    """

    def __init__(self, api: BatchApi) -> None:
        self.api, self.client, self.spec = api, api.client, api.spec
        self.ledger = api.client.services.ledger
        self._tasks: dict[str, asyncio.Task[LineResults]] = {}
        self._gathering: asyncio.Task[LineResults]
        self._lines: dict[str, bytes] = {}
        self._bytes = 0

    async def ask(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Return the result of a line in its last batch, which may be of an earlier run, or in a new one."""
        key = request.keys(self.client.identity, samples[0] + 1)[-1]
        custom_id = f"{key.hex()[:KEY_DIGITS]}-{attempt}"
        body = self.client.body(await self.client.with_content(request), len(samples), attempt, samples[0])
        self.client.mention_lacks(body)
        self.api.parameters |= body.keys()
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
        self.api.stopped = reason
        if self.api.states:
            remedy = "the same command waits for these batches, and asks only the other requests"
            reason.add_note(f"at the endpoint, which goes on: {', '.join(self.api.states)}; {remedy}")
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
        if self.api.stopped:
            raise self.api.stopped
        line = self.api.line(custom_id, body)
        self._bytes += len(line)
        if not self._lines or len(self._lines) == self.spec.batch_size or self._bytes > self.api.most_bytes:
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
        if lines is self._lines:  # no line is added any more
            self._lines = {}
        await self.ledger.add_batch(uuid, "", "", list(lines))
        try:
            file = await self.api.upload(lines)
        except Rejected as error:
            raise NothingAsked(str(self.api.refused(error, _UNASKED))) from error
        custom_ids = list(lines)
        if file:
            lines = {}
        while True:
            basis = file or f"{time.time():.0f}"
            await self.ledger.add_batch(uuid, basis, "", custom_ids)
            try:
                batch = await self._create(uuid, basis, file, lines)
                await self.ledger.add_batch(uuid, basis, batch)
                return await self._outcomes(uuid, batch, self.api.looks)
            except QueueFull as error:
                await self.api.wait_out(str(error), QUEUE_PAUSES * self.spec.poll_s)
                uuid = uuid4().hex

    async def _create(self, uuid: str, basis: str, file: str, lines: Mapping[str, bytes]) -> str:
        """Create a batch. Where it is not said whether it was made, look for it."""
        try:
            return await self.api.create(uuid, file, lines)
        except (Rejected, Retryable) as error:
            if self.api.queue_full.search(str(error)):
                raise QueueFull(str(error)) from error
            if isinstance(error, Rejected):
                raise NothingAsked(str(self.api.refused(error, _UNASKED))) from error
            if batch := await self._find(uuid, basis):
                return batch
            raise

    async def _resume(self, uuid: str, basis: str, batch: str) -> LineResults:
        """Return the results of an interrupted submission; none if the endpoint has no batch of it."""
        if batch := batch or (await self._find(uuid, basis) if basis else ""):
            await self.ledger.add_batch(uuid, basis, batch)
            with suppress(QueueFull):
                return await self._outcomes(uuid, batch)
        await self.ledger.forget_batch(uuid)
        return LineResults()

    async def _find(self, uuid: str, basis: str) -> str:
        """Return the id of the batch with our uuid, or "". The endpoint may list a new batch only after a
        while.
        """
        for pause_s in (0.0, self.spec.poll_s):
            await self.api.pause(pause_s)
            if batch := await self.api.insist(lambda: self.api.find(uuid, basis)):
                return batch
        return ""

    async def _outcomes(self, uuid: str, batch: str, looks: int = 1) -> LineResults:
        """Wait until a batch has ended, and return its results and what happens to lines without one.

        `looks` is the number of looks until the endpoint knows a new batch.
        """
        report = await self.api.final_report(batch, looks)
        if report.status == "failed" and not report.sources:
            await self.ledger.forget_batch(uuid)
            if self.api.queue_full.search(report.fault):
                raise QueueFull(self.client.redact(report.fault))
            billing = (
                f"{report.done:,} of its requests may be billed" if report.done else "None of it was asked"
            )
            down = self.client.down(
                f"{batch} was not accepted: {report.fault}. {billing}; correct that and run again"
            )
            raise down if report.done else NothingAsked(str(down))
        pause_s, lines = min(1.0, self.spec.poll_s), self.ledger.lines_of_batch(uuid)
        for _ in range(self.api.looks):
            outcomes, results, flaw = await self._results(report)
            due = lines if report.due is None else report.due
            lack = flaw or (f"its files hold {results:,} of {due:,} results" if results < due else "")
            if not lack:
                break
            await self.api.wait_out(f"{batch} has ended ({report.status}), but {lack}", pause_s)
            pause_s = min(1.5 * pause_s, max(2.0, self.spec.poll_s))
            report = await self.api.insist(lambda: self.api.look(batch))
        remedy = "'mode: online' asks for the missing answers again, and they are paid for again"
        if flaw:
            lost = f"{batch} has ended ({report.status}) and is paid for, but {flaw}."
            lost += " None of it was submitted again"
            again = f"the same command looks for its results once more; {remedy}"
            outcomes.missing = ResultsMissing(str(self.client.down(f"{lost}; {again}")))
        elif report.status == "cancelled":
            kept = "its answers are kept, and running again asks the other requests"
            outcomes.missing = NothingAsked(str(self.client.down(f"{batch} was cancelled; {kept}")))
        elif lack:
            again = "--retry-failed asks it again, and that is paid for again"
            reason = f"{batch} ended ({report.status}), but {lack}, and none is this request's; {again}"
            outcomes.missing = Rejected(reason, used=LOST_ANSWER)
        else:
            outcomes.missing = Retryable(f"{batch} ended ({report.status}) without an answer to this request")
        return outcomes

    async def _results(self, report: Report) -> tuple[LineResults, int, str]:
        """Return the results of a batch, their number, and why there may be more."""
        outcomes, results, flaw = LineResults(), 0, ""
        if not report.sources and report.due != 0:
            flaw = "it has no file of results"
        for name, source in report.sources.items():
            try:
                lines = await self.api.insist(lambda source=source: self.api.lines_at(source))  # type: ignore[misc]
            except NothingThere as error:
                flaw = f"its file {name} is not there: {error}"
                continue
            for line in lines:
                try:
                    custom_id, outcome = self.api.result_of(
                        read_json(line) if isinstance(line, bytes) else line
                    )
                except (Retryable, AttributeError, KeyError, TypeError) as error:
                    flaw = f"a line of its file {name} cannot be read: {self.client.redact(repr(error))[:80]}"
                    continue
                results += 1
                if outcome:
                    outcomes[custom_id] = outcome
        misfits = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Misfit)}
        answered = any(isinstance(outcome, list) for outcome in outcomes.values())
        if not answered and (len(misfits) >= REJECTIONS or not self.client.activity.answered):
            outcomes |= {name: self.client.misfit(outcome, {}) for name, outcome in misfits.items()}
        return outcomes, results, flaw


class BatchClient(HttpClient):
    """A client of an endpoint that also has a batch API."""

    spec: BatchSpec
    batch_api: ClassVar[type[BatchApi]]

    def __init__(self, name: str, spec: Spec, services: Services) -> None:
        super().__init__(name, spec, services)
        self._batches: Batches | None = None
        if self.spec.mode == "batch":
            self.detour = "; mode: online does without the batch API"
            self._batches = Batches(self.batch_api(self, self.spec, self._places[0]))
            self.durable, self.ahead = True, 1
            self.max_concurrency = self.spec.max_concurrency or BATCHES * self.spec.batch_size
            self.ask = self._batches.ask  # type: ignore[method-assign]

    def stop(self, reason: Exception) -> None:
        """Stop waiting for batches: the endpoint finishes them, and the next run gets their answers."""
        if self._batches:
            self._batches.stop(reason)
