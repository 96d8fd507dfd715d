"""Measure records with filters, keep costly numbers in the ledger, and decide."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError, DistillgenError, UserCodeError, did_you_mean
from distillgen.flow.filter import Entry, Filter, Number
from distillgen.flow.in_thread import in_thread
from distillgen.flow.stage import Chunk, Chunks
from distillgen.inference.ledger import Ledger
from distillgen.inference.request import Request
from distillgen.project import user_error
from distillgen.record import Record, Unrenderable, digest

PIECE = 32  # most records in one call of a costly measure; a stop waits for one call
SAVE_EVERY_S = 0.5  # seconds of measuring that a kill can lose, besides one call


@dataclass(frozen=True)
class Judge:
    """A filter of a running stage, with its costs so far, and a count of each number for `over_run`."""

    stage: str
    entry: Entry
    filter: Filter
    costs: dict[str, float]
    numbers: Counter[tuple[tuple[str, float], ...]] = field(default_factory=Counter)

    def __call__(self, record: Record, number: Number) -> Record:
        """Return the record with its scores, dropped if `decide` gives a reason."""
        label, named_numbers = self.entry.label, number if isinstance(number, Mapping) else {"": number}
        record = record.scored(
            {f"{label}.{name}" if name else label: float(value) for name, value in named_numbers.items()}
        )
        if self.filter.over_run:
            self.numbers[tuple(named_numbers.items())] += 1
        try:
            reason = self.filter.decide(number)
        except DistillgenError:
            raise
        except Exception as error:
            raise self.broken(error, [record]) from error
        if reason is not None and not (reason and isinstance(reason, str)):
            wrong = f"filter '{label}' decided {reason!r}"
            raise ConfigError(f"{wrong}; decide gives None to keep a record, or the reason to drop it")
        if reason is not None and self.filter.shows:
            reason = f"{reason}: {self.filter.shows(record)}"
        return record if reason is None else record.drop(self.stage, label, reason)

    def requests(self, record: Record, models: Collection[str]) -> Sequence[Request]:
        """Return the requests about a record. Raise Unrenderable."""
        try:
            requests = self.filter.asks(record) if self.filter.asks else ()
        except (DistillgenError, Unrenderable):
            raise
        except Exception as error:
            raise self.broken(error, [record]) from error
        for request in requests:
            if request.model not in models:
                message = f"filter '{self.entry.label}' asks '{request.model}', which is not in an option of "
                raise ConfigError(f"{message}type ModelName{did_you_mean(request.model, models)}")
        return requests

    def waits(self, records: Sequence[Record], folder: Path) -> bool:
        """Return whether `measure` is called for these records only after more records."""
        started_at = time.perf_counter()
        try:
            return bool(self.filter.waits and self.filter.waits(records, folder))
        except DistillgenError:
            raise
        except Exception as error:
            raise self.broken(error, records) from error
        finally:
            self.costs["seconds"] += time.perf_counter() - started_at

    def together(self, record: Record) -> Any:
        """Return the key of the record's group."""
        try:
            return self.filter.together and self.filter.together(record)
        except Exception as error:
            raise self.broken(error, [record]) from error

    def figures(self) -> dict[str, float]:
        """Return the figures over all numbers. They do not depend on the order of the records."""
        every = [number for number, count in sorted(self.numbers.items()) for _ in range(count)]
        if not every or not self.filter.over_run:
            return {}
        try:
            figures = self.filter.over_run(dict(number) if number[0][0] else number[0][1] for number in every)
        except DistillgenError:
            raise
        except Exception as error:
            raise self.broken(error) from error
        return {f"{self.entry.label}: {words}": value for words, value in figures.items()}

    def broken(self, error: Exception, records: Sequence[Record] = ()) -> UserCodeError:
        """Return a UserCodeError for an exception of one of the filter's functions."""
        return user_error(error, f"filter '{self.entry.label}' of stage '{self.stage}'", records)


async def measured(judge: Judge, groups: Sequence[Sequence[Record]], ledger: Ledger) -> list[Number]:
    """Return the filter's numbers for the records of these groups. Stored numbers are not measured again."""
    entry, filter, costs = judge.entry, judge.filter, judge.costs

    async def fresh(batch: Sequence[Record]) -> list[Number]:
        started_at = time.perf_counter()
        try:
            if filter.whole_set:  # the last record may be compared with a million before it
                measure_result = await in_thread(filter.measure, batch)
            elif filter.depends_on is not None:
                measure_result = await asyncio.to_thread(filter.measure, batch)
            else:
                measure_result = filter.measure(batch)
            numbers = checked_numbers(
                await measure_result if inspect.isawaitable(measure_result) else measure_result,
                len(batch),
                entry.label,
            )
        except DistillgenError:
            raise
        except Exception as error:
            raise judge.broken(error, batch) from error
        costs["measured"] += len(batch)
        costs["seconds"] += time.perf_counter() - started_at
        return numbers

    costs["rows"] += sum(map(len, groups))
    if filter.depends_on is None or filter.whole_set:
        return [number for group in groups for number in await fresh(group)]
    keyed = [[*zip(score_keys(entry, filter, group), group, strict=True)] for group in groups]
    stored_numbers = ledger.find_scores([key for key, _ in chain(*keyed)])
    todo = [group for group in keyed if not stored_numbers.keys() >= {key for key, _ in group}]
    if not filter.together:
        missing = [*{key: record for key, record in chain(*todo) if key not in stored_numbers}.items()]
        todo = [missing[start : start + PIECE] for start in range(0, len(missing), PIECE)]
    new, saved_at = dict[bytes, Number](), time.monotonic()
    try:
        for batch in todo:
            new |= zip((key for key, _ in batch), await fresh([record for _, record in batch]), strict=True)
            if time.monotonic() - saved_at > SAVE_EVERY_S:
                await ledger.add_scores(new)
                stored_numbers, new, saved_at = stored_numbers | new, {}, time.monotonic()
    finally:
        if new:
            await ledger.add_scores(new)
    stored_numbers |= new
    return [stored_numbers[key] for key, _ in chain(*keyed)]


def score_keys(
    entry: Entry, filter: Filter, group: Sequence[Record], models: Sequence[Any] = ()
) -> list[bytes]:
    """Return the keys under which the ledger stores the numbers of these records.

    In a group, the key of each record depends on the whole group, with its scores so far.
    """
    about: Sequence[Any] = [record.fields for record in group]
    if filter.together:
        group_digest = digest([(record.id, record.fields, record.scores) for record in group])
        about = [[place, group_digest] for place in range(len(group))]
    return [digest([entry.filter, filter.depends_on, subject, *models], 32).encode() for subject in about]


async def whole_groups(chunks: Chunks, key: Callable[[Record], Any]) -> Chunks:
    """Yield the same records in chunks that split no group of adjacent records with equal keys."""
    waiting_records, begin, last = Chunk(), 0, object()
    async for chunk in chunks:
        for record in chunk:
            if (record_key := key(record)) != last:
                begin, last = len(waiting_records), record_key
            waiting_records.append(record)
        if begin:
            yield waiting_records[:begin]
            waiting_records, begin = waiting_records[begin:], 0
    if waiting_records:
        yield waiting_records


def label_of(score: str) -> str:
    """Return the label of the filter that gave a score."""
    return score.partition(".")[0]


def checked_numbers(measure_result: Any, count: int, label: str) -> list[Number]:
    """Return the numbers of a measure. Raise ConfigError if one is missing or not finite."""
    try:
        numbers = list(measure_result)
    except TypeError as error:
        raise ConfigError(
            f"filter '{label}': measure gives a list of numbers, not {measure_result!r}"
        ) from error
    if len(numbers) != count:
        raise ConfigError(
            f"filter '{label}' measured {len(numbers)} of {count} records; return a number for each"
        )
    return [
        {k: _finite(v, label) for k, v in n.items()} if isinstance(n, Mapping) else _finite(n, label)
        for n in numbers
    ]


def _finite(value: Any, label: str) -> float:
    with suppress(TypeError):
        if math.isfinite(value):
            return value if type(value) in (int, float) else float(value)  # a NumPy number cannot be stored
    raise ConfigError(f"filter '{label}' measured {value!r}; a measurement must be a finite number")
