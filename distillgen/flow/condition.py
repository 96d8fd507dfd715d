"""The option `when`: a record for which the condition does not hold passes the stage by.

It keeps its place and its fields. Fields that the stage adds are null in it, so that all rows have the same
columns.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from distillgen.errors import ConfigError, DistillgenError
from distillgen.flow.measures import Measure
from distillgen.flow.record_template import NO, RecordTemplate
from distillgen.flow.stage import BoundStage, Chunk, Chunks, Estimate, Job
from distillgen.project import user_error
from distillgen.record import MET, PASSED_BY, SCORES, Dropped, Record, Unrenderable, dumps
from distillgen.text.display import clipped
from distillgen.text.template import NullValue

TURN_S = 0.05  # seconds of work after which the event loop gets a turn
_AROUND = Dropped("", "when", "")
"""Marks a record on its way around a stage, which leaves dropped records alone. No stage has the name ''."""


class Condition(RecordTemplate):
    """A template that holds for a record, or does not. What a null decides does not hold."""

    negations = (*NO, "0.0")  # a score of zero

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.source = clipped(source)

    def values(self, record: Record) -> str:
        """Return the values that it reads, such as `gap 0.5, solved false`, or why it has no text."""
        try:
            self.holds(record)
        except Unrenderable as error:
            return str(error)
        scores = record.variables(self.used).get(SCORES, {}) if self.scores else {}
        fields = {name: record.fields.get(name) for name in self.used if name != SCORES or not self.scores}
        values = {**fields, **{f"scores['{name}']": scores[name] for name in sorted(self.scores)}}
        return ", ".join(f"{name} {clipped(dumps(value).decode(), 80)}" for name, value in values.items())

    def holds(self, record: Record) -> bool:
        """Return whether the text is neither empty nor false, no, 0 or null. Raise Unrenderable."""
        try:
            return super().holds(record)
        except NullValue:
            return False


def check_condition(bound: BoundStage) -> None:
    """Raise ConfigError if no record can pass the stage by, or if the condition lacks a field or score."""
    when, context = bound.stage.when, bound.context
    if when is None:
        return
    if not bound.conditional:
        kind = f"a stage '{bound.stage.kind}'"
        remedy = "put a stage filter with 'where' before it, or leave 'when' out"
        raise ConfigError(f"'when': no record can pass by {kind}, which does not work row by row; {remedy}")
    try:
        Condition(when).check(context, "'when'")
    except ConfigError as error:
        raise ConfigError(f"'when': {error.message}" if error.line else error.message) from error
    if removed := sorted(context.fields - bound.fields):
        message = f"'when': the stage removes '{removed[0]}', and records that pass it by would keep it"
        raise ConfigError(f"{message}; remove fields in a stage without 'when'")


def run_stage(bound: BoundStage, chunks: Chunks, job: Job) -> Chunks:
    """Run a stage on the records for which its condition holds. The others keep their places."""
    return _in_turns(_run(bound, chunks, job))


async def _in_turns(chunks: Chunks) -> Chunks:
    """Yield the same chunks. Let the rest of the program go on now and then: stages that ask nothing, and
    rows that are read from the disk, never wait, and Ctrl-C would be answered after the last of them.
    """
    turned_at = time.monotonic()
    async with aclosing(chunks):
        async for chunk in chunks:
            if time.monotonic() - turned_at > TURN_S:
                await asyncio.sleep(0)
                turned_at = time.monotonic()
            yield chunk


def _run(bound: BoundStage, chunks: Chunks, job: Job) -> Chunks:
    run = partial(_foreign, bound) if bound.foreign else bound.run
    if bound.stage.when is None:
        return run(chunks, job)
    return _rejoined(bound, run(_parted(bound, chunks, job), job))


async def _foreign(bound: BoundStage, chunks: Chunks, job: Job) -> Chunks:
    """Run a stage that does not ship with distillgen. An exception of its code becomes a UserCodeError with
    the file, the line, the record and the stage.
    """
    chunk: Chunk = []
    earlier: Exception | None = None

    async def arriving() -> Chunks:
        nonlocal chunk, earlier
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    yield chunk
        except Exception as error:
            earlier = error
            raise

    try:
        async with aclosing(bound.run(arriving(), job)) as leaving:
            async for records in leaving:
                yield records
    except DistillgenError:
        raise
    except Exception as error:
        mistake = user_error(error, f"stage '{bound.name}'", chunk)
        if error is earlier or mistake.path is None:
            raise
        raise mistake from error


async def _parted(bound: BoundStage, chunks: Chunks, job: Job) -> Chunks:
    """Mark the records that pass by, and count both kinds."""
    condition, counts = Condition(bound.stage.when or ""), job.services.measures
    met, passed_by = Measure(MET), Measure(PASSED_BY)
    counts.update({met: 0, passed_by: 0})

    def parted(record: Record) -> Record:
        if record.dropped:
            return record
        try:
            holds = condition.holds(record)
        except Unrenderable as error:
            return record.drop(bound.name, "unrenderable", f"when: {error}")
        counts[met if holds else passed_by] += 1
        return record if holds else replace(record, dropped=_AROUND)

    async with aclosing(chunks):
        async for chunk in chunks:
            yield list(map(parted, chunk))


async def _rejoined(bound: BoundStage, chunks: Chunks) -> Chunks:
    """Restore the records that passed by."""
    async with aclosing(chunks):
        async for chunk in chunks:
            yield [_passed_by(bound, record) if record.dropped == _AROUND else record for record in chunk]


def _passed_by(bound: BoundStage, record: Record) -> Record:
    """Return a record that passed the stage by, with null in each field that the stage adds."""
    added = sorted(bound.fields - bound.context.fields - record.fields.keys())
    return replace(record, dropped=None, fields={**record.fields, **dict.fromkeys(added)})


def former_of(bound: BoundStage) -> Callable[[Record], Record] | None:
    """Return the stage's `former`, which leaves records alone for which the condition does not hold."""
    former = bound.former()
    if former is None or bound.stage.when is None:
        return former
    condition = Condition(bound.stage.when)

    def formed(record: Record) -> Record:
        if condition.holds(record):
            return former(record)
        return replace(_passed_by(bound, record), dropped=record.dropped)

    return formed


def estimate_of(bound: BoundStage, before: Estimate, samples: Sequence[Record]) -> Estimate:
    """Return the bounds of a stage, as if its condition held for every record."""
    estimate = bound.estimate(before, samples)
    if estimate.made_parts is None:
        estimate = replace(estimate, made_parts=before.made_parts)
    if bound.stage.when is None or estimate.rows is None or before.rows is None:
        return estimate
    return replace(estimate, rows=max(estimate.rows, before.rows))
