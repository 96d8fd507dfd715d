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
from distillgen.runs.directory import Run, open_rows, project_root, rows_in, version
from distillgen.runs.export_media import ExportedMedia
from distillgen.text.display import clipped

Batch = list[dict[str, Any]]
SPLIT_NAME = re.compile(r"\w{1,100}(?:\.\w{1,100})*")  # of `datasets`; files are named after splits


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export."""

    format: str = "jsonl"
    shape: str | None = None
    """The name of a shape; None keeps the rows as they are."""
    parts: Mapping[str, str] = field(default_factory=dict)
    keep: Sequence[str] = ()
    splits: Mapping[str, float] = field(default_factory=dict)
    """The share of each split, if the rows have no field `split`."""
    by: str | None = None
    """A field: rows with the same value of it stay in one split, instead of rows of the same source item."""
    seed: int = 0
    shard_rows: int | None = None
    dropped: bool = False
    identify: bool = True
    trainers: Sequence[str] = ()
    """The trainers for which files are written beside the rows."""


class Rows:
    """The rows of an export, which can be read several times."""

    def __init__(self, data: Run | str, options: ExportOptions, writer: type[Writer]) -> None:
        """Read the records' fields and splits; raise ConfigError if they do not fit the options."""
        self.data, self.options = data, options
        self.left_out: Counter[str] = Counter()
        self.carries_files = False
        """Whether pictures and sounds are written; otherwise rows keep the references to them."""
        self._version: tuple[int, ...] | None = None
        self.media = ExportedMedia(project_root(data.directory) if isinstance(data, Run) else Path.cwd())
        names, record_splits = dict[str, None](), dict[str, float]()
        for record in self._records():
            names |= dict.fromkeys(record.fields)
            if SPLIT in record.fields:
                record_splits[_split_field(record)] = 0.0
        fields = list(names)
        if record_splits and options.splits:
            raise ConfigError(f"the rows are split already, by their field '{SPLIT}'; leave --split out")
        self.splits = record_splits or options.splits
        _check_split_names(list(self.splits))
        for name, option in (*((name, "--keep") for name in options.keep), (options.by, "--by")):
            if name is not None and name not in fields:
                raise ConfigError(f"{option}: there is no field '{name}'{did_you_mean(name, fields)}")
        shape = "triples" if options.shape is None and writer.of_triples else options.shape
        if writer.of_triples and shape != "triples":
            mistake = f"the format {options.format} holds triples only, not the shape '{shape}'"
            raise ConfigError(f"{mistake}; give --shape triples or none")
        self.shaper: Shaper | None = shaper(shape, options.parts, fields) if shape is not None else None
        shape_columns = self.shaper.columns if self.shaper else ()
        keep = options.keep or ([] if self.shaper else fields)
        self.kept = [name for name in keep if name not in shape_columns]
        columns = [*shape_columns, *self.kept, *(("dropped_by", "reason") if options.dropped else ())]
        self.identifier = self._identifier(columns)
        self.columns = list(dict.fromkeys([self.identifier, *columns] if self.identifier else columns))

    def _identifier(self, columns: Sequence[str]) -> str:
        """Return the name of the column with the record's id, or "" for none."""
        if not self.options.identify:
            return ""
        if "id" not in columns or isinstance(
            self.data, str
        ):  # the field `id` of a data set is the record's id
            return "id"
        if "record_id" in columns:
            remedy = "leave one out (--keep), or give --no-id"
            raise ConfigError(f"the rows have the fields 'id' and 'record_id' already; {remedy}")
        return "record_id"

    def _records(self) -> Iterator[Record]:
        if not isinstance(self.data, Run):
            yield from _records_of(self.data)
        elif (stream := open_rows(self._file())) is not None:
            with stream:
                self._refuse_other(version(stream.fileno()))
                yield from map(Record.from_row, rows_in(stream))

    def _file(self) -> Path:
        """Return the file of the run that has the rows."""
        assert isinstance(self.data, Run)
        return self.data.directory / ("dropped.jsonl" if self.options.dropped else "corpus.jsonl")

    def check_unchanged(self) -> None:
        """Raise ConfigError if a run has written the rows anew since they were first read."""
        if isinstance(self.data, Run):
            self._refuse_other(version(self._file()))

    def _refuse_other(self, now: tuple[int, ...]) -> None:
        self._version = self._version or now
        if now != self._version:
            raise ConfigError(f"a run has written '{self._file()}' anew meanwhile; export it again")

    def batches(self) -> Iterator[tuple[str, Batch]]:
        """Give batches of rows with their split, in order; count the rows that do not fit the shape."""
        self.left_out = Counter()
        waiting: dict[str, Batch] = {}
        for record in self._records():
            try:
                row = self._row(record)
                if self.carries_files:
                    self.media.see(row)
            except Unrenderable as error:
                self.left_out[str(error)] += 1
                continue
            split = self._split(record)
            batch = waiting.setdefault(split, [])
            batch.append(row)
            if len(batch) == BATCH:
                yield split, waiting.pop(split)
        yield from waiting.items()

    def _row(self, record: Record) -> dict[str, Any]:
        """Return the record as a row of the export; raise Unrenderable if it does not fit the shape."""
        row: dict[str, Any] = {self.identifier: record.id}
        if self.options.dropped and (drop := record.dropped):
            row |= {"dropped_by": f"{drop.stage}/{drop.filter}", "reason": drop.reason}
        elif record.dropped:
            raise Unrenderable(record.dropped.reason)
        row |= {name: record.fields.get(name) for name in self.kept}
        row |= self.shaper.row(record.variables(self.shaper.reads)) if self.shaper else {}
        return {name: row.get(name) for name in self.columns}

    def _split(self, record: Record) -> str:
        """Return the split of the record's source item.

        It depends on the seed and the item alone, so that an item keeps its split when others are added.
        """
        if not self.options.splits:
            return _split_field(record) if SPLIT in record.fields else "train"
        item = (record.item or re.sub(r"#\d+$", "", record.source)).encode()
        if self.options.by:
            item = dumps(record.fields.get(self.options.by))
        seeded = b"%d\0%s" % (self.options.seed, item)
        place = int.from_bytes(hashlib.sha256(seeded).digest()[:8]) / 2**64
        for split, share in self.options.splits.items():
            place -= share
            if place < 0:
                return split
        return split


def _check_split_names(splits: Sequence[str]) -> None:
    """Raise ConfigError for a name that `datasets` or a file system does not accept."""
    for split in splits:
        if not SPLIT_NAME.fullmatch(split) or split == "all":
            mistake = "is not a name that data sets accept"
            if split == "all":
                mistake = "is the name that data sets give to all splits together"
            remedy = "use letters, digits, '_' and single dots; change it with a format stage"
            raise ConfigError(
                f"the split {clipped(repr(split), 60)} {mistake}: {remedy}, or leave the field out"
            )
    if len({split.lower() for split in splits}) < len(splits):
        mistake = "differ in case only, which some file systems do not distinguish"
        raise ConfigError(f"the splits {', '.join(splits)} {mistake}: rename one")


def _split_field(record: Record) -> str:
    """Return the value of the record's field `split`; raise ConfigError if it is not a text."""
    name = record.fields[SPLIT]
    if not isinstance(name, str):
        value = "null" if name is None else f"{clipped(text_of(name), 60)}, which is not a text"
        where = f"the field '{SPLIT}' of {record.source or record.id}"
        raise ConfigError(f"{where} is {value}; give it the value train or test, or leave it out")
    return name


def _records_of(data: str) -> Iterator[Record]:
    """Give the rows of a file or data set as records.

    A row that a run wrote becomes the record that it was. Another row gets the id in its field `id`, if it
    has one.
    """
    from distillgen.rows.readers import origin
    from distillgen.stages.source import Source

    project = Project(Path.cwd(), frozenset({data}))
    if Path(data).suffix != ".jsonl":
        yield from map(_with_field_id, Source(**origin(data)).records(project))
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
            record = Record(digest(row), row, source=f"{data}:{line}", item=item_of(row))
            yield _with_field_id(record)


def _with_field_id(record: Record) -> Record:
    field_id = record.fields.get("id")
    return record if field_id is None else replace(record, id=str(field_id))
