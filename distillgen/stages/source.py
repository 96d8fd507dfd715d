"""source: where records come from. Files are streamed; a bad row is a dropped record, not a crash.

A reader gives every row with its place inside the source, or what is wrong with it; all else is common to the formats.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from pydantic import Field, model_validator

from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.stage import CHUNK, Checking, Chunks, Estimate, Job, Stage
from distillgen.privacy import public
from distillgen.project import Project, read_text
from distillgen.record import META, SPLIT, Record, digest, dumps, item_of, loads
from distillgen.rows.jsonl import read_rows
from distillgen.text.chunks import chunks
from distillgen.user_files import PACKED, first_bytes, inner_files, opened, what_is

log = logging.getLogger("distillgen")

CHECKED_ROWS = 1000  # read and checked before anything is paid for; a bad row further on is dropped

Row = dict[str, Any] | str
"""A row's fields, or what is wrong with it."""

Rows = Iterator[tuple[str, Row, str]]
"""Every row with its place inside the source, and the item that it is a part of; nothing where it is one by itself."""


def origin(data: str) -> dict[str, str]:
    """A source's options for what a user typed: a file or folder, else the name of a data set. Raises ConfigError for neither."""
    if Path(data).exists() or _ending(Path(data)) in READERS:
        return {"path": data}
    if "/" not in data:
        raise ConfigError(
            f"there is no run, file or folder '{data}'; a data set on the Hub is named owner/name"
        )
    return {"dataset": data}


class Source(Stage):
    """Read rows from a file or folder, or a Hugging Face data set."""

    kind = "source"

    path: str | None = Field(
        None, description="a .jsonl, .json, .csv, .tsv, .parquet, .txt or .md file, or a folder of them"
    )
    dataset: str | None = Field(None, description="a Hugging Face data set, instead of a path")
    config: str | None = Field(None, description="the data set's configuration")
    split: str = Field("train", description="the data set's split")
    format: Literal["jsonl", "csv", "parquet", "text"] | None = Field(
        None, description="default: by the file's ending"
    )
    fields: dict[str, str] | None = Field(
        None, description="fields to keep: new name: name in the source; default: all"
    )
    lineage: bool = Field(
        False, description="rows of an earlier run keep their id, scores and answers; for its own ledger only"
    )
    chunk_words: int | None = Field(
        None,
        ge=10,
        description="cut texts into pieces of so many words at most: before headings, between blocks and sentences",
    )
    overlap_words: int = Field(
        0, ge=0, description="words that a piece repeats from the one before, in whole sentences"
    )
    held_out: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of rows (of texts: of files) that nothing is trained on: `split` is test, not train",
    )
    item: list[str] | None = Field(
        None,
        min_length=1,
        description="fields in which rows of one item are equal, which no split parts; default: all but "
        "those that number or answer it, such as id, answer and label",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either 'path' or 'dataset'")
        if self.chunk_words is not None and self.overlap_words >= self.chunk_words:
            raise ValueError("overlap_words must be smaller than chunk_words")
        return self

    @property
    def origin(self) -> str:
        """What the source is called: its path, or its data set's name."""
        return self.path or self.dataset or ""

    def files(self, project: Project) -> dict[str, Path]:
        """The source file or folder, where it is a local one."""
        if self.dataset and not any((folder / self.dataset).exists() for folder in (project.root, Path())):
            return {}
        return {self.origin: project.file(self.origin)}

    def check(self, given: Checking) -> frozenset[str]:
        """Read the first rows: the fields are those that any of them has; a bad one is an error with its place."""
        if given.fields:
            raise ConfigError("a source must be the first stage")
        first = list(islice(self.records(given.project), CHECKED_ROWS))
        for record in first:
            if record.dropped:
                raise ConfigError(f"{record.source}: {record.dropped.reason}")
        if not first:
            raise ConfigError(f"the source '{self.origin}' has no rows")
        fields = frozenset(name for record in first for name in record.fields)
        for name in self.item or ():
            if name not in fields:
                raise ConfigError(
                    f"'item' names the field '{name}', which no row has{did_you_mean(name, fields)}"
                )
        return fields

    def records_logprobs(self, given: Checking) -> bool:
        """An earlier run may have: only its ledger tells."""
        return self.lineage

    def estimate(self, before: Estimate, samples: Sequence[Record], given: Checking) -> Estimate:
        """The number of rows, where it can be told without reading all of a remote data set."""
        return Estimate(self.count(given.project))

    def count(self, project: Project) -> int | None:
        """How many rows there are; None for a streamed data set."""
        reader, path = self._reader(project)
        if self.dataset:
            return None
        if reader is _jsonl:
            with opened(path, page=True) as (stream, encoding):
                start = stream.readline().lstrip(b"\xef\xbb\xbf \t\r\n")
                if encoding.startswith("utf-8") and start.startswith(b"{"):
                    return 1 + sum(1 for line in stream if line.strip())
        return sum(1 for _ in reader(self, path))

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Rows in order, in chunks."""
        records = islice(self.records(job.project), job.limit)
        while chunk := list(islice(records, CHUNK)):
            yield chunk

    def samples(self, project: Project, n: int) -> list[Record]:
        """The first rows, for estimates."""
        return [record for record in islice(self.records(project), n) if not record.dropped]

    def turns(self, project: Project) -> dict[str, list[list[dict[str, Any]]]]:
        """The first row of each order of roles, in the fields of the first rows that hold chat turns."""
        found: dict[str, dict[tuple[str, ...], list[dict[str, Any]]]] = {}
        for record in self.samples(project, CHECKED_ROWS):
            for name, value in record.fields.items():
                if (
                    isinstance(value, list)
                    and value
                    and all(isinstance(turn, dict) and "role" in turn for turn in value)
                ):
                    found.setdefault(name, {}).setdefault(tuple(str(turn["role"]) for turn in value), value)
        return {name: [*rows.values()] for name, rows in found.items()}

    def records(self, project: Project) -> Iterator[Record]:
        """A record of each row; a bad row becomes a dropped one."""
        origin = str(public(self.origin, project.root))
        reader, path = self._reader(project)
        for inside, row, item in reader(self, path):
            place = origin + inside
            if isinstance(row, dict) and (self.fields or META in row):
                row = self._chosen(row)
            if isinstance(row, str):
                yield Record(digest([place, row]), {}, source=place).drop(self.name, "unreadable", row)
            elif self.lineage and META in row:
                yield Record.from_row(row)
            else:
                item = item_of(row, self.item) if self.item else item
                yield self._placed(Record.read(row, place, item))

    def _placed(self, record: Record) -> Record:
        """The record on its side of the split, on which the same item, or another piece of the same text, stands as well."""
        if self.held_out is None:
            return record
        if SPLIT in record.fields:
            remedy = "leave held_out out, which would make another"
            return record.drop(self.name, "unreadable", f"the row has a field '{SPLIT}' already; {remedy}")
        side = "test" if int(digest(record.item, 8), 16) < self.held_out * 16**8 else "train"
        return replace(record, fields={**record.fields, SPLIT: side})

    def _chosen(self, row: dict[str, Any]) -> Row:
        """The fields to keep, and what an earlier run has written about the row."""
        meta = row.get(META)
        earlier = {META: meta} if isinstance(meta, dict) and {"id", "made"} <= meta.keys() else {}
        if self.fields:
            try:
                row = {new: row[old] for new, old in self.fields.items()} | earlier
            except KeyError as error:
                name = str(error.args[0])
                return f"there is no field '{name}' in the row{did_you_mean(name, row)}"
        if META in row and not earlier:
            return f"the field '{META}' is distillgen's own; rename it with fields: {{other: {META}}}"
        return row

    def _reader(self, project: Project) -> tuple[Callable[[Source, Path], Rows], Path]:
        """What reads the source, and its file, folder or data set."""
        path = self.files(project).get(self.origin, Path(self.origin))
        named = {name: reader for reader, name in FORMATS.items()}
        reader = _typed if self.dataset else _folder if path.is_dir() else READERS.get(_ending(path))
        reader = named[self.format] if self.format and reader is not _folder else reader
        if reader is None:
            if what := what_is(first_bytes(path)):
                raise ConfigError(f"'{path.name}' is {what}")
            remedy = "say format: jsonl, csv, parquet or text"
            raise ConfigError(f"'{path.name}' has an ending that is not known; {remedy}")
        if self.chunk_words and reader not in (_texts, _folder):
            raise ConfigError(f"chunk_words cuts texts, and '{path.name}' is none")
        return reader, path


def _jsonl(source: Source, path: Path) -> Rows:
    return ((f":{number}", row, "") for number, row in read_rows(path))


def _csv(source: Source, path: Path) -> Rows:
    csv.field_size_limit(1 << 30)
    delimiter = "\t" if ".tsv" in [ending.lower() for ending in path.suffixes] else ","
    with opened(path, page=True) as (stream, encoding):
        encoding = "utf-8-sig" if encoding == "utf-8" else encoding
        text = io.TextIOWrapper(
            stream, encoding, newline="", errors="surrogateescape" if encoding == "utf-8-sig" else "strict"
        )
        rows = csv.DictReader(text, delimiter=delimiter, strict=True)
        row: Row | None
        names = _columns(rows, path)
        while True:
            try:
                if (row := next(rows, None)) is None:
                    return
                if None in row or None in row.values():
                    row = f"the row has another number of cells than the heading's {len(names)}"
                else:
                    "".join([*row, *row.values()]).encode()
            except csv.Error as error:
                row = f"not CSV: {error}"
            except UnicodeEncodeError:  # what errors="surrogateescape" made of a byte that is not UTF-8
                row = "not UTF-8 text; save the file as UTF-8"
            yield f":{rows.reader.line_num}", row, ""


def _columns(rows: csv.DictReader[str], path: Path) -> Sequence[str]:
    """The heading's names. Raises ConfigError where one stands twice, or all stand in one cell."""
    try:
        names = [*(rows.fieldnames or ())]
    except csv.Error as error:
        raise ConfigError(f"not CSV: {error}", path=path.name, line=1) from error
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"the heading names '{twice[0]}' twice", path=path.name, line=1)
    if len(names) == 1 and (other := next((mark for mark in ";\t|" if mark in names[0]), "")):
        what = f"the heading is one column, {names[0]!r}: its parts seem to be separated by {other!r}"
        raise ConfigError(f"{what}; save the table with commas, or with tabs as .tsv", path=path.name, line=1)
    return names


def _typed(source: Source, path: Path) -> Rows:
    """Rows of a Parquet file or a data set, with dates, decimals and the like as JSON has them."""
    try:
        if source.dataset:
            from datasets import load_dataset

            rows = load_dataset(str(path), source.config, split=source.split, streaming=True)
        else:
            from pyarrow.parquet import ParquetFile

            if not (head := first_bytes(path)).startswith(b"PAR1") and (what := what_is(head)):
                raise ConfigError(f"this is {what}", path=path)
            file = ParquetFile(path)
            names = file.schema_arrow.names
            if twice := [name for name in names if names.count(name) > 1]:
                raise ConfigError(
                    f"the column '{twice[0]}' stands twice; give one of them another name", path=path
                )
            rows = (row for batch in file.iter_batches(CHUNK) for row in batch.to_pylist())
        chosen = set(source.fields.values()) if source.fields else None
        for number, row in enumerate(rows, 1):
            yield (
                f":{number}",
                _plain({n: v for n, v in row.items() if chosen is None or n in (*chosen, META)}, row),
                "",
            )
    except ConfigError:
        raise
    except (
        Exception
    ) as error:  # the packages raise anything from OSError to their own; all mean the same here
        remedy = ": pip install 'distillgen[datasets]'" if isinstance(error, ImportError) else ""
        raise ConfigError(
            f"'{source.origin}' cannot be read: {type(error).__name__}: {error}{remedy}"
        ) from error


def _plain(row: dict[str, Any], every: Mapping[str, Any]) -> Row:
    """A row as JSON has it, or which column holds what no text can be made of."""
    made: dict[str, Any] = {}
    for name, value in row.items():
        try:
            made[name] = loads(dumps(_as_json(value)))
        except TypeError as error:
            others = ", ".join(f"{other}: {other}" for other in every if other != name)
            return f"the column '{name}' holds {error}; leave it out: fields: {{{others}}}"
    return made


def _as_json(value: Any) -> Any:
    """A value that `dumps` writes as it is meant. Raises TypeError, which says what it is, for what JSON has no word for."""
    if value is None or isinstance(value, str | int | float | date | time | timedelta | Decimal | UUID):
        return value
    if isinstance(value, Mapping):
        return {str(name): _as_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(part) for part in value]
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            if (text := value.decode()).isprintable() or not any(
                ord(letter) < 32 and letter not in "\t\n\r" for letter in text
            ):
                return text
        raise TypeError("bytes that are no text")
    if hasattr(value, "tolist"):  # a NumPy array or number
        return _as_json(value.tolist())
    raise TypeError(
        f"{'an image' if 'Image' in type(value).__name__ else f'a value of type {type(value).__name__}'}"
    )


def _folder(source: Source, path: Path) -> Rows:
    """The texts of a folder, or the rows of its files, in the order of their names."""
    files = [
        file
        for file in inner_files(path)
        if _ending(file) in (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", *TEXTS)
    ]
    if source.format:
        files = [file for file in files if FORMATS[READERS[_ending(file)]] == source.format]
    texts = [file for file in files if _ending(file) in TEXTS]
    if texts and len(texts) < len(files):
        of_rows = next(file for file in files if file not in texts)
        what = f"the folder holds texts ({texts[0].name}) and files of rows ({of_rows.name})"
        ways = f"format: text or format: {FORMATS[READERS[_ending(of_rows)]]}"
        raise ConfigError(f"{what}; say which to read, with {ways}", path=path)
    if source.chunk_words and len(texts) < len(files):
        raise ConfigError(f"chunk_words cuts texts, and '{path.name}' holds none")
    for file in files:
        place = file.as_posix().removeprefix(path.as_posix())
        if not file.resolve().is_relative_to(path.resolve()):
            yield place, "the link leads out of the folder; copy the file there", ""
        elif file in texts:
            yield from _text(source, file, place, inside=True)
        else:
            yield from (
                (place + inside, row, item) for inside, row, item in READERS[_ending(file)](source, file)
            )


def _texts(source: Source, path: Path) -> Rows:
    yield from _text(source, path, "", inside=False)


def _text(source: Source, file: Path, place: str, *, inside: bool) -> Rows:
    """A text, whole or in pieces; those of a file in a folder are one item."""
    try:
        text = read_text(file)
    except ConfigError as error:
        yield place, error.message, ""
        return
    title = next((line[2:].strip() for line in text.splitlines() if line.startswith("# ")), _stem(file))
    notes: list[str] = []
    pieces = (
        chunks(text, source.chunk_words, source.overlap_words, notes)
        if source.chunk_words
        else [text.strip()]
    )
    for note in notes:
        log.info("%s: %s", file.name, note)
    item = digest(text) if inside else ""
    for i, piece in enumerate(filter(None, pieces), 1):
        yield (
            f"{place}#{i}",
            {"text": piece, "title": title, "file": place[1:] or file.name, "piece": i},
            item,
        )


def _ending(path: Path) -> str:
    """What tells the format of a file, packed or not."""
    endings = [ending.lower() for ending in path.suffixes]
    return next((ending for ending in endings[::-1] if ending not in PACKED), "")


def _stem(file: Path) -> str:
    return file.name[: -len("".join(file.suffixes[-2:]))] if file.suffix.lower() in PACKED else file.stem


TEXTS = (".txt", ".md", ".text")
READERS: dict[str, Callable[[Source, Path], Rows]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _jsonl,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _typed,
    **dict.fromkeys(TEXTS, _texts),
}
FORMATS: dict[Callable[[Source, Path], Rows], str] = {
    _jsonl: "jsonl",
    _csv: "csv",
    _typed: "parquet",
    _texts: "text",
}
