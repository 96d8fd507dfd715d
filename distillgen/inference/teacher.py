"""A `Teacher` answers requests: from the ledger if it can, else through its endpoint.

It asks identical requests in flight once, retries faults that pass, keeps limits and the budget, takes
secrets out of answers, and writes the ledger's rows. An `Endpoint` does none of this.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from distillgen.errors import DistillgenError, LedgerError, UserCodeError
from distillgen.inference.endpoint import Endpoint
from distillgen.inference.faults import NothingAsked, Rejected, Retryable, TeacherDown, TimedOut, Unreachable
from distillgen.inference.ledger import Answer
from distillgen.inference.limits import Rate, Slots
from distillgen.inference.logprobs import pack
from distillgen.inference.outcome import Outcome, end_of
from distillgen.inference.pricing import Pricing
from distillgen.inference.redaction import hide, without_credentials
from distillgen.inference.request import LOST_ANSWER, Completion, Request
from distillgen.project import user_error
from distillgen.record import dumps
from distillgen.text.display import clipped

log = logging.getLogger("distillgen")

OUTAGE_S = 600.0  # without any answer, after which failing requests stop the run
REJECTIONS = 20  # rejected requests, and no accepted one, after which the run stops: the pipeline is wrong

_backoff = wait_random_exponential(multiplier=0.5, max=60)


@dataclass(slots=True)
class _Job:
    """A request in flight, with the indices of its samples and their ledger keys."""

    request: Request
    samples: Sequence[int]
    keys: Sequence[bytes]
    stage: str
    attempt: int
    period: int
    """The period of the claims when the ledger was searched for the keys."""
    retries: int = 0
    task: asyncio.Task[list[Completion]] = field(init=False)

    def remove(self, answered_keys: set[bytes]) -> None:
        """Remove the answered samples; the others become a request of their own."""
        remaining = [
            pair for pair in zip(self.samples, self.keys, strict=True) if pair[1] not in answered_keys
        ]
        self.samples, self.keys = [sample for sample, _ in remaining], [key for _, key in remaining]
        self.retries = 0


SEEDS_APART = 1_000  # between the seeds that two of the pipeline's seeds send: more than samples of a request


class Teacher:
    """Answers requests within limits and a budget, through an endpoint and the ledger."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.name, self.spec, self.services = endpoint.name, endpoint.spec, endpoint.services
        self.activity, self.paid, self.durable = endpoint.activity, endpoint.paid, endpoint.durable
        self.ahead, self.redact = endpoint.ahead, endpoint.redact
        self.slots = Slots(endpoint.max_concurrency)
        self._requests = endpoint.requests
        self._input, self._output = (
            Rate(limit) if limit else None for limit in (self.spec.input_tpm, self.spec.output_tpm)
        )
        self._pricing = Pricing(self.name, self.spec)
        self._tasks: dict[bytes, asyncio.Task[list[Completion]]] = {}
        """The task that asks for each ledger key in flight."""
        self._ahead: set[bytes] = set()
        """The keys of the requests that were sent ahead and not begun since."""
        self._refusal: Exception | None = None
        """The error that every further request gets: the endpoint is down, or the run stops."""
        self._rejections = 0
        self._unanswered, self._silent_since = 0, 0.0
        """The requests that failed for good by temporary faults since the last answer, and when the first
        did."""
        self._credentials = dict.fromkeys(self.spec.credentials(), "[withheld]")
        self._probe: asyncio.Task[Any] | None = None
        """The request that tests whether an endpoint can be reached; the others wait for it."""
        self._waiting = 0

    @property
    def identity(self) -> str:
        """The identity of the endpoint, which is part of every ledger key."""
        return self.endpoint.identity

    @property
    def model(self) -> str:
        """The name of the model in requests."""
        return self.endpoint.model

    @property
    def tokenizer(self) -> str:
        """The name of the model's tokenizer in exported signals."""
        return self.endpoint.tokenizer

    def message_fields(self, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return `messages` for a chat API, or one joined `prompt` for a completion API."""
        if self.endpoint.api == "completions":
            return {"prompt": "\n\n".join(message["content"] or "" for message in messages)}
        return {"messages": messages}

    def begin(
        self,
        asks: Sequence[tuple[Request, int]],
        *,
        stage: str,
        again: Callable[[Completion], bool] | None = None,
        changed: Mapping[str, Any] | None = None,
        ahead: bool = False,
    ) -> list[Outcome[list[Completion]]]:
        """Return the outcome of each (request, number of samples), which is ready if it is in the ledger.

        Completions for which `again` is true are asked again, with the `changed` sampling parameters.
        Requests that are sent `ahead` will be begun once more; their answers do not count as replayed then.
        Requests with the same first messages are sent one after the other: the endpoint may cache them.
        """
        identity, asks = self.identity, self._seeded(asks)
        keys_of_asks = [request.keys(identity, n) for request, n in asks]
        all_keys = [key for keys in keys_of_asks for key in keys]
        period = self.services.ledger.claims.period  # before the look into the ledger
        completions = self._completions_in_ledger(all_keys)
        self._count_replayed(all_keys, completions, ahead)
        outcomes: list[Any] = [None] * len(asks)
        takes_n, loop = "n" in self.spec.capabilities, asyncio.get_running_loop()
        for i in _by_first_messages(asks) if len(completions) < len(asks) or again else range(len(asks)):
            request, keys = asks[i][0], keys_of_asks[i]
            missing = [
                s
                for s, key in enumerate(keys)
                if key not in completions or (again and again(completions[key]))
            ]
            if not missing:
                outcomes[i] = Outcome.of([completions[key] for key in keys])
                continue
            new = [s for s in missing if keys[s] not in self._tasks]
            together = takes_n or request.constraints is not None  # a search has all its answers at once
            for group in [new] if together and new else [[s] for s in new]:
                attempt = max(
                    (completions[keys[s]].attempt + 1 for s in group if keys[s] in completions), default=0
                )
                if changed:
                    request = replace(request, sampling={**request.sampling, **changed})
                job = _Job(request, group, [keys[s] for s in group], stage, attempt, period)
                job.task = loop.create_task(self._complete(job))
                job.task.add_done_callback(_retrieve)
                self._tasks.update(dict.fromkeys(job.keys, job.task))
            tasks = list({self._tasks[keys[s]]: None for s in missing})
            available = {key: completions[key] for key in keys if key in completions}
            outcomes[i] = Outcome(partial(_joined, keys, available, tasks), tasks)
        return outcomes

    def _seeded(self, asks: Sequence[tuple[Request, int]]) -> Sequence[tuple[Request, int]]:
        """Return the requests with the pipeline's seed in the seeds that they send."""
        further = SEEDS_APART * self.services.seed
        if not further or not any("seed" in request.sampling for request, _ in asks):
            return asks

        def moved(request: Request) -> Request:
            sampling = request.sampling
            return replace(request, sampling={**sampling, "seed": sampling["seed"] + further})

        return [(moved(request) if "seed" in request.sampling else request, n) for request, n in asks]

    @property
    def idle(self) -> bool:
        """Whether no request is in flight."""
        return not self._tasks

    async def stop(self, reason: Exception) -> None:
        """Send no further request. Wait for paid answers in flight and store them; cancel the others."""
        self._refusal = reason
        self.endpoint.stop(reason)
        tasks = set(self._tasks.values())
        for task in tasks:
            if not self.paid or task not in self.activity.sending:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def abandon(self) -> None:
        """Cancel all requests in flight."""
        for task in set(self._tasks.values()):
            task.cancel()

    async def close(self) -> None:
        """Close the endpoint."""
        await self.endpoint.close()

    def _completions_in_ledger(self, keys: Sequence[bytes]) -> dict[bytes, Completion]:
        """Return the completions in the ledger. One that failed only by a finish reason that is now allowed
        is ok.
        """
        rows = self.services.ledger.find(keys)
        completions = {key: Completion.from_row(key, *row) for key, row in rows.items()}
        if finish_reasons := self.spec.finish_reasons:
            for key, c in completions.items():
                if c.status == "failed" and c.finish in finish_reasons:
                    completions[key] = c._replace(status="ok", error="", finish="")
        return completions

    def _count_replayed(
        self, keys: Sequence[bytes], completions: Mapping[bytes, Completion], ahead: bool
    ) -> None:
        """Count the completions in the ledger that this run did not ask for ahead."""
        if ahead:
            self._ahead.update(key for key in keys if key not in completions)
            return
        self.activity.replayed += len(completions)
        if self._ahead:
            self.activity.replayed -= len(self._ahead.intersection(completions))
            self._ahead.difference_update(keys)

    async def _complete(self, job: _Job) -> list[Completion]:
        """Ask until every sample has an answer or the request fails. A failed request gives failed
        completions.
        """
        keys, completions = job.keys, list[Completion]()
        try:
            while len(completions) < len(keys):
                try:
                    answers = await self._ask(job)
                except Retryable as fault:
                    answers = await self._retry(job, fault)
                completions += answers
                if answers and len(completions) < len(keys):
                    job.remove({c.key for c in answers})
            return completions
        except (Retryable, Rejected) as error:
            return completions + await self._fail(job, error)
        except (TeacherDown, LedgerError) as error:  # nothing more is paid for that cannot be stored
            self._refusal = error
            raise
        finally:
            for key in keys:
                self._tasks.pop(key, None)

    async def _fail(self, job: _Job, error: Retryable | Rejected) -> list[Completion]:
        """Store failed completions; raise TeacherDown if the endpoint has never answered."""
        reason = self.redact(str(error))
        if self._is_absent(error, job.retries + 1):
            self._refusal = self.endpoint.down(reason)
            raise self._refusal from error
        log.warning("%s: a request failed after %d retries: %s", self.name, job.retries, reason)
        self.activity.failed += 1
        self._rejections += 1
        if self._rejections >= REJECTIONS and not self.activity.answered:
            self._refusal = self.endpoint.down(
                f"none of {self._rejections} requests was accepted; the last: {reason}"
            )
            raise self._refusal from error
        if isinstance(error, Retryable):
            self._note_outage(error, reason)
        failed = Completion(status="failed", error=self.endpoint.without_address(reason))
        return await self._record(job, [failed for _ in job.samples])

    def _note_outage(self, error: Retryable, reason: str) -> None:
        """Count a request that failed for good; raise TeacherDown if an outage has lasted too long."""
        now = time.monotonic()
        self._silent_since = self._silent_since if self._unanswered else now
        self._unanswered += 1
        silence_s = now - self._silent_since
        if self._unanswered >= REJECTIONS and silence_s >= OUTAGE_S:
            self._refusal = self.endpoint.down(
                f"no answer for {silence_s / 60:.0f} minutes, in which {self._unanswered} requests failed; "
                f"the last: {reason}. When the endpoint is back, give the same command again with "
                "--retry-failed"
            )
            raise self._refusal from error

    async def _retry(self, job: _Job, first_fault: Retryable) -> list[Completion]:
        """Ask again after a first fault, until there is an answer or the faults are too many.

        The first attempt is made without tenacity, which costs 20 µs for each request.
        """

        async def pause(seconds: float) -> None:
            self.activity.pausing[job.task] = time.monotonic() + seconds
            try:
                await asyncio.sleep(seconds)
            finally:
                del self.activity.pausing[job.task]

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(Retryable),
            wait=self._wait_s,
            stop=self._is_hopeless,
            after=self._note_fault,
            before_sleep=self._note_retry,
            sleep=pause,
            reraise=True,
        )
        faults = [first_fault]

        async def attempt() -> list[Completion]:
            if faults:
                raise faults.pop()
            job.retries += 1
            return await self._ask(job)

        return await retrying(attempt)

    def _wait_s(self, state: RetryCallState) -> float:
        """Return the seconds before the next attempt, not fewer than the endpoint asks for."""
        return max(_backoff(state), _fault_of(state).retry_after_s)

    def _is_hopeless(self, state: RetryCallState) -> bool:
        """Return whether to give up. A timeout is retried once: a third wait is rarely better."""
        fault, tries = _fault_of(state), state.attempt_number
        return (
            tries > self.spec.max_retries
            or (isinstance(fault, TimedOut) and tries > 1)
            or self._is_absent(fault, tries)
        )

    def _is_absent(self, error: Exception, tries: int) -> bool:
        """Return whether the endpoint has never answered and could not be reached in so many tries."""
        return isinstance(error, Unreachable) and not self.activity.answered and tries >= error.tries

    def _note_fault(self, state: RetryCallState) -> None:
        fault = _fault_of(state)
        self.activity.trouble = self.redact(str(fault))
        if fault.overloaded:
            self.slots.note(time.monotonic(), overloaded=True)

    def _note_retry(self, state: RetryCallState) -> None:
        if isinstance(_fault_of(state), Unreachable) and (self._probe is None or self._probe.done()):
            self._probe = asyncio.current_task()
        self.activity.retries += 1
        log.info(
            "%s: try %d failed, asking again: %s", self.name, state.attempt_number, self.activity.trouble
        )

    async def _ask(self, job: _Job) -> list[Completion]:
        """Ask the endpoint within the limits, unless another run with this ledger gets the answers.

        A slot is held while a request is on the wire or its answer is being stored. The list is empty if
        another run has begun to ask meanwhile.
        """
        if self.services.ledger.claims.shared and (answers := await self._answers_of_others(job)):
            return answers
        order = self.services.order.get(job.stage.partition("/")[0], 0)
        await self.slots.take(order)
        while self._probe not in (None, job.task) and not (self._probe.done() or self.activity.answered):
            self.slots.give()
            await end_of(self._probe)
            await self.slots.take(order)
        try:
            if self._requests:
                await self._requests.take(1.0)
            if self._input:
                await self._input.take(len(job.request.json) / 4)
            if self._output:
                await self._output.take(0.0)
            return await self._ask_within_budget(job)
        finally:
            self.slots.give()

    async def _ask_within_budget(self, job: _Job) -> list[Completion]:
        """Reserve the worst case of a request, claim its keys, ask, and store its answers."""
        budget, ledger, pricing = self.services.budget, self.services.ledger, self._pricing
        cost, worst, excess = 0.0, pricing.worst_cost_usd(job.request, len(job.samples)), pricing.excess
        promised = budget.take_promised(job.keys)
        if not promised:
            await budget.reserve(worst)
        try:
            if self._refusal:
                raise self._refusal
            is_capped, is_lost = budget.max_cost_usd is not None, self._is_lost_with_run(job.request)
            at_risk = worst if is_capped and is_lost and not promised else 0.0
            claim = job.keys, self.services.run, job.stage, self.name
            if at_risk or not ledger.claims.take_alone(*claim):
                if not await ledger.claim(*claim, at_risk):
                    return []
            alone = job.period and job.period == ledger.claims.period
            if not alone and (answers := self._found_in_ledger(job)):
                return answers
            if is_capped and self.paid and not is_lost:
                await ledger.promises.make(job.keys[0], self.services.run, worst)
            self.activity.sending[job.task] = time.monotonic()
            try:
                completions = await self.endpoint.answer(job.request, job.samples, job.attempt)
            except (Retryable, Rejected, NothingAsked, asyncio.CancelledError) as error:
                if usage := self._usage_of(job, error):
                    cost = pricing.cost_usd(job.request, usage)
                    await ledger.add([self._row(job, os.urandom(16), usage)])
                if not isinstance(error, asyncio.CancelledError) and (end := ledger.promises.end(job.keys)):
                    await end
                raise
            except DistillgenError:
                raise
            except Exception as error:  # of a provider's code
                mistake = self._mistake(job, error)
                if mistake.path is None:
                    raise
                raise mistake from error
            now = self.activity.moved_at = time.monotonic()
            self.slots.note(now)
            counted = pricing.counted(job.request, len(job.samples), completions[: len(job.samples)])
            cost = sum(pricing.cost_usd(job.request, answer) for answer in counted)
            self.activity.answered += 1
            self._unanswered = 0
            self._settle(counted, len(job.request.json) / 4)
            return await self._record(job, counted)
        finally:
            pricing.check(cost, worst, excess)
            budget.settle(promised or worst, cost)
            ledger.claims.release(job.keys)
            self.activity.sending.pop(job.task, None)

    def _mistake(self, job: _Job, error: Exception) -> UserCodeError:
        """Return the error for an exception of the endpoint; without a path if it ships with distillgen."""
        turns, request = job.request.messages, job.request
        content = turns[-1].get("content") if turns else request.prompt or request.embed or ""
        text = clipped(self.redact(str(content)), 60)
        where = f"model '{self.name}', stage '{job.stage}', request '{text}'"
        return user_error(error, f"provider '{self.spec.provider}' ({where})")

    async def _answers_of_others(self, job: _Job) -> list[Completion]:
        """Wait while another run asks for these keys; return the answers that it got, if any."""
        pause_s, claims = 0.05, self.services.ledger.claims
        self._waiting += 1
        try:
            while claims.elsewhere(job.keys):
                self.activity.note = "waiting for answers that another run with this ledger asks for"
                self.activity.moved_at = time.monotonic()
                await asyncio.sleep(pause_s * max(1.0, self._waiting / 1000))
                pause_s = min(1.0, 1.5 * pause_s)
                self.activity.note = ""
        finally:
            self._waiting -= 1
        return self._found_in_ledger(job)

    def _found_in_ledger(self, job: _Job) -> list[Completion]:
        """Return the answers that another run has stored since this one looked."""
        rows = self.services.ledger.find(job.keys)
        completions = (Completion.from_row(key, *row) for key, row in rows.items())
        return [completion for completion in completions if completion.attempt >= job.attempt]

    def _settle(self, completions: Sequence[Completion], input_estimate: float) -> None:
        """Count tokens, and correct the rates, which have taken an estimate."""
        input_tokens = sum(c.input_tokens for c in completions)
        output_tokens = sum(c.output_tokens for c in completions)
        self.activity.input_tokens += input_tokens
        self.activity.output_tokens += output_tokens
        if self._input and input_estimate:
            self._input.settle(input_tokens - input_estimate)
        if self._output:
            self._output.settle(output_tokens)

    def _is_lost_with_run(self, request: Request) -> bool:
        """Return whether a paid answer cannot come once the run has ended."""
        return self.paid and not (self.durable and request.asks_text)

    def _usage_of(self, job: _Job, error: BaseException) -> Completion | None:
        """Return the usage that an unanswered request may be billed for, or None."""
        lost = LOST_ANSWER if self._is_lost_with_run(job.request) else None
        usage = getattr(error, "used", lost)
        if usage is None:
            return None
        usage = usage._replace(error=self.redact(str(error) or "given up"))
        counted = self._pricing.counted(job.request, len(job.samples), [usage])
        self._settle(counted, 0.0)
        return counted[0]

    async def _record(self, job: _Job, completions: Sequence[Completion]) -> list[Completion]:
        """Store the completions without secrets, and return them as the ledger will give them."""
        hidden = self.services.hidden
        safe = list[Completion]()
        for key, c in zip(job.keys, completions, strict=False):
            model = self.endpoint.model_name(c.model)
            c = c._replace(key=key, attempt=job.attempt, model=hide(model, hidden) if hidden else model)
            safe.append(without_credentials(self._credentials, c) if self._credentials else c)
        rows = [self._row(job, c.key, c, requests=int(i == 0)) for i, c in enumerate(safe)]
        await self.services.ledger.add(rows)
        if any(row.signals for row in rows):  # numbers are rounded as they are packed
            return [Completion.from_row(row.key, row.status, row.completion, row.signals) for row in rows]
        return safe

    def _row(self, job: _Job, key: bytes, c: Completion, requests: int = 0) -> Answer:
        """Return a ledger row; values of the environment are taken out of the request."""
        hidden, request = self.services.hidden, job.request.json
        if hidden:
            request = hide(request.decode(), hidden).encode()
        return Answer(
            key,
            self.services.run,
            job.stage,
            self.name,
            c.status,
            requests,
            job.retries if requests else 0,
            c.input_tokens,
            c.cached_tokens,
            c.output_tokens,
            self._pricing.cost_usd(job.request, c),
            request,
            c.json(),
            pack(c.logprobs, c.embedding),
            c.cache_write_tokens,
            c.reasoning_tokens,
        )


def _fault_of(state: RetryCallState) -> Retryable:
    """Return the fault of the last attempt."""
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Retryable)
    return error


def _by_first_messages(asks: Sequence[tuple[Request, int]]) -> list[int]:
    """Return the order of sending: requests that differ only in their last message follow each other."""
    groups: dict[bytes, list[int]] = {}
    for i, (request, _) in enumerate(asks):
        groups.setdefault(dumps(request.messages[:-1]), []).append(i)
    return [i for group in groups.values() for i in group]


def _joined(
    keys: Sequence[bytes],
    from_ledger: Mapping[bytes, Completion],
    tasks: Sequence[asyncio.Task[list[Completion]]],
) -> list[Completion]:
    """Return the completions of one request, from the ledger and from tasks that have ended."""
    completions = {**from_ledger, **{c.key: c for task in tasks for c in task.result()}}
    return [completions[key] for key in keys]


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Mark a task's error as seen; asyncio logs an error that nothing has retrieved."""
    if not task.cancelled():
        task.exception()
