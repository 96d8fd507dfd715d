"""A filter stage over records that belong together."""

import asyncio
from dataclasses import replace
from pathlib import Path

from distillgen.flow.stage import CheckContext, Job, RunContext, WorkerServices
from distillgen.project import Project
from distillgen.record import Record
from distillgen.stages.filter import FilterStage


def samples(answers, parent="q"):
    """Records of one parent, one for each of the answers."""
    records = [Record.read({"answer": answer, "question": parent}, parent) for answer in answers]
    return [replace(record, id=f"{parent}/{i}", parents=(parent,)) for i, record in enumerate(records)]


def judged(records, filters, *, root=".", chunk=3, ledger=None):
    """The records as they leave the stage, which gets them so many at a time."""

    async def main():
        async def chunks():
            for start in range(0, len(records), chunk):
                yield records[start : start + chunk]

        fields = frozenset(name for record in records for name in record.fields) | {"answer", "question"}
        scores = frozenset(name for record in records for name in record.scores)
        stage = FilterStage(name="filter", filters=filters).bind(
            CheckContext(fields, {}, Project(Path(root)), scores=scores)
        )
        return [
            r
            async for some in stage.run(
                chunks(), Job(RunContext(Project(Path(root))), WorkerServices({}, ledger))
            )
            for r in some
        ]

    out = asyncio.run(main())
    assert [r.id for r in out] == [r.id for r in records]
    return out


def reasons(records):
    return [r.dropped and r.dropped.reason for r in records]
