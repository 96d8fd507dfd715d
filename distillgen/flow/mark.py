"""The option `mark`: a record that would be dropped goes on, with the reason in a field."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import aclosing
from dataclasses import replace

from distillgen.errors import ConfigError
from distillgen.flow.stage import Chunks
from distillgen.record import META, Record


def marks(name: str | None) -> set[str]:
    """Return the fields that the option `mark` adds. Raise ConfigError for a reserved name."""
    if name == META:
        raise ConfigError(f"mark: the field '{META}' is distillgen's own; give another name")
    return {name, f"{name}_why"} if name else set()


async def marked(chunks: Chunks, stage: str, name: str, filters: Collection[str] | None = None) -> Chunks:
    """Restore the records that `stage` dropped, or only those that its `filters` dropped.

    The field `name` is false for such a record, and `<name>_why` has the reason; other records have true and
    an empty reason.
    """

    def noted(record: Record) -> Record:
        why = record.dropped
        if why and (why.stage != stage or filters is not None and why.filter not in filters):
            return record
        noted = {name: why is None, f"{name}_why": why.reason if why else ""}
        return replace(record, dropped=None, fields={**record.fields, **noted})

    async with aclosing(chunks):
        async for chunk in chunks:
            yield list(map(noted, chunk))
