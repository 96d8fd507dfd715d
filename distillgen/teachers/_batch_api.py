"""The contract of a batch API: how a provider's batches are created, looked at, read and found again."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, TypeVar

from distillgen.inference.faults import Rejected, Retryable, TeacherDown
from distillgen.inference.request import Completion
from distillgen.record import dumps
from distillgen.teachers._addresses import Place
from distillgen.teachers._batch_spec import BatchSpec
from distillgen.teachers._http_client import HttpClient
from distillgen.teachers._refusal import COMMON, NothingThere, NotTaken

T = TypeVar("T")

log = logging.getLogger("distillgen")

LOOKS = 20  # looks at an ended batch whose results are missing; they take about 7 minutes
FINAL_STATES = ("completed", "expired", "cancelled", "failed")

LineResult = list[Completion] | Exception


class Report(NamedTuple):
    """What an endpoint says of a batch. `status` is one of FINAL_STATES, or another word before that."""

    status: str
    done: int = 0
    total: int = 0
    due: int | None = None
    """The number of results that an ended batch must have; None: one for each line."""
    sources: Mapping[str, Any] = {}
    """What `lines_at` reads the results from, by name."""
    fault: str = ""
    """Why it failed."""


@contextmanager
def usable() -> Iterator[None]:
    """Raise Retryable for an answer that is not of the protocol."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Retryable(f"the batch API gave no usable answer: {error!r}") from error


class BatchApi:
    """The batch API of one endpoint. A subclass gives the protocol.

    A batch has our uuid, by which `find` finds it, and an id at the endpoint. Where a call about something
    that is paid for fails, `insist` waits until it succeeds.
    """

    most_bytes: int = 200_000_000
    """The largest content of a batch."""
    looks: int = LOOKS
    queue_full: ClassVar[re.Pattern[str]]
    """What the endpoint says if it takes no further batch for now."""

    def __init__(self, client: HttpClient, spec: BatchSpec, place: Place) -> None:
        self.client, self.spec, self.place, self.ledger = client, spec, place, client.services.ledger
        self.parameters = COMMON
        """The names of the parameters that a line may have."""
        self.states: dict[str, str] = {}
        """The states of the batches that are waited for."""
        self.stopped: Exception | None = None
        """Why no batch is waited for any more."""

    def line(self, custom_id: str, body: Mapping[str, Any]) -> bytes:
        """Return a request as bytes, which `upload` or `create` puts into a batch."""
        raise NotImplementedError

    async def upload(self, lines: Mapping[str, bytes]) -> str:
        """Upload the lines, and return the id of their file; return "" if they are sent at the creation."""
        return ""

    async def create(self, uuid: str, file: str, lines: Mapping[str, bytes]) -> str:
        """Create a batch of a file, or else of lines, and return its id."""
        raise NotImplementedError

    async def look(self, batch: str) -> Report:
        """Return the state of a batch. Raise NothingThere if there is none."""
        raise NotImplementedError

    async def find(self, uuid: str, basis: str) -> str:
        """Return the id of the batch with our uuid, or "" if none is shown. `basis` is the id of its file, or
        else the time of its creation.
        """
        raise NotImplementedError

    async def lines_at(self, source: Any) -> Sequence[Any]:
        """Return the lines of results of a source: bytes, or mappings."""
        raise NotImplementedError

    def result_of(self, line: Mapping[str, Any]) -> tuple[str, LineResult | None]:
        """Return the custom_id of a line and its result; None if the batch ended before it was answered."""
        raise NotImplementedError

    def answer_of(self, payload: Any) -> LineResult:
        """Return the completions in the body of a line, read as an answer online."""
        try:
            return self.client.completions(payload)
        except Retryable as unusable:
            return unusable

    def refusal_of(self, status: int, body: Any) -> LineResult:
        """Return the fault of a line. The next batch leaves out a parameter that was not taken."""
        refusal = self.client.refusal_of(self.place, status, dumps(body), {}, self.parameters)
        if not isinstance(refusal, NotTaken):
            return refusal
        self.client.learn(frozenset({refusal.name}))
        return Retryable(str(refusal))

    async def final_report(self, batch: str, looks: int = 1) -> Report:
        """Look at a batch, less and less often, until it has ended; return its last report."""
        pause_s = min(1.0, self.spec.poll_s)
        self.note(batch, "submitted")
        try:
            while (report := await self.insist(lambda: self.look(batch), looks)).status not in FINAL_STATES:
                done = f"{report.done:,} of {report.total:,} done"
                self.note(batch, done if report.total else report.status)
                await self.pause(pause_s)
                pause_s = min(1.5 * pause_s, self.spec.poll_s)
            return report
        finally:
            self.note(batch)

    def note(self, batch: str, state: str = "") -> None:
        """Show the state of a batch; without a state, stop showing the batch."""
        self.states = {name: state for name, state in {**self.states, batch: state}.items() if state}
        self.client.activity.note = "; ".join(f"batch {name}: {state}" for name, state in self.states.items())

    async def insist(self, send: Callable[[], Awaitable[T]], looks: int = 1) -> T:
        """Ask about something that is paid for: wait until an outage ends, and look `looks` times for what is
        not there.
        """
        while True:
            try:
                return await send()
            except Rejected as error:
                raise self.refused(error, "submitted batches are safe; correct that and run again") from error
            except Retryable as error:
                await self.wait_out(str(error), max(self.spec.poll_s, error.retry_after_s))
            except NothingThere as error:
                looks -= 1
                if looks <= 0:
                    raise
                await self.wait_out(str(error), self.spec.poll_s)

    def refused(self, error: Rejected, remedy: str) -> TeacherDown:
        """Return the error for a rejection. It is not the fault of a row: it ends the run."""
        return self.client.down(f"the batch API refuses: {error}; {remedy}")

    async def wait_out(self, reason: str, pause_s: float) -> None:
        """Say what is waited for, and sleep."""
        self.client.activity.note = self.client.redact(
            " ".join(f"waiting for the batch API: {reason}".split())
        )
        log.warning("%s: %s", self.client.name, self.client.activity.note)
        await self.pause(pause_s)

    async def pause(self, pause_s: float) -> None:
        """Sleep. The progress display does not take the pause for a hang.

        Raise CancelledError once the waiting is stopped: an HTTP request whose answer comes at the moment of
        a cancellation returns the answer, and the task would go on.
        """
        if self.stopped:
            raise asyncio.CancelledError
        self.client.activity.moved_at = time.monotonic() + pause_s
        await asyncio.sleep(pause_s)
