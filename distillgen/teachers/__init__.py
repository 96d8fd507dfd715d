"""Asking: requests in, durable completions out. The only layer that touches a model endpoint.

`Teacher.begin` looks answers up in the ledger and starts what is missing; a subclass only knows how to put one request
to its endpoint (`answer`). Identical requests in flight are asked once.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import orjson
from pydantic import BaseModel, ConfigDict, Field
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from distillgen.errors import ConfigError, DistillgenError, Stopped, did_you_mean
from distillgen.ledger import Answer, Ledger, Usage
from distillgen.project import class_in
from distillgen.prompt import Sampling
from distillgen.record import dumps
from distillgen.teachers.limits import Budget, Rate

log = logging.getLogger("distillgen")


@dataclass(frozen=True)
class Request:
    """Everything that is sent. `messages` for chat (content: text or a list of parts), or `prompt` for completion."""

    model: str
    messages: Sequence[Mapping[str, Any]] = ()
    prompt: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    grammar: str | None = None
    tools: Sequence[Mapping[str, Any]] | None = None

    @cached_property
    def json(self) -> bytes:
        """Canonical JSON of what was given."""
        given = ((f.name, getattr(self, f.name)) for f in fields(self))
        return dumps({name: value for name, value in given if value not in (None, (), [], {})})

    def keys(self, endpoint: str, samples: int) -> list[bytes]:
        """The ledger keys of samples 0, 1, …: SHA-256 of the endpoint's identity, everything sent, and the index."""
        common = hashlib.sha256(dumps(endpoint) + self.json)
        keys = []
        for sample in range(samples):
            one = common.copy()
            one.update(b"#%d" % sample)
            keys.append(one.digest())
        return keys


@dataclass(frozen=True, slots=True)
class Completion:
    """Everything that came back. `status` is ok, length (cut off), refused, or failed (`error` says how).

    `logprobs` holds one [token, log-probability, [[token, log-probability], …]] a token, natural logarithm.
    """

    text: str = ""
    status: str = "ok"
    reasoning: str = ""
    tool_calls: Sequence[Mapping[str, Any]] = ()
    logprobs: Sequence[Sequence[Any]] = ()
    model: str = ""
    error: str = ""
    key: bytes = b""
    attempt: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    @classmethod
    def stored(cls, answer: Answer) -> Completion:
        """From the ledger."""
        return cls(status=answer.status, key=answer.key, **orjson.loads(answer.completion))

    def json(self) -> bytes:
        """As kept in the ledger: what the row's own columns do not hold."""
        names = ("text", "reasoning", "tool_calls", "logprobs", "model", "error", "attempt")
        return dumps({name: value for name in names if (value := getattr(self, name))})


class Retryable(Exception):
    """The endpoint could not answer now; `retry_after_s` is what it asked for, in seconds."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unreachable(Retryable):
    """No connection could be made."""


class TimedOut(Retryable):
    """No answer came in time; tried twice, because a third wait is rarely better."""


class Rejected(Exception):
    """The endpoint will not answer this request, whatever is done; the row fails and its neighbours go on."""


class TeacherDown(DistillgenError):
    """No request can succeed until a person acts: a wrong key, a wrong address, a server that is down."""


class Price(BaseModel):
    """US dollars for 1,000,000 tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(0.0, ge=0)
    output: float = Field(0.0, ge=0)
    cached_input: float | None = Field(None, ge=0, description="of tokens read from the provider's cache")

    def cost_usd(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        """What these tokens cost; `cached_tokens` are among `input_tokens`."""
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = input_tokens - cached_tokens
        return (fresh * self.input + cached_tokens * cached + output_tokens * self.output) / 1e6


class Spec(Sampling):
    """One entry of `models`: where a model is, what it may be asked and what it costs. Sampling options are its defaults."""

    provider: str = Field(description="the kind of teacher: openai, embedded or scripted")
    model: str = Field(description="the model's name at its endpoint")
    max_concurrency: int = Field(64, ge=1, description="most requests in flight")
    rpm: float | None = Field(None, gt=0, description="most requests a minute")
    input_tpm: float | None = Field(None, gt=0, description="most prompt tokens a minute")
    output_tpm: float | None = Field(None, gt=0, description="most answer tokens a minute")
    price: Price | None = None
    max_retries: int = Field(8, ge=0, description="tries after the first, for faults that pass")

    def secrets(self) -> list[str]:
        """Values that must never be written."""
        return []

    def check(self, root: Path) -> None:
        """Raise ConfigError where the entry cannot work; nothing is asked."""


@dataclass
class Activity:
    """What a teacher is doing, for progress and the watchdog. Times are of the monotonic clock, in seconds."""

    answered: int = 0
    failed: int = 0
    retries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    trouble: str = ""
    note: str = ""
    sending: dict[asyncio.Task[Any], float] = field(default_factory=dict)
    moved_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Services:
    """What a teacher is handed: where answers are kept, the purse, the run's name, the project's folder, and what came
    from the environment and must not be written, each value with the ${NAME} that stands for it.
    """

    ledger: Ledger
    budget: Budget
    run: str
    root: Path
    hidden: Mapping[str, str] = field(default_factory=dict)


class Teacher:
    """Answers requests. Subclasses set `capabilities` and `identity` and implement `answer`."""

    spec_type: ClassVar[type[Spec]] = Spec
    capabilities: frozenset[str] = frozenset()
    identity: str = ""
    """What tells this endpoint's answers from another's; part of every ledger key."""
    paid: bool = True
    """Whether what is in flight is worth waiting for when a run is stopped."""

    def __init__(self, name: str, spec: Spec, services: Services, *, shown_model: str = "") -> None:
        """`shown_model` is the model's name as it may be written, where it comes from the environment."""
        self.name, self.spec, self.services = name, spec, services
        self.shown_model = shown_model or spec.model
        self.activity = Activity()
        self._slots = asyncio.Semaphore(spec.max_concurrency)
        self._requests, self._input, self._output = Rate(spec.rpm), Rate(spec.input_tpm), Rate(spec.output_tpm)
        self._flying: dict[bytes, asyncio.Task[list[Completion]]] = {}
        self._refusal: Exception | None = None
        self._rejected = 0

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Put one request to the endpoint: a completion for each of `samples`. Raises Retryable, Rejected or TeacherDown."""
        raise NotImplementedError

    async def close(self) -> None:
        """Free what the endpoint's client holds."""

    def begin(
        self, asks: Sequence[tuple[Request, int]], *, stage: str, again: Callable[[Completion], bool] | None = None,
        changed: Mapping[str, Any] | None = None,
    ) -> list[list[Completion] | Awaitable[list[Completion]]]:  # fmt: skip
        """For each (request, number of samples): its completions if the ledger has them all, else something to await.

        `again` picks stored completions that are to be asked once more, with the `changed` sampling parameters.
        """
        keys = [request.keys(self.identity, n) for request, n in asks]
        rows = self.services.ledger.find([k for ks in keys for k in ks])
        stored = {k: Completion.stored(row) for k, row in rows.items()}
        outcomes: list[list[Completion] | Awaitable[list[Completion]]] = []
        for (request, _), ks in zip(asks, keys, strict=True):
            missing = [i for i, k in enumerate(ks) if k not in stored or (again and again(stored[k]))]
            if not missing:
                outcomes.append([stored[k] for k in ks])
                continue
            new = [i for i in missing if ks[i] not in self._flying]
            for group in [new] if "n" in self.capabilities and new else [[i] for i in new]:
                attempt = max((stored[ks[i]].attempt + 1 for i in group if ks[i] in stored), default=0)
                sent = replace(request, sampling={**request.sampling, **changed}) if changed else request
                task = asyncio.create_task(self._fetch(sent, group, [ks[i] for i in group], stage, attempt))
                task.add_done_callback(_retrieve)
                self._flying.update((ks[i], task) for i in group)
            tasks = list({self._flying[ks[i]]: None for i in missing})
            outcomes.append(_Pending(ks, {k: stored[k] for k in ks if k in stored}, tasks))
        return outcomes

    async def ask(self, request: Request, *, samples: int = 1, stage: str) -> list[Completion]:
        """One request's completions, from the ledger or the endpoint."""
        outcome = self.begin([(request, samples)], stage=stage)[0]
        return outcome if isinstance(outcome, list) else await outcome

    async def stop(self, reason: Exception) -> None:
        """Send nothing more. What has been paid for is waited for and made durable; the rest is abandoned."""
        self._refusal = reason
        tasks = set(self._flying.values())
        for task in tasks:
            if not self.paid or task not in self.activity.sending:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def abandon(self) -> None:
        """Give up what is in flight as well."""
        for task in set(self._flying.values()):
            task.cancel()

    def cost_usd(self, completion: Completion) -> float:
        """What an answer cost by the model's price, 0 where none is given."""
        c, price = completion, self.spec.price
        return price.cost_usd(c.input_tokens, c.cached_tokens, c.output_tokens) if price else 0.0

    def worst_cost_usd(self, request: Request, samples: int) -> float:
        """A bound on what a request can cost: a token has at least one byte, an answer at most `max_tokens`."""
        most = request.sampling.get("max_tokens", 0) * samples
        return self.spec.price.cost_usd(len(request.json), 0, most) if self.spec.price else 0.0

    def redact(self, text: str) -> str:
        """`text` without any secret of this teacher's, and then cut, so that no part of one is left at the cut."""
        secrets = dict.fromkeys(self.spec.secrets(), "[withheld]") | dict(self.services.hidden)
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, secrets[secret])
        return text[:REASON]

    async def _fetch(
        self, request: Request, samples: Sequence[int], keys: Sequence[bytes], stage: str, attempt: int
    ) -> list[Completion]:
        """Try until answered or hopeless; a slot is held only while a request is on the wire or becomes durable."""
        retries = 0
        first: Retryable | None = None

        async def record(completions: Sequence[Completion]) -> list[Completion]:
            known = [replace(c, key=k, attempt=attempt) for k, c in zip(keys, completions, strict=True)]
            if self.shown_model != self.spec.model:  # from the environment: not written, though the endpoint repeats it
                known = [replace(c, model=self.shown_model) for c in known]
            await self.services.ledger.add(self._rows(known, request, stage, retries))
            return known

        async def send() -> list[Completion]:
            return await self._send(request, samples, attempt, record)

        async def again() -> list[Completion]:
            nonlocal retries, first
            if error := first:
                first = None
                raise error
            retries += 1
            return await send()

        try:
            try:
                return await send()
            except Retryable as error:  # only now: tenacity costs 0.1 ms even where nothing is repeated
                first = error
            passing = retry_if_exception_type(Retryable)
            retrying = AsyncRetrying(
                stop=self._hopeless, retry=passing, wait=_wait, before_sleep=self._note_retry, reraise=True
            )  # fmt: skip
            return await retrying(again)
        except (Retryable, Rejected) as error:
            reason = self.redact(str(error))
            log.warning("%s: a request failed after %d retries: %s", self.name, retries, reason)
            self.activity.failed += 1
            if isinstance(error, Rejected) and not self.activity.answered:
                self._rejected += 1
                if self._rejected >= REJECTIONS:
                    raise self._down(f"none of {self._rejected} requests was accepted; the last: {reason}") from error
            return await record([Completion(status="failed", error=reason) for _ in samples])
        finally:
            for key in keys:
                self._flying.pop(key, None)

    def _rows(self, completions: Sequence[Completion], request: Request, stage: str, retries: int) -> list[Answer]:
        sent = (request if self.shown_model == request.model else replace(request, model=self.shown_model)).json
        rows = []
        for i, c in enumerate(completions):
            usage = Usage(
                self.services.run, stage, self.name, c.status, 1, int(i == 0), retries if i == 0 else 0,
                c.input_tokens, c.cached_tokens, c.output_tokens, self.cost_usd(c),
            )  # fmt: skip
            rows.append(Answer(c.key, c.status, sent, c.json(), usage))
        return rows

    async def _send(
        self, request: Request, samples: Sequence[int], attempt: int,
        record: Callable[[Sequence[Completion]], Awaitable[list[Completion]]],
    ) -> list[Completion]:  # fmt: skip
        worst, estimate = self.worst_cost_usd(request, len(samples)), len(request.json) / 4
        task = asyncio.current_task()
        assert task is not None
        async with self._slots:
            for rate, units in ((self._requests, 1.0), (self._input, estimate), (self._output, 0.0)):
                await rate.take(units)
            await self.services.budget.reserve(worst)
            self.activity.sending[task] = time.monotonic()
            cost = 0.0
            try:
                if self._refusal:
                    raise self._refusal
                completions = await self.answer(request, samples, attempt)
                cost = sum(self.cost_usd(c) for c in completions)
                self._note_answer(completions, estimate)
                return await record(completions)
            except TeacherDown as error:
                self._refusal = error
                raise
            finally:
                self.services.budget.settle(worst, cost)
                self.activity.sending.pop(task, None)
                self.activity.moved_at = time.monotonic()

    def _note_answer(self, completions: Sequence[Completion], estimate: float) -> None:
        read, written = sum(c.input_tokens for c in completions), sum(c.output_tokens for c in completions)
        self.activity.answered += 1
        self.activity.input_tokens += read
        self.activity.output_tokens += written
        self._input.settle(read - estimate)
        self._output.settle(written)

    def _hopeless(self, state: RetryCallState) -> bool:
        most = 1 + self.spec.max_retries
        if state.outcome and isinstance(state.outcome.exception(), TimedOut):
            most = min(2, most)
        return state.attempt_number >= most

    def _note_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self.activity.retries += 1
        self.activity.trouble = self.redact(str(error))
        log.info("%s: try %d failed, asking again: %s", self.name, state.attempt_number, self.activity.trouble)
        if isinstance(error, Unreachable) and not self.activity.answered and state.attempt_number >= CONNECTIONS:
            raise self._down(self.activity.trouble) from error

    def _down(self, message: str) -> TeacherDown:
        down = TeacherDown(f"model '{self.name}': {self.redact(message)}")
        self._refusal = down
        return down


REASON = 500  # most characters of what an endpoint says that are kept
REJECTIONS = 20  # requests refused in a row, none ever accepted: the pipeline is wrong, not its rows
CONNECTIONS = 4  # tries to connect to an endpoint that has never answered, about 3 s

_backoff = wait_random_exponential(multiplier=0.5, max=60)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after_s if isinstance(error, Retryable) else None
    return max(_backoff(state), asked or 0.0)


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


@dataclass(frozen=True)
class _Pending:
    """A request's completions, some of which are on their way. Awaiting it is shielded: a stage that is cancelled must
    not throw away an answer that is paid for.
    """

    keys: Sequence[bytes]
    known: dict[bytes, Completion]
    tasks: Sequence[asyncio.Task[list[Completion]]]

    def __await__(self) -> Generator[Any, None, list[Completion]]:
        for task in self.tasks:
            try:
                completions = yield from asyncio.shield(task).__await__()
            except asyncio.CancelledError:
                if task.cancelled():
                    raise Stopped("stopped before this request was sent") from None
                raise
            self.known.update((c.key, c) for c in completions)
        return [self.known[k] for k in self.keys]


def teacher_names() -> list[str]:
    """The providers that there are."""
    return sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*.py") if p.stem != "limits")


def teacher_class(provider: str) -> type[Teacher]:
    """The teacher in `teachers/<provider>.py`."""
    names = teacher_names()
    if provider not in names:
        raise ConfigError(f"there is no provider '{provider}'{did_you_mean(provider, names)}")
    return class_in(f"distillgen.teachers.{provider}", Teacher)
