"""Ask models about records, and turn the answers into new records."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any, TypeAlias, TypeVar

from distillgen.errors import UserCodeError
from distillgen.flow.ordered import in_order
from distillgen.flow.stage import CHUNK, Chunk, Chunks, Job
from distillgen.inference.outcome import Outcome
from distillgen.inference.request import Completion, Request
from distillgen.inference.teacher import Teacher
from distillgen.privacy import name_of
from distillgen.project import at_record
from distillgen.record import Record, Unrenderable

T = TypeVar("T")

WINDOW = 2048  # least number of rows in flight, so that a retry does not block the rest

Question: TypeAlias = tuple[Teacher, Request, int, Any]
"""A teacher, a request, the number of samples, and a value of the stage that comes back with the answers."""

Answers: TypeAlias = Sequence[tuple[Any, Sequence[Completion]]]


class AboutRecord(Outcome[T]):
    """An outcome whose errors of a project's provider name the record, which the provider does not see."""

    __slots__ = ("record",)

    def __init__(self, record: Record, result: Callable[[], T], tasks: Sequence[asyncio.Task[Any]]) -> None:
        super().__init__(result, tasks)
        self.record = record

    def __await__(self) -> Generator[Any, None, T]:
        try:
            return (yield from super().__await__())
        except UserCodeError as error:
            raise error.with_text(at_record(self.record)) from error.__cause__


def answer_of(record: Record, stage: str, completion: Completion) -> Record:
    """Return a copy of the record with the completion in its lineage, for a stage that adds no field."""
    how = {"model": name_of(completion.model), "key": completion.key.hex(), "sample": 0, "draw": ""}
    lineage = {"stage": stage, "prompt": "", **how}
    return replace(record, made=(*record.made, lineage))


def likelihood(stage: str, completion: Completion) -> dict[str, float]:
    """Return the log-probability of a completion, in nats: the sum over its tokens, and the mean."""
    values = [token[1] for token in completion.logprobs if token[1] is not None]
    return (
        {f"{stage}.logprob": sum(values), f"{stage}.mean_logprob": sum(values) / len(values)}
        if values
        else {}
    )


def certainty(stage: str, completion: Completion) -> dict[str, float]:
    """Return the mean lead in probability of the likeliest token over the second likeliest."""
    tops = [
        sorted((math.exp(value) for _, value in token[2]), reverse=True)[:2]
        for token in completion.logprobs
        if token[2]
    ]
    ahead = [first - second for first, second in (top for top in tops if len(top) == 2)]
    return {f"{stage}.margin": sum(ahead) / len(ahead)} if ahead else {}


def ask_each(
    chunks: Chunks,
    teachers: Sequence[Teacher],
    job: Job,
    stage: str,
    *,
    asker: str = "",
    questions: Callable[[Record], Sequence[Question]],
    answered: Callable[[Record, Answers], Chunk],
    unusable: Callable[[Completion], bool] = lambda completion: completion.status != "ok",
    settled: Callable[[Chunk], Iterable[Record | None]] = lambda chunk: repeat(None),
) -> Chunks:
    """Put the `questions` about every live record to `teachers`. Records leave in source order.

    `answered` makes a record's successors from the answers. `unusable` selects the stored answers that
    --retry-failed asks for again. `asker` is the part of the stage under whose name the ledger counts the
    requests. `settled` returns, for each record of a chunk, its successor if no model needs to be asked, else
    None.
    """
    again = unusable if job.context.retry_failed else None

    def begin(chunk: Chunk) -> Iterable[Outcome[Chunk]]:
        todo: list[tuple[Record, Sequence[Question] | None]] = []
        for record, successor in zip(chunk, settled(chunk), strict=False):
            try:
                todo.append((successor or record, None if successor or record.dropped else questions(record)))
            except Unrenderable as error:
                todo.append((record.drop(stage, "unrenderable", str(error)), None))
        outcomes, place = {}, f"{stage}/{asker}" if asker else stage
        for teacher in teachers:
            asks = [
                (request, n)
                for _, questions_of_record in todo
                for question_teacher, request, n, _ in questions_of_record or ()
                if question_teacher is teacher
            ]
            outcomes[teacher] = iter(
                teacher.begin(asks, stage=place, again=again, changed=job.context.retry_with)
            )
        for record, questions_of_record in todo:
            if questions_of_record is None:
                yield Outcome.of([record])
                continue
            pairs = [(about, next(outcomes[teacher])) for teacher, _, _, about in questions_of_record]
            tasks = [task for _, outcome in pairs for task in outcome.tasks]
            if tasks:
                yield AboutRecord(record, partial(successors, record, pairs), tasks)
            else:
                yield Outcome.of(successors(record, pairs))

    def successors(record: Record, pairs: Sequence[tuple[Any, Outcome[list[Completion]]]]) -> Chunk:
        return answered(record, [(about, outcome.result()) for about, outcome in pairs])

    def window() -> int:
        return max(WINDOW, *(teacher.ahead * int(teacher.slots.limit) for teacher in teachers))

    return in_order(_small(chunks), begin, window)


def ask_ahead(
    chunk: Chunk, teachers: Sequence[Teacher], stage: str, questions: Callable[[Record], Sequence[Question]]
) -> None:
    """Send the `questions` about the live records of a chunk. `ask_each` finds their answers later."""
    asks: dict[Teacher, list[tuple[Request, int]]] = {teacher: [] for teacher in teachers}
    for record in chunk:
        if not record.dropped:
            with suppress(Unrenderable):  # the stage drops the record when it reaches it, and says why
                for teacher, request, n, _ in questions(record):
                    asks[teacher].append((request, n))
    for teacher, of_teacher in asks.items():
        teacher.begin(of_teacher, stage=stage, ahead=True)


async def _small(chunks: Chunks) -> Chunks:
    """Split chunks that are longer than CHUNK, so that the window bounds the rows in memory."""
    async for chunk in chunks:
        for start in range(0, len(chunk), CHUNK):
            yield chunk[start : start + CHUNK]
