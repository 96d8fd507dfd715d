"""Asking: requests in, durable completions out. The only layer that touches a model endpoint.

`Teacher.begin` looks answers up in the ledger and starts what is missing; a subclass only knows how to put one request
to its endpoint (`answer`). Identical requests in flight are asked once.
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

from distillgen.inference.endpoint import Endpoint
from distillgen.inference.faults import Rejected, Retryable, TeacherDown, TimedOut, Unreachable
from distillgen.inference.ledger import UNANSWERED, Answer
from distillgen.inference.limits import Rate, Slots
from distillgen.inference.logprobs import pack
from distillgen.inference.outcome import Outcome, end_of
from distillgen.inference.redaction import hide, without_credentials
from distillgen.inference.request import LOST_ANSWER, Completion, Request
from distillgen.record import dumps

log = logging.getLogger("distillgen")

REJECTIONS = 20  # requests refused, none ever accepted: the pipeline is wrong, not its rows

_backoff = wait_random_exponential(multiplier=0.5, max=60)


@dataclass(slots=True)
class _Ask:
    """One request on its way: the samples that it is for, with their ledger keys."""

    request: Request
    samples: Sequence[int]
    keys: Sequence[bytes]
    stage: str
    attempt: int
    retries: int = 0
    task: asyncio.Task[list[Completion]] = field(init=False)

    def leave_out(self, answered: set[bytes]) -> None:
        """What is left is a request of its own."""
        left = [
            (sample, key) for sample, key in zip(self.samples, self.keys, strict=True) if key not in answered
        ]
        self.samples, self.keys, self.retries = [sample for sample, _ in left], [key for _, key in left], 0


class Teacher:
    """Answers requests through an endpoint: each from the ledger if it can, within limits and a budget if it must ask."""

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
        self._flying: dict[bytes, asyncio.Task[list[Completion]]] = {}
        self._refusal: Exception | None = None
        self._rejected = 0
        self._credentials = dict.fromkeys(self.spec.credentials(), "[withheld]")
        self._probe: asyncio.Task[Any] | None = None
        """The request that finds out whether an endpoint is there at all; meanwhile others are not sent."""
        self._waiting = 0
        self._excess = 1.0
        self._doubts: set[str] = set()

    @property
    def identity(self) -> str:
        """What tells this endpoint's answers from another's; part of every ledger key."""
        return self.endpoint.identity

    @property
    def model(self) -> str:
        """What requests call the model."""
        return self.endpoint.model

    @property
    def tokenizer(self) -> str:
        """What names the model's tokenizer beside exported signals."""
        return self.endpoint.tokenizer

    @property
    def api(self) -> str:
        """Return "chat" if the model takes chat turns, "completions" if it continues one text."""
        return self.endpoint.api

    def asked(self, messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What of a request carries these chat turns to it, which are texts where it goes on with one text."""
        if self.api == "completions":
            return {"prompt": "\n\n".join(message["content"] for message in messages)}
        return {"messages": messages}

    def begin(
        self,
        asks: Sequence[tuple[Request, int]],
        *,
        stage: str,
        again: Callable[[Completion], bool] | None = None,
        changed: Mapping[str, Any] | None = None,
    ) -> list[Outcome[list[Completion]]]:
        """Return the outcome of each (request, number of samples); it is ready if the ledger has all the completions.

        `again` picks stored completions that are to be asked once more, with the `changed` sampling parameters. Requests
        that begin alike are sent one after the other, for the sake of the endpoint's prefix cache.
        """
        identity = self.identity
        keys = [request.keys(identity, n) for request, n in asks]
        kept = self.services.ledger.find([key for some in keys for key in some])
        stored = {key: Completion.stored(key, *row) for key, row in kept.items()}
        self.activity.replayed += len(stored)
        if allowed := self.spec.finish_reasons:
            mended = {
                key: _allowed(c) for key, c in stored.items() if c.status == "failed" and c.finish in allowed
            }
            stored |= mended
        outcomes: list[Any] = [None] * len(asks)
        together, loop = "n" in self.spec.capabilities, asyncio.get_running_loop()
        for i in _alike_together(asks) if len(stored) < len(keys) or again else range(len(asks)):
            request, ks = asks[i][0], keys[i]
            missing = [s for s, key in enumerate(ks) if key not in stored or (again and again(stored[key]))]
            if not missing:
                outcomes[i] = Outcome.of([stored[key] for key in ks])
                continue
            new = [s for s in missing if ks[s] not in self._flying]
            for group in [new] if together and new else [[s] for s in new]:
                attempt = max((stored[ks[s]].attempt + 1 for s in group if ks[s] in stored), default=0)
                sent = replace(request, sampling={**request.sampling, **changed}) if changed else request
                ask = _Ask(sent, group, [ks[s] for s in group], stage, attempt)
                ask.task = loop.create_task(self._fetch(ask))
                ask.task.add_done_callback(_retrieve)
                self._flying.update(dict.fromkeys(ask.keys, ask.task))
            tasks = list({self._flying[ks[s]]: None for s in missing})
            outcomes[i] = Outcome(
                partial(_joined, ks, {key: stored[key] for key in ks if key in stored}, tasks), tasks
            )
        return outcomes

    @property
    def idle(self) -> bool:
        """Whether it has nothing to answer."""
        return not self._flying

    async def stop(self, reason: Exception) -> None:
        """Send nothing more. What has been paid for is waited for and made durable; the rest is abandoned."""
        self._refusal = reason
        self.endpoint.stop(reason)
        flying = set(self._flying.values())
        for task in flying:
            if not self.paid or task not in self.activity.sending:
                task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)

    async def close(self) -> None:
        """Free what the endpoint holds."""
        await self.endpoint.close()

    def abandon(self) -> None:
        """Give up what is in flight as well."""
        for task in set(self._flying.values()):
            task.cancel()

    def cost_usd(self, completion: Completion) -> float:
        """What an answer cost by the model's price, 0 where none is given. What is uncounted may be of the dearest kind."""
        c = completion
        if self.spec.price is None:
            return 0.0
        if "input_tokens" in c.uncounted:
            return self.spec.most_usd(c.input_tokens, c.output_tokens)
        return self.spec.cost_usd(c.input_tokens, c.cached_tokens, c.output_tokens, c.cache_write_tokens)

    def worst_cost_usd(self, request: Request, samples: int) -> float:
        """A bound on what a request can cost: a token has at least one byte, an answer at most `max_tokens`. An endpoint
        whose answers have cost more than that is not trusted to keep to it.
        """
        if self.spec.price is None:
            return 0.0
        return self.spec.most_usd(len(request.json), _most_output(request, samples)) * self._excess

    async def _fetch(self, ask: _Ask) -> list[Completion]:
        """Try until answered or hopeless; a slot is held only while a request is on the wire or becomes durable."""
        keys, completions = ask.keys, list[Completion]()
        try:
            while len(completions) < len(keys):
                try:
                    answers = await self._once(ask)
                except Retryable as fault:
                    answers = await self._again(ask, fault)
                completions += answers
                if answers and len(completions) < len(keys):
                    ask.leave_out({c.key for c in answers})
            return completions
        except (Retryable, Rejected) as error:
            reason = self.redact(str(error))
            if self._is_absent(error, ask.retries + 1):
                self._refusal = self.endpoint.down(reason)
                raise self._refusal from error
            log.warning("%s: a request failed after %d retries: %s", self.name, ask.retries, reason)
            self.activity.failed += 1
            self._rejected += 1
            if self._rejected >= REJECTIONS and not self.activity.answered:
                self._refusal = self.endpoint.down(
                    f"none of {self._rejected} requests was accepted; the last: {reason}"
                )
                raise self._refusal from error
            failed = Completion(status="failed", error=self.endpoint.apart(reason))
            return completions + await self._record(ask, [failed for _ in ask.samples])
        except TeacherDown as error:
            self._refusal = error
            raise
        finally:
            for key in keys:
                self._flying.pop(key, None)

    async def _once(self, ask: _Ask) -> list[Completion]:
        """Answers that another run with this ledger got, else those of the endpoint; none if that run got none."""
        if self.services.ledger.claims.shared and (answers := await self._elsewhere(ask)):
            return answers
        return await self._try(ask)

    async def _again(self, ask: _Ask, first_fault: Retryable) -> list[Completion]:
        """Try again after a first fault, until there is an answer or no hope. Most requests never come here: an attempt
        costs 20 µs more under tenacity.
        """
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(Retryable),
            wait=self._wait_s,
            stop=self._is_hopeless,
            after=self._note_fault,
            before_sleep=self._note_retry,
            sleep=asyncio.sleep,
            reraise=True,
        )
        faults = [first_fault]

        async def attempt() -> list[Completion]:
            if faults:
                raise faults.pop()
            ask.retries += 1
            return await self._once(ask)

        return await attempts(attempt)

    def _wait_s(self, state: RetryCallState) -> float:
        """Seconds before the next attempt: as many as the endpoint asks for, at least."""
        return max(_backoff(state), _fault_of(state).retry_after_s)

    def _is_hopeless(self, state: RetryCallState) -> bool:
        """Whether a further attempt makes no sense."""
        fault, tries = _fault_of(state), state.attempt_number
        return (
            tries > self.spec.max_retries
            or (isinstance(fault, TimedOut) and tries > 1)
            or self._is_absent(fault, tries)
        )

    def _is_absent(self, error: Exception, tries: int) -> bool:
        """Whether the endpoint has never answered, and could not be reached so many times."""
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

    async def _try(self, ask: _Ask) -> list[Completion]:
        request, activity, budget, ledger = (
            ask.request,
            self.activity,
            self.services.budget,
            self.services.ledger,
        )
        cost, estimate = 0.0, len(request.json) / 4
        order = self.services.order.get(ask.stage.partition("/")[0], 0)
        await self.slots.take(order)
        while self._probe not in (None, ask.task) and not (self._probe.done() or activity.answered):
            self.slots.give()
            await end_of(self._probe)
            await self.slots.take(order)
        try:
            if self._requests:
                await self._requests.take(1.0)
            if self._input:
                await self._input.take(estimate)
            if self._output:
                await self._output.take(0.0)
            worst, excess = self.worst_cost_usd(request, len(ask.samples)), self._excess
            await budget.reserve(worst)
            try:
                if self._refusal:
                    raise self._refusal
                at_risk = worst if budget.max_cost_usd is not None and self.paid and not self.durable else 0.0
                claim = ask.keys, self.services.run, ask.stage, self.name
                if (at_risk or not ledger.claims.take_alone(*claim)) and not await ledger.claim(
                    *claim, at_risk
                ):
                    return []
                if ledger.claims.shared and (answers := self._answered(ask)):
                    return answers
                activity.sending[ask.task] = time.monotonic()
                try:
                    completions = (await self.endpoint.answer(request, ask.samples, ask.attempt))[
                        : len(ask.samples)
                    ]
                except (Retryable, Rejected, asyncio.CancelledError) as error:
                    used = getattr(error, "used", LOST_ANSWER if self.paid and not self.durable else None)
                    if used is not None:
                        used = self._bounded(
                            ask, [used._replace(error=self.redact(str(error) or "given up"))]
                        )[0]
                        cost = self.cost_usd(used)
                        self._count([used], 0.0)
                        await self.services.ledger.add([self._row(ask, os.urandom(16), used)])
                    raise
                now = activity.moved_at = time.monotonic()
                self.slots.note(now)
                if completions[0].uncounted:
                    completions = self._bounded(ask, completions)
                if (
                    completions[0].cache_write_tokens
                    and self.spec.price
                    and self.spec.price.cache_write is None
                ):
                    self._doubt(
                        "the endpoint counts what it writes to a cache; without price.cache_write that costs as input"
                    )
                cost = sum(self.cost_usd(c) for c in completions)
                activity.answered += 1
                self._count(completions, estimate)
                return await self._record(ask, completions)
            finally:
                if cost > 1.000001 * worst > 0:
                    self._excess = max(self._excess, 2 * excess * cost / worst)
                    self._doubt(
                        "an answer cost more than its request can; twice as much as that is set aside from now on"
                    )
                budget.settle(worst, cost)
                ledger.claims.release(ask.keys)
                activity.sending.pop(ask.task, None)
        finally:
            self.slots.give()

    async def _elsewhere(self, ask: _Ask) -> list[Completion]:
        """What another run is answered, once it no longer asks for any of this; nothing where it got no answer."""
        pause_s, claims = 0.05, self.services.ledger.claims
        self._waiting += 1
        try:
            while claims.elsewhere(ask.keys):
                self.activity.note = "waiting for answers that another run with this ledger asks for"
                self.activity.moved_at = time.monotonic()
                await asyncio.sleep(pause_s * max(1.0, self._waiting / 1000))
                pause_s = min(1.0, 1.5 * pause_s)
                self.activity.note = ""
        finally:
            self._waiting -= 1
        return self._answered(ask)

    def _answered(self, ask: _Ask) -> list[Completion]:
        """What another run has been answered since this one looked."""
        stored = (Completion.stored(key, *row) for key, row in self.services.ledger.find(ask.keys).items())
        return [completion for completion in stored if completion.attempt >= ask.attempt]

    def _bounded(self, ask: _Ask, completions: Sequence[Completion]) -> list[Completion]:
        """The completions of a request with the most that they can have used, of what the endpoint does not say."""
        first, *others = completions
        most = _most_output(ask.request, len(ask.samples))
        bounds = {
            "input_tokens": len(ask.request.json),
            "output_tokens": most or sum(len(c.json()) for c in completions),
        }
        if first.status not in UNANSWERED:
            self._doubt(
                "the endpoint does not say what its answers use; they are counted with the most that they can"
            )
        return [
            first._replace(**{name: max(bounds[name], getattr(first, name)) for name in first.uncounted}),
            *others,
        ]

    def _doubt(self, why: str) -> None:
        """Say once why what is counted is not what is billed."""
        if why not in self._doubts:
            self._doubts.add(why)
            log.warning("%s: %s", self.name, why)

    def _count(self, completions: Sequence[Completion], estimate: float) -> None:
        read, written = sum(c.input_tokens for c in completions), sum(c.output_tokens for c in completions)
        self.activity.input_tokens += read
        self.activity.output_tokens += written
        if self._input and estimate:
            self._input.settle(read - estimate)
        if self._output:
            self._output.settle(written)

    async def _record(self, ask: _Ask, completions: Sequence[Completion]) -> list[Completion]:
        """Make the completions durable."""
        hidden = self.services.hidden
        known = [
            c._replace(key=key, attempt=ask.attempt, model=hide(self.endpoint.called(c.model), hidden))
            for key, c in zip(ask.keys, completions, strict=False)
        ]
        if self._credentials:
            known = [without_credentials(self._credentials, c) for c in known]
        rows = [self._row(ask, c.key, c, requests=int(i == 0)) for i, c in enumerate(known)]
        await self.services.ledger.add(rows)
        if any(row.signals for row in rows):  # as they will be read back
            known = [Completion.stored(row.key, row.status, row.completion, row.signals) for row in rows]
        return known

    def _row(self, ask: _Ask, key: bytes, c: Completion, requests: int = 0) -> Answer:
        """A ledger row; what came from the environment is not written, though the endpoint repeats it."""
        hidden, request = self.services.hidden, ask.request.json
        if hidden:
            request = hide(request.decode(), hidden).encode()
        return Answer(
            key,
            self.services.run,
            ask.stage,
            self.name,
            c.status,
            requests,
            ask.retries if requests else 0,
            c.input_tokens,
            c.cached_tokens,
            c.output_tokens,
            self.cost_usd(c),
            request,
            c.json(),
            pack(c.logprobs, c.embedding),
            c.cache_write_tokens,
            c.reasoning_tokens,
        )


def _fault_of(state: RetryCallState) -> Retryable:
    """The fault of the last attempt."""
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Retryable)
    return error


def _alike_together(asks: Sequence[tuple[Request, int]]) -> list[int]:
    """The order in which to send: those with the same messages before the last one after the other, else as they come."""
    groups: dict[bytes, list[int]] = {}
    for i, (request, _) in enumerate(asks):
        groups.setdefault(dumps(request.messages[:-1]), []).append(i)
    return [i for group in groups.values() for i in group]


def _joined(
    keys: Sequence[bytes], stored: Mapping[bytes, Completion], tasks: Sequence[asyncio.Task[list[Completion]]]
) -> list[Completion]:
    """The completions of one request: those that were stored, and those that tasks have brought."""
    completions = {**stored, **{c.key: c for task in tasks for c in task.result()}}
    return [completions[key] for key in keys]


def _most_output(request: Request, samples: int) -> int:
    """The most tokens that the answers to a request can have, 0 where that has no bound."""
    if request.embed is not None or request.target is not None:
        return 0 if request.target is None else samples
    most = request.sampling.get("max_tokens", 0)
    if extra := request.sampling.get("extra"):
        counts = {name: value for name, value in extra.items() if isinstance(value, int)}
        most = max(most, counts.get("max_tokens", 0), counts.get("max_completion_tokens", 0))
        samples = max(samples, counts.get("n", 0), counts.get("best_of", 0))
    return int(most * samples)


def _allowed(completion: Completion) -> Completion:
    """An answer that failed only by its finish reason, which ends a whole one now."""
    return completion._replace(status="ok", error="", finish="")


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
