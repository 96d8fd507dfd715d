"""The progress of a run as a value, whatever draws it: a terminal, a notebook or a callback."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillgen.record import Record
from distillgen.runs.time_left import Requests, StageWork, TimeLeft
from distillgen.text.display import clipped, counted, duration

if TYPE_CHECKING:
    from distillgen.inference.teacher import Teacher
    from distillgen.runs.state import Live

SILENCE_S = 30.0  # seconds without any movement, after which the display says what is waited for
READ_EVERY_S = 0.5
RECENT_S = 30.0  # the time that the rates of a model are of


@dataclass(frozen=True)
class StageProgress:
    """The progress of a stage. Records count when they leave it."""

    name: str
    kind: str
    sources: int
    """The number of source rows whose records have left the stage."""
    rows_in: int
    """The number of records that arrived; for the first stage, the number that it read."""
    rows_out: int
    """The number of records that the stage kept."""
    dropped: Mapping[str, int]
    """The number of records that the stage dropped, by filter or reason."""
    gathered: int
    """The number of records that were gathered into others."""
    share: float | None
    """The part of the source rows that has left the stage; None if their number is unknown."""
    measured: Mapping[str, float]
    """The numbers that the stage measured, by title."""
    note: str
    """What the stage is doing, if it takes long."""
    complete: bool


@dataclass(frozen=True)
class ModelProgress:
    """The progress of a model since the run was started or continued."""

    name: str
    in_flight: int
    answered: int
    from_ledger: int
    """The number of answers that were in the ledger and cost nothing now."""
    answers_per_s: float
    """Answers a second, lately."""
    tokens_per_s: float
    """Input and output tokens a second, lately."""
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    """US dollars; None for a model without a price."""
    retries: int
    trouble: str
    """The fault of the last attempt that failed."""
    failed: int
    note: str
    """What the model waits for, such as a batch."""

    @property
    def active(self) -> bool:
        """Whether there is anything to say of the model yet: many pipelines name some that come late."""
        counts = (self.in_flight, self.answered, self.from_ledger, self.retries, self.failed)
        return any(counts) or bool(self.note)


@dataclass(frozen=True)
class Progress:
    """The progress of a run at one moment. Times are in seconds, costs in US dollars."""

    pipeline: str
    total_rows: int | None
    """The number of source rows; None if it is unknown."""
    stages: tuple[StageProgress, ...]
    models: tuple[ModelProgress, ...]
    elapsed_s: float
    left_s: float | None
    """An estimate of the time left; None while it is unknown."""
    share: float | None
    """The part of the work that is done, by tokens; None while it is unknown."""
    cost_usd: float | None
    """What the run has cost, earlier sessions included; None if no model has a price. Under one cap over
    several seeds it is the cost of all.
    """
    of_all_seeds: bool
    """Whether `cost_usd` is that of all seeds."""
    most_usd: float | None
    """The most that the run can cost by its plan; None without a bound, and for one of the runs of several
    seeds.
    """
    first_kept: Record | None
    warnings: tuple[str, ...]
    stopping: str
    """Why the run is stopping; "" while it goes on."""
    to_finish: int
    """The number of answers in flight that are paid for."""
    waits: str
    """What the run waits for, once nothing has moved for SILENCE_S."""


class Meter:
    """Reads the progress of a running pipeline. It never changes the run."""

    def __init__(self, live: Live) -> None:
        self._live = live
        models = [
            [name for name in bound.models if name in live.teachers] for bound in live.pipeline.bound_stages
        ]
        self._time_left = TimeLeft(live.total, live.plan, models, live.first)
        self._readings: deque[tuple[float, dict[str, tuple[int, int]]]] = deque()

    def read(self) -> Progress:
        """Return the progress now."""
        live, now_s = self._live, time.monotonic()
        in_flight = {name: len(teacher.activity.sending) for name, teacher in live.teachers.items()}
        left_s = self._time_left.read(now_s, self.stage_work(), in_flight)
        prices = any(teacher.spec.price for teacher in live.teachers.values())
        return Progress(
            pipeline=live.pipeline.name,
            total_rows=live.total,
            stages=tuple(self._stage(i) for i in range(len(live.stages))),
            models=self._models(now_s),
            elapsed_s=now_s - live.started,
            left_s=left_s,
            share=self._time_left.share,
            cost_usd=live.budget.spent if prices else None,
            of_all_seeds=live.budget.shared,
            most_usd=live.most_usd if prices and not live.budget.shared else None,
            first_kept=live.first_kept,
            warnings=tuple(live.warnings),
            stopping=live.stopping,
            to_finish=sum(in_flight[name] for name, teacher in live.teachers.items() if teacher.paid),
            waits=self._waits(now_s),
        )

    def stage_work(self) -> list[StageWork]:
        """Return what each stage has done, with the requests of this session by model."""
        live = self._live
        requests: dict[str, dict[str, Requests]] = {}
        for sign, usage in ((1, live.ledger.usage(live.ledger_run)), (-1, live.usage_before)):
            for use in usage:
                of_stage = requests.setdefault(use.stage.partition("/")[0], {})
                sums = of_stage.get(use.model, Requests(0, 0, 0))
                counts = use.requests, use.input_tokens, use.output_tokens
                of_stage[use.model] = Requests(*(a + sign * b for a, b in zip(sums, counts, strict=True)))
        return [StageWork(count.sources, count.kept, requests.get(count.name, {})) for count in live.stages]

    def _stage(self, i: int) -> StageProgress:
        live, count = self._live, self._live.stages[i]
        arrived = live.stages[i - 1].kept if i else count.kept + sum(count.dropped.values())
        return StageProgress(
            name=count.name,
            kind=count.kind,
            sources=count.sources,
            rows_in=arrived,
            rows_out=count.kept,
            dropped=dict(count.dropped.most_common()),
            gathered=count.gathered,
            share=min(1.0, count.sources / live.total) if live.total else None,
            measured=dict(count.measured),
            note=live.notes.get(count.name, ""),
            complete=count.complete,
        )

    def _models(self, now_s: float) -> tuple[ModelProgress, ...]:
        live = self._live
        activities = {name: teacher.activity for name, teacher in live.teachers.items()}
        counts = {name: (a.answered, a.input_tokens + a.output_tokens) for name, a in activities.items()}
        self._readings.append((now_s, counts))
        while self._readings[0][0] < now_s - RECENT_S:
            self._readings.popleft()
        before_s, before = self._readings[0]
        seconds = (now_s - before_s) or 1.0
        costs = dict.fromkeys(activities, 0.0)
        for sign, usage in ((1, live.ledger.usage(live.ledger_run)), (-1, live.usage_before)):
            for use in usage:
                costs[use.model] = costs.get(use.model, 0.0) + sign * use.cost_usd
        return tuple(
            ModelProgress(
                name=name,
                in_flight=len(a.sending),
                answered=a.answered,
                from_ledger=a.replayed,
                answers_per_s=(counts[name][0] - before.get(name, (0, 0))[0]) / seconds,
                tokens_per_s=(counts[name][1] - before.get(name, (0, 0))[1]) / seconds,
                input_tokens=a.input_tokens,
                output_tokens=a.output_tokens,
                cost_usd=max(0.0, costs[name]) if live.teachers[name].spec.price else None,
                retries=a.retries,
                trouble=a.trouble,
                failed=a.failed,
                note=a.note,
            )
            for name, a in activities.items()
        )

    def _waits(self, now_s: float) -> str:
        teachers = self._live.teachers
        still_s = now_s - max([self._live.started, *(t.activity.moved_at for t in teachers.values())])
        if still_s < SILENCE_S or self._live.notes:
            return ""
        waits = [wait for name, teacher in teachers.items() for wait in _waiting_for(name, teacher)]
        return f"nothing has moved for {still_s:.0f} s; waiting for {'; '.join(waits) or 'a stage to finish'}"


def _waiting_for(name: str, teacher: Teacher) -> Iterator[str]:
    sending, pausing, now = teacher.activity.sending, teacher.activity.pausing, time.monotonic()
    where = clipped(teacher.redact(teacher.identity), 60)
    if sending:
        oldest_s = now - min(sending.values())
        yield f"{counted(len(sending), 'answer')} of {name} ({where}), the oldest asked {oldest_s:.0f} s ago"
    if pausing:
        next_s = max(0.0, min(pausing.values()) - now)
        yield f"the next try of {counted(len(pausing), 'request')} to {name} ({where}), in {duration(next_s)}"


async def follow(live: Live, show: Callable[[Progress], None]) -> None:
    """Show the progress every READ_EVERY_S until cancelled, and once more at the end.

    With `functools.partial` it is what `run_pipeline` takes as `watch`.
    """
    meter = Meter(live)
    try:
        while True:
            show(meter.read())
            await asyncio.sleep(READ_EVERY_S)
    finally:
        show(meter.read())
