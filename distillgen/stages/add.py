"""add: mix rows of another file into the records that are learnt from."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.measures import Measure
from distillgen.flow.stage import CHUNK, BoundStage, CheckContext, Chunk, Chunks, Estimate, Job, Stage
from distillgen.flow.whole_set import Spool
from distillgen.option_types import ScriptName
from distillgen.privacy import public
from distillgen.project import Project
from distillgen.prompting.filler import Parts, parts_of
from distillgen.record import META, SPLIT, Record, digest, dumps
from distillgen.rows.media import UNUSABLE, FileFault
from distillgen.rows.named_files import NAMED_FILES, NamedFiles
from distillgen.rows.overlap import OverlapIndex
from distillgen.rows.readers import count, rows_of, selected, with_references
from distillgen.rows.reading import Reading, Rows
from distillgen.rows.scripts import check_script, script_files, script_rows

log = logging.getLogger("distillgen")

CHECKED_ROWS = 200  # rows that the check reads
ADDED = Measure("rows added")


class Add(Stage, NamedFiles):
    """Put rows of another file before the records, for a training on a mixture.

    An added row has the fields of the records; a field that it lacks is null. Its `split` is train, so that
    it is never held out. Rows of the file that are held out are not added, and neither is a row that repeats
    an item of an earlier stage `decontaminate`. Which rows are drawn depends on the pipeline's seed; more
    rows contain the same ones. The stage waits for all records and keeps them on disk.

    Inside `rounds`, a student learns from the added rows in every round, and they do not leave with a round.
    """

    kind = "add"
    scope = "set"
    optional: ClassVar[frozenset[str]] = Stage.optional | NAMED_FILES
    remakes = True
    reads = "the rows of `path` or of `script`"
    writes = "the field `origin`; `split` of the added rows; a record for each added row"

    path: str | None = Field(
        None, description="file (.jsonl, .json, .csv, .tsv, .parquet, .txt or .md), or a folder of such files"
    )
    script: ScriptName | None = Field(
        None,
        description="`file.py:function` that yields rows, instead of a path, as in the stage source: it is "
        "called with the options in `with`, and with the pipeline's seed if it takes `seed`",
    )
    arguments: dict[str, Any] | None = Field(
        None, alias="with", description="options of the script's function"
    )
    fields: dict[str, str] | None = Field(
        None, description="fields to take, as new name: name in the file; default: those of the records"
    )
    n: int | None = Field(None, ge=1, description="largest number of added rows; default: all")
    share: float | None = Field(
        None, gt=0, lt=1, description="share of added rows among all that can be learnt from, instead of 'n'"
    )
    origin: str = Field(
        "origin",
        description="field with the name of the file or script of an added row; null in the other records",
    )

    @model_validator(mode="after")
    def _one_amount(self) -> Add:
        if [self.path, self.script].count(None) != 1:
            raise ValueError("give 'path' or 'script'")
        if self.arguments and not self.script:
            raise ValueError("'with' holds options of a function; it has no use without 'script'")
        if self.n is not None and self.share is not None:
            raise ValueError("give 'n' or 'share', not both")
        if self.origin in (META, SPLIT):
            raise ValueError(f"'origin': the field '{self.origin}' is distillgen's own; give another name")
        return self

    @property
    def rows_from(self) -> str:
        """The name of the file or of the script."""
        return self.path or self.script or ""

    def files(self, project: Project) -> dict[str, Path]:
        """Return the file, or the script and the project files that it imports."""
        return (
            script_files(self.script, project)
            if self.script
            else {self.rows_from: project.file(self.rows_from)}
        )

    def uses_seed(self) -> bool:
        """Return True: it draws by the pipeline's seed."""
        return True

    def bind(self, context: CheckContext) -> BoundAdd:
        """Read the first rows. Raise ConfigError for a bad row, or if no field is one of the records."""
        for name in self.fields or ():
            context.need(name, "'fields'")
        if self.script:
            reading = Reading(root=context.project.root)
            check_script(self.script, self.arguments or {}, context.seed, context.project, reading)
        rows = list(islice(self.rows(context.project, context.seed), CHECKED_ROWS))
        usable = any(isinstance(row, dict) for _, row in rows)
        for place, row in rows:
            if isinstance(row, str) and not (usable and isinstance(row, FileFault)):
                raise ConfigError(f"{place}: {row}")
        if not rows:
            raise ConfigError(f"'{self.rows_from}' has no rows to add")
        names = {name for _, row in rows if isinstance(row, dict) for name in row}
        self.check_named(names)
        if not names & (context.fields - {SPLIT}):
            remedy = "name them: fields: {name of the record: name in the file}"
            near = did_you_mean(min(names), context.fields, otherwise=remedy)
            raise ConfigError(
                f"no row of '{self.rows_from}' has a field of the records; they have {sorted(names)}{near}"
            )
        values = [(name, one) for _, row in rows if isinstance(row, dict) for name, one in row.items()]
        longest, parts = max(len(dumps(value)) for _, value in values), dict[str, Parts]()
        for name, value in values:
            parts[name] = parts.get(name, Parts()) | parts_of(value)
        files, fields = self.files(context.project), context.fields | {self.origin}
        return BoundAdd(self, context, fields, files=files, longest=longest, of_rows=parts)

    def rows(self, project: Project, seed: int) -> Iterator[tuple[str, dict[str, Any] | str]]:
        """Yield each row that is not held out with its place, or the reason why it is unreadable."""
        folder = str(public(self.rows_from, project.root))
        for inside, row, _ in self._read(project, seed):
            if isinstance(row, dict):
                if row.get(SPLIT) not in (None, "train"):
                    continue
                row = selected(row, self.fields)
            yield folder + inside, row

    def _read(self, project: Project, seed: int) -> Rows:
        names = self.fields or {}
        media = {names.get(name, name): kind for name, kind in self.media.items()}
        reading = Reading(root=project.root, media=media)
        if self.script:
            rows = script_rows(self.script, self.arguments or {}, seed, project, reading)
            return with_references(rows, project.root, reading)
        return rows_of(project.file(self.rows_from), reading)

    def count(self, project: Project, seed: int) -> int:
        """Return the number of rows."""
        if self.script:
            return sum(1 for _ in self._read(project, seed))
        return count(project.file(self.rows_from), Reading(root=project.root))


@dataclass(frozen=True)
class BoundAdd(BoundStage):
    """The stage with what bounds the values of its first rows."""

    stage: Add
    longest: int = field(kw_only=True)
    of_rows: Mapping[str, Parts] = field(kw_only=True)
    """The most pictures and sounds of each field among them."""

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return the number of records and of the rows that may be added."""
        rows = before.rows
        if rows is not None:
            amount, file_rows = (
                self._amount(rows),
                self.stage.count(self.context.project, self.context.seed),
            )
            rows += file_rows if amount is None else min(amount, file_rows)
        made_bytes = None if before.made_bytes is None else max(before.made_bytes, self.longest)
        both = {
            name: parts | before.parts.get(name, Parts()) for name, parts in self.of_rows.items() if parts
        }
        return Estimate(rows, made_bytes=made_bytes, made_parts={**before.parts, **both})

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Yield the added rows, then the records."""
        guards = [guard for stage in self._stages() if (guard := stage.evaluation_items())]
        live = 0
        with Spool(job) as spool:
            async for chunk in chunks:
                spool.add(chunk)
                for record in (record for record in chunk if not record.dropped):
                    live += not record.held_out
                    for guard in guards if record.held_out else ():
                        guard.add(record.source, record.fields)
            for guard in guards:
                guard.settle()
            added = self._added(job.context.seed, self._amount(live), guards)
            while out := list(islice(added, CHUNK)):
                job.services.measures[ADDED] = job.services.measures.get(ADDED, 0) + _kept(out)
                yield out
            for chunk in spool.chunks():
                yield [record if record.dropped else self._with_origin(record) for record in chunk]

    def _stages(self) -> Iterator[BoundStage]:
        """Yield the stages before this one, with those inside them."""
        for bound in self.context.stages:
            yield bound
            yield from bound.inner()

    def _amount(self, live: int) -> int | None:
        """Return how many rows are added to so many records; None for all."""
        share = self.stage.share
        return self.stage.n if share is None else round(live * share / (1 - share))

    def _added(self, seed: int, amount: int | None, guards: Sequence[OverlapIndex]) -> Iterator[Record]:
        """Yield the record of each row that is drawn, in the order of the file."""
        project, drawn_places = self.context.project, set[str]()
        if amount is not None:
            readable = (place for place, row in self.stage.rows(project, seed) if isinstance(row, dict))
            drawn_places.update(
                heapq.nsmallest(amount, readable, key=lambda place: digest([seed, self.name, place]))
            )
            if len(drawn_places) < amount:
                log.warning(
                    "%s: '%s' has %d rows to add, not %d",
                    self.name,
                    *(self.stage.rows_from, len(drawn_places), amount),
                )
        for place, row in self.stage.rows(project, seed):
            if isinstance(row, str):
                unreadable = Record(digest([self.name, place, row]), {}, source=place)
                why = UNUSABLE if isinstance(row, FileFault) else "unreadable"
                yield unreadable.drop(self.name, why, row)
            elif amount is None or place in drawn_places:
                record = self._record(place, row)
                overlap = next((why for guard in guards if (why := guard.find(record.fields))), "")
                yield record.drop(self.name, "held_out", overlap) if overlap else record

    def _record(self, place: str, row: dict[str, Any]) -> Record:
        """Return the record of a row, with the fields of the records."""
        record, names = Record.read(row, place), self.context.fields
        fields = {name: record.fields.get(name) for name in sorted(names)}
        fields |= {SPLIT: "train", self.stage.origin: self.stage.rows_from}
        return replace(record, id=digest([self.name, place, record.id]), fields=fields)

    def _with_origin(self, record: Record) -> Record:
        name = self.stage.origin
        return replace(record, fields={**record.fields, name: record.fields.get(name)})


def _kept(records: Chunk) -> int:
    return sum(record.dropped is None for record in records)
