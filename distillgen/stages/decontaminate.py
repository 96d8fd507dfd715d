"""decontaminate: drop training records that repeat evaluation items (GPT-3, Brown et al. 2020, appendix C).

In a pipeline with a stage `evaluate`, the program adds one of these, if none is written: before the first
stage that trains, or else before `evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.flow.condition import Condition
from distillgen.flow.in_thread import in_thread
from distillgen.flow.measures import Measure
from distillgen.flow.stage import CheckContext, Chunks, Job, Stage
from distillgen.flow.whole_set import Spool
from distillgen.project import Project
from distillgen.record import SPLIT, TEST, TRAIN, VALIDATION, Record, Unrenderable
from distillgen.rows.evaluation_sets import items
from distillgen.rows.named_files import NAMED_FILES, NamedFiles
from distillgen.rows.overlap import GRAM, SHORTEST, OverlapIndex

REPEATING = "training records that repeat an item about them"
SPARED = "records kept by 'where' that repeat an item"


class Decontaminate(Stage, NamedFiles):
    """Drop records that repeat a held-out record of this run, or an item of an evaluation set.

    A record repeats an item if any of their texts share `n` consecutive words, without regard to case and
    punctuation, or if all fields of a list in `questions` are equal. A text of 8 to `n` words must share
    all its words. An array of 8 numbers or more, a picture, or another file that a row refers to must be
    equal; one that more than two items have in common, or that is a label or an answer, does not count. The
    stage waits for all records and keeps them on disk.

    Items that ask about facts in the training records belong to `report`: the report counts the records that
    repeat one of them, and none is dropped for it. Likewise a record for which `where` does not hold is
    never dropped: the report counts those that repeat an item.
    """

    kind = "decontaminate"
    scope = "set"
    optional: ClassVar[frozenset[str]] = Stage.optional | NAMED_FILES
    reads = (
        "all texts of a record, the held-out records, the files in `against`, and the fields in `questions`"
    )
    writes = "nothing; drops records"

    against: list[str] = Field(
        [],
        description="files of evaluation items, JSONL or text, besides the records that the source holds out",
    )
    report: list[str] = Field(
        [], description="files of items about the training records; records that repeat one are counted only"
    )
    n: int = Field(GRAM, ge=SHORTEST, description="number of consecutive words that two texts must share")
    questions: list[list[str]] = Field(
        [],
        description="lists of fields that together are an item's question; a record with the same values "
        "is dropped",
    )
    where: str | None = Field(
        None,
        description="a template; a record for which its text is empty, false, no, 0 or null, such as a text "
        "of which a model learns what the test is about, is counted and not dropped if it repeats an item",
    )

    def files(self, project: Project) -> dict[str, Path]:
        """Return the evaluation sets."""
        return {name: project.file(name) for name in (*self.against, *self.report)}

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if there are no evaluation items, or a file of them cannot be read."""
        for file in self.files(context.project).values():
            next(items(file), None)
        if not self.against and not self.report and SPLIT not in context.fields:
            raise ConfigError(
                "'decontaminate' has no evaluation items: give it 'against', a file of them, or give the "
                "source 'held_out'"
            )
        if self.where is not None:
            Condition(self.where).check(context, "'where'")
        return context.fields

    def evaluation_items(self, project: Project) -> OverlapIndex:
        """Return the items of the evaluation sets; the held-out records must still be added."""
        return self._index(self.against, project)

    def _index(self, names: Sequence[str], project: Project) -> OverlapIndex:
        """Return the items of some files; more may be added."""
        index = OverlapIndex(self.n, self.questions)
        for name in names:
            for line, item in items(project.file(name), self.media, project.root):
                index.add(f"{name}:{line}", item)
        return index

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Index the held-out records, then drop the records that repeat one of them or an evaluation item."""
        project, repeated, spared = job.context.project, 0, 0
        indexes = {
            TEST: await in_thread(self.evaluation_items, project),
            VALIDATION: self._index((), project),
        }
        about_training = await in_thread(self._index, self.report, project)
        await in_thread(about_training.settle)
        with Spool(job) as spool:
            async for chunk in chunks:
                for record in chunk:
                    if record.held_out and not record.dropped:
                        indexes[record.part].add(record.source, record.fields)
                spool.add(chunk)
            for index in indexes.values():
                await in_thread(index.settle)
            for chunk in spool.chunks():
                records = list[Record]()
                for record in chunk:
                    overlap = _overlap(record, indexes)
                    spare = bool(overlap) and self._spares(record)
                    records.append(
                        record.drop(self.name, "held_out", overlap) if overlap and not spare else record
                    )
                    spared += spare
                live = (r for r in records if self.report and not r.dropped and not r.held_out)
                repeated += sum(bool(about_training.find(record.fields)) for record in live)
                yield records
        if self.report:
            job.services.measures[Measure(REPEATING)] = repeated
        if self.where is not None:
            job.services.measures[Measure(SPARED)] = spared

    def _spares(self, record: Record) -> bool:
        """Return whether a record that repeats an item is kept; never where `where` has no text."""
        with suppress(Unrenderable):
            return self.where is not None and not Condition(self.where).holds(record)
        return False


def _overlap(record: Record, indexes: Mapping[str, OverlapIndex]) -> str:
    """Return which item a record repeats: for a validation record a test item, and for a training record a
    test or a validation item; empty if it repeats none.
    """
    if record.dropped or record.part == TEST:
        return ""
    overlap = indexes[TEST].find(record.fields)
    return overlap or (indexes[VALIDATION].find(record.fields) if record.part == TRAIN else "")
