"""audit: apply manual edits and vetoes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.flow.measures import measures_of
from distillgen.flow.stage import CheckContext, Chunks, Job, Stage
from distillgen.project import Project
from distillgen.record import META, Record
from distillgen.rows.jsonl import read_rows


class Audit(Stage):
    """Apply a person's edits to records.

    A line of the file names a record by the beginning of its `id`, or records by `where`: fields with
    their values. It says `veto` with a reason, which drops the record, or `set` with fields and their new
    values. Later stages are asked again about edited records only.
    """

    kind = "audit"
    scope = "row"
    reads = "the file `edits`, and the fields that its lines name"
    writes = "the fields that an edit sets; drops the records that an edit vetoes"

    edits: str = Field(
        description="JSONL file of edits: {id: 3f2a, veto: rude} or {where: {topic: x}, set: {rule: Be "
        "brief.}}"
    )

    def files(self, project: Project) -> dict[str, Path]:
        """Return the file of edits."""
        return {self.edits: project.file(self.edits)}

    def read(self, project: Project) -> list[Mapping[str, Any]]:
        """Return the edits in order; raise ConfigError for a malformed line."""
        path, edits = project.file(self.edits), list[Mapping[str, Any]]()
        for line, row in read_rows(path):
            if isinstance(row, str):
                raise ConfigError(f"audit: {row}", path=path, line=line)
            if (
                ("id" in row) == ("where" in row)
                or ("veto" in row) == ("set" in row)
                or META in row.get("set", {})
            ):
                raise ConfigError(
                    "audit: an edit has 'id' or 'where', and 'veto' or 'set'", path=path, line=line
                )
            edits.append(row)
        return edits

    def check(self, context: CheckContext) -> frozenset[str]:
        """Return the fields. Raise ConfigError for a malformed edit, or an edit of a missing field."""
        for edit in self.read(context.project):
            for name in (*edit.get("where", {}), *edit.get("set", {})):
                context.need(name, "an edit")
        return context.fields

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Apply each edit to the records that it names; after a veto a record gets no further edit."""
        edits, used = self.read(job.context.project), set[int]()
        async for chunk in chunks:
            out = []
            for record in chunk:
                for i, edit in enumerate(edits):
                    if not record.dropped and _names(edit, record):
                        record = self._edited(edit, record)
                        used.add(i)
                out.append(record)
            yield out
        job.services.measures.update(
            measures_of({"edits": len(edits), "edits that named a record": len(used)})
        )

    def _edited(self, edit: Mapping[str, Any], record: Record) -> Record:
        if "veto" in edit:
            return record.drop(self.name, "veto", str(edit["veto"]))
        return replace(record, fields={**record.fields, **edit["set"]})


def _names(edit: Mapping[str, Any], record: Record) -> bool:
    """Return whether an edit names this record."""
    if "id" in edit:
        return record.id.startswith(str(edit["id"]))
    return all(
        name in record.fields and record.fields[name] == value for name, value in edit["where"].items()
    )
