"""The contract of a provider: an `Endpoint` puts one request to a model. A file of `teachers/` defines one.

Everything else is done by `Teacher`: the ledger, identical requests, retries, limits and the budget.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from distillgen.inference.faults import TeacherDown
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget, Rate
from distillgen.inference.redaction import hide
from distillgen.inference.request import Completion, Request
from distillgen.inference.spec import Spec
from distillgen.plugins import plugin_class
from distillgen.privacy import name_of
from distillgen.project import Project, file_sha256

REASON = 500  # most characters of what an endpoint says that are kept


@dataclass
class Activity:
    """What a teacher is doing, for progress and the watchdog. Times are of the monotonic clock, in seconds."""

    answered: int = 0
    replayed: int = 0
    """Answers that were in the ledger."""
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
    order: Mapping[str, int] = field(default_factory=dict)
    """The place of each stage in the pipeline: what a later one asks goes first, so that rows are finished, not only begun."""


class Endpoint:
    """Where a model answers. A subclass sets `spec_type` and `identity` and implements `answer`, and `close` if it holds a
    connection or a process.
    """

    spec_type: ClassVar[type[Spec]] = Spec
    paid: ClassVar[bool] = True
    """Whether what is in flight is worth waiting for when a run is stopped."""
    durable: bool = False
    """Whether what is in flight goes on, and is there later, when a run is given up."""
    ahead: int = 2
    """How many records may be under way for each request in flight, so that one slow answer holds up no others."""
    identity: str = ""
    """What tells this endpoint's answers from another's; part of every ledger key."""

    def __init__(self, name: str, spec: Spec, services: Services) -> None:
        self.name, self.spec, self.services = name, spec, services
        self.activity = Activity()
        self.max_concurrency = spec.max_concurrency
        self.requests = Rate(spec.rpm) if spec.rpm else None
        """One is taken for each call of `answer`; an endpoint that sends further requests within a call takes more."""

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Put one request to the endpoint: completions for the first of `samples`, at least one; what is missing is asked
        as a request of its own. Raises Retryable, Rejected or TeacherDown.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Free what the endpoint's client holds."""

    def stop(self, reason: Exception) -> None:
        """Prepare for the end of the run: `answer` is not called again."""

    @property
    def model(self) -> str:
        """What requests call the model: its name, or what its files hold, so that where they lie makes no difference."""
        return self.spec.model

    def called(self, reported: str) -> str:
        """What rows call the model that has answered, which the endpoint may have `reported`."""
        return name_of(reported or self.model)

    @property
    def api(self) -> str:
        """How it is asked: in chat turns (chat), or with one text that it goes on with (completions)."""
        return getattr(self.spec, "api", "chat")

    @property
    def tokenizer(self) -> str:
        """What names the model's tokenizer beside exported signals: the SHA-256 of its files, or its name."""
        path = self.services.root / (self.spec.tokenizer or "")
        return file_sha256(path) if self.spec.tokenizer and path.exists() else self.spec.tokenizer or ""

    def redact(self, text: str) -> str:
        """`text` without any secret of this teacher's, and then cut, so that no part of one is left at the cut."""
        return hide(text, dict.fromkeys(self.spec.secrets(), "[withheld]") | dict(self.services.hidden))[
            :REASON
        ]

    def apart(self, reason: str) -> str:
        """Why a request failed, as rows tell it: without where the endpoint is."""
        return reason

    def down(self, message: str) -> TeacherDown:
        """The error that ends the run, without secrets."""
        return TeacherDown(f"model '{self.name}': {self.redact(message)}")


def endpoint_class(provider: str, project: Project) -> type[Endpoint]:
    """Return the endpoint of a provider. Raise ConfigError where there is none, or its file is broken."""
    return plugin_class("teachers", provider, Endpoint, project)
