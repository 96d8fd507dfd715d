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
from distillgen.inference.presets import preset_of, presets
from distillgen.inference.redaction import hide
from distillgen.inference.request import Completion, Request
from distillgen.inference.spec import Spec
from distillgen.plugins import plugin_class
from distillgen.privacy import name_of
from distillgen.project import Project, file_sha256

REASON = 500  # characters of an error message of an endpoint that are kept


@dataclass
class Activity:
    """The current state of a teacher, for the progress display. Times are of the monotonic clock, in
    seconds.
    """

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
    pausing: dict[asyncio.Task[Any], float] = field(default_factory=dict)
    """The requests that failed and are sent again, each with the time of its next try."""
    moved_at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Services:
    """What teachers share: the ledger, the budget, the run's name and the project's folder.

    `hidden` holds values of the environment that must not be written, each with the ${NAME} that replaces it.
    """

    ledger: Ledger
    budget: Budget
    run: str
    root: Path
    hidden: Mapping[str, str] = field(default_factory=dict)
    order: Mapping[str, int] = field(default_factory=dict)
    """The position of each stage in the pipeline. Requests of later stages go first, so that rows are
    finished.
    """
    seed: int = 0
    """The pipeline's seed."""


class Endpoint:
    """The place where a model answers.

    A subclass sets `spec_type` and `identity`, implements `answer`, and implements `close` if it holds a
    connection or a process. `identity` is part of every ledger key: it tells the answers of this endpoint
    from those of another.
    """

    spec_type: ClassVar[type[Spec]] = Spec
    paid: ClassVar[bool] = True
    """Whether a run that is stopped waits for answers in flight."""
    durable: bool = False
    """Whether the endpoint finishes requests in flight after the run has ended, as a batch API does."""
    ahead: int = 2
    """Records in progress for each request in flight, so that a slow answer does not block the others."""
    identity: str = ""

    def __init__(self, name: str, spec: Spec, services: Services) -> None:
        self.name, self.spec, self.services = name, spec, services
        self.activity = Activity()
        self.max_concurrency = spec.max_concurrency
        self.requests = Rate(spec.rpm) if spec.rpm else None
        """The limit of requests per minute. Each call of `answer` has taken one; take one for each further
        request.
        """

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Send one request and return completions for the first of `samples`, at least one.

        Samples without a completion are asked for in a request of their own. Raise Retryable, Rejected or
        TeacherDown.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Close connections and processes."""

    def stop(self, reason: Exception) -> None:
        """Prepare for the end of the run: `answer` is not called again."""

    @property
    def model(self) -> str:
        """The name of the model in requests. It does not depend on where the model's files are."""
        return self.spec.model

    def model_name(self, reported: str) -> str:
        """Return the name of the model in rows; `reported` is the name in the endpoint's answer."""
        return name_of(reported or self.model)

    @property
    def api(self) -> str:
        """The kind of prompt: "chat" for chat turns, "completions" for one text that the model continues."""
        return getattr(self.spec, "api", "chat")

    @property
    def tokenizer(self) -> str:
        """The name of the model's tokenizer in exported signals: the SHA-256 of its files, or its name."""
        path = self.services.root / (self.spec.tokenizer or "")
        return file_sha256(path) if self.spec.tokenizer and path.exists() else self.spec.tokenizer or ""

    def redact(self, text: str) -> str:
        """Return the text without secrets, cut to a few hundred characters."""
        hidden = dict.fromkeys(self.spec.secrets(), "[withheld]") | dict(self.services.hidden)
        return hide(text, hidden)[:REASON]

    def without_address(self, reason: str) -> str:
        """Return the reason of a failure for rows, without the address of the endpoint."""
        return reason

    def down(self, message: str) -> TeacherDown:
        """Return the error that ends the run, without secrets."""
        return TeacherDown(f"model '{self.name}': {self.redact(message)}")


def endpoint_class(provider: str, project: Project) -> type[Endpoint]:
    """Return the endpoint of a provider. Raise ConfigError if there is none, or its file is broken."""
    preset = preset_of(provider, project)
    name = preset["provider"] if preset else provider
    return plugin_class("teachers", name, Endpoint, project, further=presets())
