"""Questions about records are put to models; the answers make their successors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any, TypeAlias

from distillgen.flow.ordered import in_order
from distillgen.flow.stage import CHUNK, Chunk, Chunks, Job
from distillgen.inference.outcome import Outcome
from distillgen.inference.request import Completion, Request
from distillgen.inference.teacher import Teacher
from distillgen.privacy import name_of
from distillgen.record import Record, Unrenderable

WINDOW = 2048  # rows at least that wait side by side, so that one that is tried again holds up no other


Question: TypeAlias = tuple[Teacher, Request, int, Any]
"""Whom to ask, what, how many samples of it, and what the stage wants to know again when they are there."""


Answers: TypeAlias = Sequence[tuple[Any, Sequence[Completion]]]


def answer_of(record: Record, stage: str, completion: Completion) -> Record:
    """A copy whose lineage holds an answer that added no field."""
    how = {"model": name_of(completion.model), "key": completion.key.hex(), "sample": 0, "draw": ""}
    made = {"stage": stage, "prompt": "", **how}
    return replace(record, made=(*record.made, made))


def likelihood(stage: str, completion: Completion) -> dict[str, float]:
    """The log-probability under its teacher of what it says or was shown, in nats: sum over tokens and mean."""
    values = [token[1] for token in completion.logprobs if token[1] is not None]
    return (
        {f"{stage}.logprob": sum(values), f"{stage}.mean_logprob": sum(values) / len(values)}
        if values
        else {}
    )


def certainty(stage: str, completion: Completion) -> dict[str, float]:
    """How far the likeliest token is ahead of the next one, in probability, on average: where alternatives are recorded."""
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
    """Put the `questions` about every live record to `teachers`; `answered` makes its successors, which leave in source
    order as soon as they are there. `unusable` tells what --retry-failed asks again; `asker` is a part of the stage under
    whose name the ledger counts what was asked. `settled` gives for each record of a chunk its successor, where that is known
    and nobody needs to be asked.
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
                (request, n) for _, some in todo for asked, request, n, _ in some or () if asked is teacher
            ]
            outcomes[teacher] = iter(
                teacher.begin(asks, stage=place, again=again, changed=job.context.retry_with)
            )
        for record, some in todo:
            if some is None:
                yield Outcome.of([record])
                continue
            pairs = [(about, next(outcomes[teacher])) for teacher, _, _, about in some]
            tasks = [task for _, outcome in pairs for task in outcome.tasks]
            if tasks:
                yield Outcome(partial(successors, record, pairs), tasks)
            else:
                yield Outcome.of(successors(record, pairs))

    def successors(record: Record, pairs: Sequence[tuple[Any, Outcome[list[Completion]]]]) -> Chunk:
        return answered(record, [(about, outcome.result()) for about, outcome in pairs])

    def window() -> int:
        return max(WINDOW, *(teacher.ahead * int(teacher.slots.limit) for teacher in teachers))

    return in_order(_small(chunks), begin, window)


async def _small(chunks: Chunks) -> Chunks:
    """No chunk longer than CHUNK, so that the window bounds what is in memory."""
    async for chunk in chunks:
        for start in range(0, len(chunk), CHUNK):
            yield chunk[start : start + CHUNK]
