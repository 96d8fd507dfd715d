"""cross: combine every record with every row of a list, such as each event with each relation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.flow.ordered import splice
from distillgen.flow.stage import CheckContext, Chunks, Estimate, Job, Stage
from distillgen.project import Project
from distillgen.prompting.filler import parts_of
from distillgen.record import META, Record, digest, dumps
from distillgen.rows.jsonl import read_rows
from distillgen.rows.named_files import NAMED_FILES, NamedFiles
from distillgen.rows.readers import with_references
from distillgen.rows.reading import Reading, Row


class Cross(Stage, NamedFiles):
    """Make one record for each pair of a record and a row, with the fields of both.

    The records of one source record follow each other in the order of the rows.
    """

    kind = "cross"
    scope = "row"
    optional: ClassVar[frozenset[str]] = Stage.optional | NAMED_FILES
    remakes = True
    reads = "the rows in `rows`"
    writes = "the fields of the rows; one record for each pair of a record and a row"

    rows: list[dict[str, Any]] | str = Field(
        min_length=1, description="rows of fields, or the name of a JSONL file with them"
    )

    def read(self, project: Project) -> list[dict[str, Any]]:
        """Return the rows, with references to the files that they name. Raise ConfigError for a file without
        rows, with a malformed one, or with one whose picture or sound cannot be used.
        """
        path = project.file(self.rows) if isinstance(self.rows, str) else None
        numbered: Iterable[tuple[int, Row]] = enumerate(self.rows, 1) if path is None else read_rows(path)
        folder, reading = path.parent if path else project.root, Reading(root=project.root, media=self.media)
        rows = []
        for line, row, _ in with_references(
            ((str(line), row, "") for line, row in numbered), folder, reading
        ):
            if isinstance(row, str):
                raise ConfigError(
                    row if path else f"row {line}: {row}", path=path, line=int(line) if path else None
                )
            rows.append(row)
        if not rows:
            raise ConfigError(f"'{self.rows}' has no rows")
        return rows

    def files(self, project: Project) -> dict[str, Path]:
        """Return the file of the rows, if they are in one."""
        return {self.rows: project.file(self.rows)} if isinstance(self.rows, str) else {}

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError unless all rows have the same fields, which no record has."""
        first, *others = rows = self.read(context.project)
        for i, row in enumerate(others, 2):
            if row.keys() != first.keys():
                raise ConfigError(f"row {i} of 'rows' gives {sorted(row)}, the first one {sorted(first)}")
        for name in first:
            if name in context.fields or name == META:
                raise ConfigError(
                    f"'rows' give the field '{name}', which the records have; give it another name"
                )
        self.check_named(first)
        if len({dumps(row) for row in rows}) < len(rows):
            raise ConfigError("'rows' has two equal rows; remove one")
        return context.fields | first.keys()

    def estimate(self, before: Estimate, samples: Sequence[Record], context: CheckContext) -> Estimate:
        """Return the number of records times the number of rows."""
        rows = self.read(context.project)
        longest = max(len(dumps(value)) for row in rows for value in row.values())
        made_bytes = None if before.made_bytes is None else max(before.made_bytes, longest)
        made_parts = {**before.parts}
        for name in rows[0]:
            made_parts[name] = reduce(or_, (parts_of(row[name]) for row in rows))
        return Estimate(
            None if before.rows is None else before.rows * len(rows),
            made_bytes=made_bytes,
            made_parts={name: parts for name, parts in made_parts.items() if parts},
        )

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Combine every live record with every row."""
        rows = self.read(job.context.project)

        def multiplied(record: Record) -> list[Record]:
            fields = ({**record.fields, **row} for row in rows)
            return [
                replace(record, id=digest([record.id, self.name, all]), fields=all, parents=(record.id,))
                for all in fields
            ]

        async for chunk in chunks:
            yield splice(chunk, (multiplied(record) for record in chunk if not record.dropped))
