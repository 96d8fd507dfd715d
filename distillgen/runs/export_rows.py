"""The rows of an export: their fields, shape, columns and splits."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError, did_you_mean
from distillgen.project import Project
from distillgen.record import META, SPLIT, Record, Unrenderable, digest, dumps, item_of, text_of
from distillgen.rows.formats import BATCH, Writer
from distillgen.rows.jsonl import read_rows as read_any_rows
from distillgen.rows.shapes import Shaper, shaper
from distillgen.runs.directory import Run, read_records
from distillgen.text.display import clipped

Batch = list[dict[str, Any]]
SPLIT_NAME = re.compile(r"\w{1,100}(?:\.\w{1,100})*")  # as `datasets` has them; a file is named after it


@dataclass(frozen=True)
class ExportOptions:
    """What an export is to be. `shape` None: rows as they are; `splits` are shares by name, where the rows have no field `split`
    of their own; `by` a field of which equal values stay in one split, instead of the source item.
    """

    format: str = "jsonl"
    shape: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    keep: Sequence[str] = ()
    splits: Mapping[str, float] = field(default_factory=dict)
    by: str | None = None
    seed: int = 0
    shard_rows: int | None = None
    dropped: bool = False
    identify: bool = True


class Rows:
    """The rows of an export, as often as they are needed. Raises ConfigError for whatever the data has not."""

    def __init__(self, data: Run | str, wanted: ExportOptions, writer: type[Writer]) -> None:
        self.data, self.wanted = data, wanted
        self.left_out: Counter[str] = Counter()
        names, own = dict[str, None](), dict[str, float]()
        for record in self._records():
            names |= dict.fromkeys(record.fields)
            if SPLIT in record.fields:
                own[_named_split(record)] = 0.0
        fields = list(names)
        if own and wanted.splits:
            raise ConfigError(f"the rows are split already, by their field '{SPLIT}'; leave --split out")
        self.splits = own or wanted.splits
        for split in self.splits:
            if not SPLIT_NAME.fullmatch(split) or split == "all":
                what = (
                    "is what data sets call all of them together"
                    if split == "all"
                    else "is no name that data sets have"
                )
                remedy = "letters, digits, '_' and single dots make one; change it with a format stage, or leave the field out"
                raise ConfigError(f"the split {clipped(repr(split), 60)} {what}: {remedy}")
        if len({split.lower() for split in self.splits}) < len(self.splits):
            what = "differ in case only, which some file systems cannot tell apart"
            raise ConfigError(f"the splits {', '.join(self.splits)} {what}: rename one")
        for name, option in (*((name, "--keep") for name in wanted.keep), (wanted.by, "--by")):
            if name is not None and name not in fields:
                raise ConfigError(f"{option}: there is no field '{name}'{did_you_mean(name, fields)}")
        shape = wanted.shape or ("triples" if writer.of_triples else None)
        if writer.of_triples and shape != "triples":
            raise ConfigError(
                f"{wanted.format} holds triples, and nothing of the shape '{shape}'; give --shape triples or none"
            )
        self.shaper: Shaper | None = shaper(shape, wanted.parts, fields) if shape else None
        made = self.shaper.columns if self.shaper else ()
        self.kept = [name for name in wanted.keep or ([] if self.shaper else fields) if name not in made]
        columns: list[str] = list(
            dict.fromkeys([*made, *self.kept, *(("dropped_by", "reason") if wanted.dropped else ())])
        )
        self.identifier = "id" if wanted.identify else ""
        if "id" in columns and isinstance(data, Run):  # a field of the user's; of a data set it is the id
            self.identifier = self.identifier and "record_id"
            if "record_id" in columns and wanted.identify:
                raise ConfigError(
                    "the fields 'id' and 'record_id' are both taken; leave one out (--keep), or give --no-id"
                )
        self.columns = list(dict.fromkeys([self.identifier, *columns] if self.identifier else columns))

    def _records(self) -> Iterator[Record]:
        if isinstance(self.data, Run):
            return read_records(
                self.data.directory / ("dropped.jsonl" if self.wanted.dropped else "corpus.jsonl")
            )
        return _records_of(self.data)

    def batches(self) -> Iterator[tuple[str, Batch]]:
        """Rows by split, in the order of the data; those that have no place in the shape are counted."""
        self.left_out = Counter()
        waiting: dict[str, Batch] = {}
        for record in self._records():
            try:
                row = self._row(record)
            except Unrenderable as why:
                self.left_out[str(why)] += 1
                continue
            split = self._split(record)
            batch = waiting.setdefault(split, [])
            batch.append(row)
            if len(batch) == BATCH:
                yield split, waiting.pop(split)
        yield from waiting.items()

    def _row(self, record: Record) -> dict[str, Any]:
        row: dict[str, Any] = {self.identifier: record.id}
        if self.wanted.dropped and (why := record.dropped):
            row |= {"dropped_by": f"{why.stage}/{why.filter}", "reason": why.reason}
        elif record.dropped:
            raise Unrenderable(record.dropped.reason)
        row |= {name: record.fields.get(name) for name in self.kept}
        row |= self.shaper.row(record.fields) if self.shaper else {}
        return {name: row.get(name) for name in self.columns}

    def _split(self, record: Record) -> str:
        """Where the record's source item belongs: drawn from the seed and the item alone, so that it stays when others come."""
        if not self.wanted.splits:
            return _named_split(record) if SPLIT in record.fields else "train"
        item = (record.item or re.sub(r"#\d+$", "", record.source)).encode()
        if self.wanted.by:
            item = dumps(record.fields.get(self.wanted.by))
        drawn = int.from_bytes(hashlib.sha256(b"%d\0%s" % (self.wanted.seed, item)).digest()[:8]) / 2**64
        for split, share in self.wanted.splits.items():
            drawn -= share
            if drawn < 0:
                return split
        return split


def _named_split(record: Record) -> str:
    """The split that a record names. Raises ConfigError where that is no name."""
    name = record.fields[SPLIT]
    if not isinstance(name, str):
        what = "null" if name is None else f"{clipped(text_of(name), 60)}, which is no text"
        raise ConfigError(
            f"the field '{SPLIT}' of {record.source or record.id} is {what}; say train or test, or leave it out"
        )
    return name


def _records_of(data: str) -> Iterator[Record]:
    """The rows of a file or data set. Those that a run wrote are the records that they were; others are known by their field `id`
    where they have one.
    """
    from distillgen.rows.readers import origin
    from distillgen.stages.source import Source

    project = Project(Path.cwd(), frozenset({data}))
    if Path(data).suffix != ".jsonl":
        yield from map(_by_own_id, Source(**origin(data)).records(project))
        return
    for line, row in read_any_rows(project.file(data)):
        if isinstance(row, str):
            yield Record("", {}).drop("source", "unreadable", row)
        elif (
            isinstance(meta := row.get(META), dict)
            and {"id", "made", "parents", "scores", "source"} <= meta.keys()
        ):
            yield Record.from_row(row)
        else:
            yield _by_own_id(Record(digest(row), row, source=f"{data}:{line}", item=item_of(row)))


def _by_own_id(record: Record) -> Record:
    own = record.fields.get("id")
    return record if own is None else replace(record, id=str(own))
