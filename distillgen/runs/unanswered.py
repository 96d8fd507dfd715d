"""The bounds of what the ledger does not answer: the first stages are carried out on its answers alone."""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distillgen.errors import DistillgenError
from distillgen.flow.condition import run_stage
from distillgen.flow.stage import CHUNK, BoundStage, Chunks, Estimate, Job, RunContext, WorkerServices
from distillgen.inference.endpoint import Services, endpoint_class
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.outcome import Outcome
from distillgen.inference.places import Place, is_there
from distillgen.inference.request import Completion, Request
from distillgen.inference.teacher import Teacher
from distillgen.pipeline.load import Pipeline
from distillgen.record import Record
from distillgen.stages.filter import BoundFilterStage

LOOK_S = 5.0  # the most processor time that the search takes; rows after it count as not asked
MOST_ROWS = 50_000
QUICK = ("source", "generate", "format", "unfold")  # kinds that do nothing costly besides asking


class Replay(Teacher):
    """Gives the answers that the ledger has, asks nothing, and counts the requests that lack one."""

    requests = lacking = 0

    def begin(
        self,
        asks: Sequence[tuple[Request, int]],
        *,
        stage: str,
        again: Callable[[Completion], bool] | None = None,
        changed: Mapping[str, Any] | None = None,
        ahead: bool = False,
    ) -> list[Outcome[list[Completion]]]:
        """Return outcomes that are ready; a lacking answer has failed."""
        asks, identity = self._seeded(asks), self.identity
        keys_of_asks = [request.keys(identity, n) for request, n in asks]
        completions = self._completions_in_ledger([key for keys in keys_of_asks for key in keys])
        failed = Completion(status="failed", error="not asked yet")
        self.requests += len(asks)
        self.lacking += sum(any(key not in completions for key in keys) for keys in keys_of_asks)
        return [
            Outcome.of([completions.get(key) or failed._replace(key=key) for key in keys])
            for keys in keys_of_asks
        ]


def remaining(
    pipeline: Pipeline, ledger: Place, plan: Sequence[Estimate], limit: int | None
) -> list[Estimate]:
    """Return the bounds of what the ledger does not answer, for the first stages.

    `plan` has the bounds of all that a run asks. The search goes through the stages as a run does, until one
    needs all records, or costs more than the answers of models.
    """
    total = plan[0].rows
    local = bool(pipeline.source.files or pipeline.source.stage.draw)
    if not is_there(ledger) or not local or not total:
        return []
    answers = Ledger(ledger, read_only=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            lacking = asyncio.run(_lacking_rows(pipeline, answers, Path(folder), limit, total))
    except DistillgenError:
        return []  # of a source or a filter: the run tells it, and a plan without the ledger still holds
    finally:
        answers.close_now()
    return [_part(estimate, rows / total) for estimate, rows in zip(plan, lacking, strict=False)]


async def _lacking_rows(
    pipeline: Pipeline, ledger: Ledger, folder: Path, limit: int | None, total: int
) -> list[int]:
    """Return, for the first stages, the number of source rows for which an answer is lacking up to there."""
    if ledger.is_empty:
        return []
    services = Services(ledger, Budget(None), "", pipeline.project.root, seed=pipeline.seed)
    teachers = {
        name: Replay(endpoint_class(spec.provider, pipeline.project)(name, spec, services))
        for name, spec in pipeline.models.items()
    }
    context = RunContext(pipeline.project, folder, pipeline.seed, limit)
    records, lacking, incomplete = list[Record](), list[int](), set[str]()
    search = _Search(list(teachers.values()), incomplete, time.process_time() + LOOK_S)
    for i, bound in enumerate(pipeline.bound_stages):
        if not _is_quick(bound):
            break
        job = Job(replace(context, stages=pipeline.bound_stages[:i]), WorkerServices(teachers, ledger))
        records = await search.through(bound, records, job)
        if i == 0:
            row_count = len({record.source for record in records})
        lacking.append(min(total, max(0, total - row_count) + len(incomplete)))
    return lacking


@dataclass(frozen=True)
class _Search:
    """Carries records through stages, and notes the source rows for which a teacher lacks an answer."""

    teachers: Sequence[Replay]
    incomplete: set[str]
    deadline: float

    async def through(self, bound: BoundStage, records: Sequence[Record], job: Job) -> list[Record]:
        """Return the records that leave a stage, of source rows that lack nothing.

        Chunks are fast. The records of those that lack some answers go through alone, which tells whose they
        are.
        """
        suspects: set[str] = set()
        leaving = await self._pass(bound, records, job, CHUNK, suspects)
        if suspects:
            alone = [record for record in records if record.source in suspects]
            leaving = [record for record in leaving if record.source not in suspects]
            leaving += await self._pass(bound, alone, job, 1, self.incomplete)
        return [record for record in leaving if record.source not in self.incomplete]

    async def _pass(
        self, bound: BoundStage, records: Sequence[Record], job: Job, size: int, suspects: set[str]
    ) -> list[Record]:
        leaving: list[Record] = []
        chunks = run_stage(bound, self._chunks(records, size, suspects), job)
        async with aclosing(chunks):
            async for chunk in chunks:
                leaving += chunk
                if not records and len(leaving) >= MOST_ROWS:  # a source would go on
                    break
        return leaving

    async def _chunks(self, records: Sequence[Record], size: int, suspects: set[str]) -> Chunks:
        for start in range(0, len(records), size):
            chunk = list(records[start : start + size])
            sources = {record.source for record in chunk}
            if time.process_time() > self.deadline:
                self.incomplete.update(sources)
                continue
            before = self._counts()
            yield chunk
            requests, lacking = (now - then for now, then in zip(self._counts(), before, strict=True))
            if lacking:
                (self.incomplete if lacking == requests else suspects).update(sources)

    def _counts(self) -> tuple[int, int]:
        return sum(t.requests for t in self.teachers), sum(t.lacking for t in self.teachers)


def _is_quick(bound: BoundStage) -> bool:
    """Return whether a stage takes little besides the answers of models: not a filter with a model."""
    if isinstance(bound, BoundFilterStage):
        texts = [loaded.factory.__doc__ or "" for loaded in bound.filters]
        return bound.scope == "row" and all("Costs nothing" in text for text in texts)
    return bound.scope == "row" and bound.stage.kind in QUICK


def _part(estimate: Estimate, share: float) -> Estimate:
    counts = {name: getattr(estimate, name) for name in ("requests", "input_tokens", "output_tokens")}
    part: dict[str, Any] = {
        name: None if count is None else math.ceil(count * share) for name, count in counts.items()
    }
    cost = estimate.max_cost_usd
    return replace(estimate, **part, max_cost_usd=None if cost is None else cost * share)
