"""The records of finished rounds, and the fields that say which round a record belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distillgen.record import Record, loads_own

ROUND, ITEM = (
    "round",
    "item",
)  # the fields that tell the round that a record belongs to, and its record in the pool


def records_of(place: Path) -> Iterator[Record]:
    """Yield the records of a finished round, in order."""
    with (place / "records.jsonl").open("rb") as lines:
        yield from (Record.from_row(loads_own(line)) for line in lines)


def kept_of(place: Path) -> Iterator[Record]:
    """Yield the records that a finished round kept, without held-out records."""
    return (record for record in records_of(place) if record.dropped is None and not record.held_out)
