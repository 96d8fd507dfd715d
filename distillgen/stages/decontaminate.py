"""decontaminate: drop training records that repeat evaluation items (GPT-3, Brown et al. 2020, appendix C).

In a pipeline with a stage `evaluate`, the program adds one of these, if none is written: before the first
stage that trains, or else before `evaluate`.
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
    """Drop records that repeat a held-out record of this run, or an item of an evaluation set.

    A record repeats an item if any of their texts share `n` consecutive words, without regard to case and
    punctuation, or if all fields of a list in `questions` are equal. A text of 8 to `n` words must share
    all its words. The stage waits for all records and keeps them on disk.
    """

    kind = "decontaminate"
    scope = "set"
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
        """Return the evaluation sets."""
        return {name: project.file(name) for name in self.against}

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if there are no evaluation items, or a file of them cannot be read."""
        for file in self.files(context.project).values():
            next(items(file), None)
        if not self.against and SPLIT not in context.fields:
            raise ConfigError(
                "'decontaminate' has no evaluation items: give it 'against', a file of them, or give the "
                "source 'held_out'"
            )
        return context.fields

    def evaluation_items(self, project: Project) -> OverlapIndex:
        """Return the items of the evaluation sets; the held-out records must still be added."""
        index = OverlapIndex(self.n, self.questions)
        for name, file in self.files(project).items():
            for line, item in items(file):
                index.add(f"{name}:{line}", item)
        return index

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Index the held-out records, then drop the records that repeat one of them or an evaluation item."""
        index = self.evaluation_items(job.context.project)
        with Spool(job) as spool:
            async for chunk in chunks:
                for record in chunk:
                    if record.held_out and not record.dropped:
                        index.add(record.source, record.fields)
                spool.add(chunk)
            index.settle()
            for chunk in spool.chunks():
                yield [
                    record if record.dropped or record.held_out else self._without_overlap(record, index)
                    for record in chunk
                ]

    def _without_overlap(self, record: Record, index: OverlapIndex) -> Record:
        overlap = index.find(record.fields)
        return record.drop(self.name, "held_out", overlap) if overlap else record
