"""decontaminate: nothing that is evaluated on is trained on (GPT-3, Brown et al. 2020, appendix C: n-grams of 13 words).

Where a pipeline has an `evaluate` stage, one of these stands before the first stage that trains, or else before it, without
being written.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext, Chunks, Job, Stage
from distillgen.flow.whole_set import Spool
from distillgen.project import Project
from distillgen.record import SPLIT, Record
from distillgen.rows.evaluation_sets import items
from distillgen.rows.overlap import GRAM, SHORTEST, OverlapIndex


class Decontaminate(Stage):
    """Drop records that repeat a held-out record of this run, or an item of an evaluation set: `n` words in a row of any of
    its texts, whatever their case and punctuation (a text of 8 words or more but fewer than `n`, as a whole), or all the
    `questions` fields of an item. Whole-set: records wait on disk.
    """

    kind = "decontaminate"
    reads = (
        "all texts of a record, the held-out records, the files in `against`, and the fields in `questions`"
    )
    writes = "nothing; drops records"

    against: list[str] = Field(
        [],
        description="files of evaluation items, JSONL or text, besides the records that the source holds out",
    )
    n: int = Field(GRAM, ge=SHORTEST, description="number of consecutive words that two texts must share")
    questions: list[list[str]] = Field(
        [],
        description="lists of fields that together are an item's question; a record with the same values "
        "is dropped",
    )

    def files(self, project: Project) -> dict[str, Path]:
        """The evaluation sets."""
        return {name: project.file(name) for name in self.against}

    def check(self, context: CheckContext) -> frozenset[str]:
        """There is something to look for."""
        for file in self.files(context.project).values():
            next(items(file), None)
        if not self.against and SPLIT not in context.fields:
            raise ConfigError(
                "there is nothing to look for: give 'against', a file of evaluation items, or the source held_out"
            )
        return context.fields

    def evaluation_items(self, project: Project) -> OverlapIndex:
        """The items of the evaluation sets, to which what is held out is still to be added."""
        seen = OverlapIndex(self.n, self.questions)
        for name, file in self.files(project).items():
            for line, item in items(file):
                seen.add(f"{name}:{line}", item)
        return seen

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Learn what is held out, then let go what repeats none of it."""
        seen = self.evaluation_items(job.project)
        with Spool(job) as spool:
            async for chunk in chunks:
                for record in chunk:
                    if record.held_out and not record.dropped:
                        seen.add(record.source, record.fields)
                spool.add(chunk)
            seen.settle()
            for chunk in spool.chunks():
                yield [
                    record if record.dropped or record.held_out else self._cleared(record, seen)
                    for record in chunk
                ]

    def _cleared(self, record: Record, seen: OverlapIndex) -> Record:
        found = seen.find(record.fields)
        return record.drop(self.name, "held_out", found) if found else record
