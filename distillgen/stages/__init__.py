"""The stage contract: chunks of records in, chunks of records out, in order, with bounded memory.

A record that was dropped stays in the stream, untouched by later stages, so that what leaves the pipeline is in source
order. A chunk has any length from one record up: long where answers are replayed, short where they arrive.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from distillgen.errors import ConfigError, did_you_mean
from distillgen.ledger import Ledger
from distillgen.project import Project, class_in
from distillgen.record import Record
from distillgen.teachers import Spec, Teacher

Chunk: TypeAlias = list[Record]
Chunks: TypeAlias = AsyncGenerator[Chunk, None]

CHUNK = 256


@dataclass(frozen=True)
class Checking:
    """What a stage is checked against: the fields that reach it, the models, and what the project holds."""

    fields: frozenset[str]
    models: Mapping[str, Spec]
    project: Project
    capabilities: Mapping[str, frozenset[str]]

    def need(self, name: str, what: str) -> None:
        """Raise ConfigError where no record has the field."""
        if name not in self.fields:
            raise ConfigError(f"{what} needs the field '{name}', which no earlier stage gives{did_you_mean(name, self.fields)}")


@dataclass(frozen=True)
class Estimate:
    """A stage's bounds in `plan`: rows out, requests, tokens; None where there is no bound."""

    rows: int | None
    requests: int | None = 0
    input_tokens: int | None = 0
    output_tokens: int | None = 0
    max_cost_usd: float | None = 0.0


@dataclass
class Job:
    """What a running stage is handed besides its records."""

    project: Project
    teachers: Mapping[str, Teacher]
    ledger: Ledger
    seed: int = 0
    limit: int | None = None
    retry_failed: bool = False
    retry_with: Mapping[str, Any] = field(default_factory=dict)


class Stage(BaseModel):
    """A named step. Its attributes are its options; it keeps nothing else, so that it can be pickled and sent away."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ClassVar[str] = ""
    name: str = Field("", description="what messages, reports and file names call the stage; default: its kind")

    def check(self, given: Checking) -> frozenset[str]:
        """The fields after this stage. Raises ConfigError for anything that could go wrong before a record is seen."""
        raise NotImplementedError

    def files(self, project: Project) -> dict[str, Path]:
        """Content files that the stage's output depends on, by name, for the lock file."""
        return {}

    def estimate(self, before: Estimate, samples: Sequence[Record], given: Checking) -> Estimate:
        """Bounds for `plan`; `samples` are source rows."""
        return Estimate(before.rows)

    def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Carry the stage out."""
        raise NotImplementedError


def stage_class(kind: str) -> type[Stage]:
    """The stage in `stages/<kind>.py`."""
    kinds = stage_kinds()
    if kind not in kinds:
        raise ConfigError(f"there is no stage '{kind}'{did_you_mean(kind, kinds)}")
    return class_in(f"distillgen.stages.{kind}", Stage)


def stage_kinds() -> list[str]:
    """The kinds of stage that there are."""
    return sorted(p.stem for p in Path(__file__).parent.glob("[a-z]*.py"))


def splice(chunk: Sequence[Record], replaced: Iterable[Sequence[Record]]) -> Chunk:
    """`chunk` with each live record replaced by its successors, dropped ones left where they are."""
    successors = iter(replaced)
    return [out for record in chunk for out in ((record,) if record.dropped else next(successors))]


async def in_order(
    chunks: Chunks, begin: Callable[[Chunk], Iterable[Chunk | Awaitable[Chunk]]], window: Callable[[], int]
) -> Chunks:
    """The one bounded loop: `begin` starts the work on a chunk and gives results that are ready and results to wait for,
    in order. Upstream goes on meanwhile, until `window` records or results wait to leave.
    """
    waiting: deque[Chunk | Awaitable[Chunk]] = deque()
    held, changed = 0, asyncio.Event()

    async def feed() -> None:
        nonlocal held
        async with aclosing(chunks):
            async for chunk in chunks:
                ready: Chunk = []
                for result in begin(chunk):
                    held += _size(result)
                    if not isinstance(result, list):
                        waiting.append(asyncio.ensure_future(result) if asyncio.iscoroutine(result) else result)
                        ready = []
                    elif ready:
                        ready += result  # what is ready travels together
                    elif result:
                        ready = [*result]
                        waiting.append(ready)
                changed.set()
                while held >= window():
                    changed.clear()
                    await changed.wait()

    feeder = asyncio.create_task(feed())
    feeder.add_done_callback(lambda _: changed.set())
    try:
        while waiting or not feeder.done():
            if not waiting:
                changed.clear()
                await changed.wait()
                continue
            result = waiting.popleft()
            held -= _size(result)
            changed.set()
            if done := result if isinstance(result, list) else await result:
                yield done
        await feeder  # what went wrong upstream comes behind what was before it
    finally:
        leftovers = [feeder, *(task for task in waiting if isinstance(task, asyncio.Future))]
        for task in leftovers:
            task.cancel()
        await asyncio.gather(*leftovers, return_exceptions=True)


def _size(result: Chunk | Awaitable[Chunk]) -> int:
    return len(result) if isinstance(result, list) else 1
