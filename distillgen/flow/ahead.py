"""Requests that are sent before their records reach the stage: batches of several stages run side by side.

An answer by the batch API takes up to a day. Where a stage asks the same about a record before and after the
stages in front of it, all of these stages send their requests at once. The ledger, or the request in flight,
answers the stage when the record reaches it. So the records are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing

from distillgen.flow.stage import BoundStage, Chunk, Chunks, Job


def asks_ahead(stages: Sequence[BoundStage], job: Job) -> list[list[Callable[[Chunk], None]]]:
    """Return, for each stage, the functions that take its input and send requests of later stages.

    With `retry_failed` there are none: an answer that fails again would be asked for twice.
    """
    begins: list[list[Callable[[Chunk], None]]] = [[] for _ in stages]
    for i, stage in enumerate(stages):
        first = i
        if not job.context.retry_failed and _by_batch(stage, job):
            while first and _by_batch(stages[first - 1], job) and stage.independent_of(stages[first - 1]):
                first -= 1
        if first < i:
            begins[first].append(stage.ahead(job))
    return begins


async def with_asks_ahead(chunks: Chunks, begins: Sequence[Callable[[Chunk], None]]) -> Chunks:
    """Pass chunks on, and hand each to the functions first."""
    async with aclosing(chunks):
        async for chunk in chunks:
            for begin in begins:
                begin(chunk)
            yield chunk


def _by_batch(stage: BoundStage, job: Job) -> bool:
    """Return whether all models that the stage asks answer by the batch API."""
    teachers = job.services.teachers
    return bool(stage.models) and all(name in teachers and teachers[name].durable for name in stage.models)
