"""source: where records come from. Files are streamed; a bad row is a dropped record, not a crash.

A reader gives every row with its place inside the source, or what is wrong with it; all else is common to the formats.
"""

from __future__ import annotations

import csv
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from distillgen.errors import ConfigError, did_you_mean
from distillgen.project import Project, read_text
from distillgen.record import META, SPLIT, Record, digest, dumps, loads, read_rows
from distillgen.stages import CHUNK, Checking, Chunks, Estimate, Job, Stage

CHECKED_ROWS = 1000  # read and checked before anything is paid for; a bad row further on is dropped

Row = dict[str, Any] | str
"""A row's fields, or what is wrong with it."""

Rows = Iterator[tuple[str, Row]]
"""Every row with its place inside the source."""


def origin(data: str) -> dict[str, str]:
    """A source's options for what a user typed: a file or folder, else the name of a data set. Raises ConfigError for neither."""
    if Path(data).exists() or Path(data).suffix.lower() in READERS:
        return {"path": data}
    if "/" not in data:
        raise ConfigError(f"there is no run, file or folder '{data}'; a data set on the Hub is named owner/name")
    return {"dataset": data}


class Source(Stage):
    """Read rows from a file or folder, or a Hugging Face data set."""

    kind = "source"

    path: str | None = Field(None, description="a .jsonl, .csv, .tsv, .parquet, .txt or .md file, or a folder of texts")
    dataset: str | None = Field(None, description="a Hugging Face data set, instead of a path")
    config: str | None = Field(None, description="the data set's configuration")
    split: str = Field("train", description="the data set's split")
    format: Literal["jsonl", "csv", "parquet", "text"] | None = Field(None, description="default: by the file's ending")
    fields: dict[str, str] | None = Field(None, description="fields to keep: new name: name in the source; default: all")
    lineage: bool = Field(False, description="rows of an earlier run keep their id, scores and answers; for its own ledger only")
    chunk_words: int | None = Field(None, ge=10, description="cut texts into pieces of at most so many words, between sentences")
    overlap_words: int = Field(0, ge=0, description="words that a piece repeats from the one before, in whole sentences")
    held_out: float | None = Field(
        None, gt=0, lt=1, description="share of rows (of texts: of files) that nothing is trained on: `split` is test, not train"
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
        return frozenset(name for record in first for name in record.fields)

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
            with path.open("rb") as stream:
                return sum(1 for line in stream if line.strip())
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
                if isinstance(value, list) and value and all(isinstance(turn, dict) and "role" in turn for turn in value):
                    found.setdefault(name, {}).setdefault(tuple(str(turn["role"]) for turn in value), value)
        return {name: [*rows.values()] for name, rows in found.items()}

    def records(self, project: Project) -> Iterator[Record]:
        """A record of each row; a bad row becomes a dropped one."""
        origin = self.origin
        reader, path = self._reader(project)
        for inside, row in reader(self, path):
            place = origin + inside
            if isinstance(row, dict) and (self.fields or META in row):
                row = self._chosen(row)
            if isinstance(row, str):
                yield Record(digest([place, row]), {}, source=place).drop(self.name, "unreadable", row)
            elif self.lineage and META in row:
                yield Record.from_row(row)
            else:
                yield self._placed(Record.read(row, place), inside)

    def _placed(self, record: Record, inside: str) -> Record:
        """The record on its side of the split, on which the same row, or another piece of the same text, stands as well."""
        if self.held_out is None:
            return record
        if SPLIT in record.fields:
            remedy = "leave held_out out, which would make another"
            return record.drop(self.name, "unreadable", f"the row has a field '{SPLIT}' already; {remedy}")
        item = inside.rpartition("#")[0] or record.id  # a file of a folder, or what the row says
        side = "test" if int(digest(item, 8), 16) < self.held_out * 16**8 else "train"
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
        ending = f".{self.format}" if self.format else path.suffix.lower()
        reader = _typed if self.dataset else _texts if path.is_dir() else READERS.get(ending)
        if reader is None:
            remedy = "say format: jsonl, csv, parquet or text (what is packed must be unpacked first)"
            raise ConfigError(f"'{path.name}' has an ending that is not known; {remedy}")
        if self.chunk_words and reader is not _texts:
            raise ConfigError(f"chunk_words cuts texts, and '{path.name}' is none")
        return reader, path


def _jsonl(source: Source, path: Path) -> Rows:
    return ((f":{number}", row) for number, row in read_rows(path))


def _csv(source: Source, path: Path) -> Rows:
    csv.field_size_limit(1 << 30)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as stream:
        rows = csv.DictReader(stream, delimiter=delimiter, strict=True)
        row: Row | None
        while True:
            try:
                if (row := next(rows, None)) is None:
                    return
                names = rows.fieldnames or ()
                if len(row) < len(names):
                    raise ConfigError(f"the heading names '{max(names, key=names.count)}' twice", path=path.name, line=1)
                if None in row or None in row.values():
                    row = f"the row has another number of cells than the heading's {len(names)}"
                else:
                    "".join([*row, *row.values()]).encode()
            except csv.Error as error:
                row = f"not CSV: {error}"
            except UnicodeEncodeError:  # what errors="surrogateescape" made of a byte that is not UTF-8
                row = "not UTF-8 text; save the file as UTF-8"
            yield f":{rows.reader.line_num}", row


def _typed(source: Source, path: Path) -> Rows:
    """Rows of a Parquet file or a data set, with dates, decimals and the like as JSON has them."""
    try:
        if source.dataset:
            from datasets import load_dataset

            rows = load_dataset(str(path), source.config, split=source.split, streaming=True)
        else:
            from pyarrow.parquet import ParquetFile

            rows = (row for batch in ParquetFile(path).iter_batches(CHUNK) for row in batch.to_pylist())
        for number, row in enumerate(rows, 1):
            yield f":{number}", loads(dumps(row))
    except Exception as error:  # the packages raise anything from OSError to their own; all mean the same here
        remedy = ": pip install 'distillgen[datasets]'" if isinstance(error, ImportError) else ""
        raise ConfigError(f"'{source.origin}' cannot be read: {type(error).__name__}: {error}{remedy}") from error


def _texts(source: Source, path: Path) -> Rows:
    inside = sorted(p for p in path.rglob("*") if READERS.get(p.suffix.lower()) is _texts and p.is_file())
    for file in inside if path.is_dir() else [path]:
        place = file.as_posix().removeprefix(path.as_posix())
        try:
            if not file.resolve().is_relative_to(path):
                raise ConfigError("the link leads out of the folder; copy the file there")
            text = read_text(file)
        except ConfigError as error:
            yield place, error.message
            continue
        title = next((line[2:].strip() for line in text.splitlines() if line.startswith("# ")), file.stem)
        pieces = pieces_of(text, source.chunk_words, source.overlap_words) if source.chunk_words else [text.strip()]
        for i, piece in enumerate(filter(None, pieces), 1):
            yield f"{place}#{i}", {"text": piece, "title": title, "file": place[1:] or file.name, "piece": i}


READERS: dict[str, Callable[[Source, Path], Rows]] = {
    ".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".tsv": _csv, ".parquet": _typed,
    ".txt": _texts, ".md": _texts, ".text": _texts,
}  # fmt: skip


def pieces_of(text: str, most_words: int, overlap_words: int = 0) -> list[str]:
    """Cut between sentences into pieces of at most `most_words` words; a longer sentence is cut between words.

    A piece begins with the last whole sentences of the one before, up to `overlap_words` words of them.
    """
    words: list[str] = []
    ends = [0]  # how many words there are up to each end of a sentence
    for paragraph in text.split("\n\n"):
        for word in paragraph.split():
            words.append(word)
            if word.rstrip("\"'”’)]").endswith(tuple(".!?…。！？")):
                ends.append(len(words))
        ends.append(len(words))
    pieces, begin, end = [], 0, 0
    while end < len(words):
        sentence = ends[bisect_right(ends, end)]
        earliest = max(begin, end - overlap_words, sentence - most_words)
        begin = min(end, ends[bisect_left(ends, earliest)])
        longest = begin + most_words
        end = longest if sentence > longest else ends[bisect_right(ends, longest) - 1]
        pieces.append(" ".join(words[begin:end]))
    return pieces
