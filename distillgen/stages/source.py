"""source: where records come from. Files are streamed; a bad row is a dropped record, not a crash."""

from __future__ import annotations

import csv
import importlib
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from distillgen.errors import ConfigError, did_you_mean
from distillgen.project import Project
from distillgen.record import META, Record, digest, dumps, loads, read_rows
from distillgen.stages import CHUNK, Checking, Chunks, Estimate, Job, Stage

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")
FORMATS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "text", ".md": "text",
}  # fmt: skip
CHECKED_ROWS = 1000  # read and checked before anything is paid for; a bad row further on is dropped

Row = dict[str, Any] | str
"""A row's fields, or what is wrong with it."""

_UNDECODED = re.compile("[\udc80-\udcff]")  # what errors="surrogateescape" makes of a byte that is not UTF-8
_SENTENCE = re.compile(r".+?(?:[.!?…。！？][\"'”’)\]]*(?=\s)|\n{2,}|\Z)", re.S)


class Source(Stage):
    """Read rows from a file or folder, or a Hugging Face data set."""

    kind = "source"

    path: str | None = Field(None, description="a .jsonl, .csv, .tsv, .parquet, .txt or .md file, or a folder of texts")
    dataset: str | None = Field(None, description="a Hugging Face data set, instead of a path")
    config: str | None = Field(None, description="the data set's configuration")
    split: str = Field("train", description="the data set's split")
    format: Literal["jsonl", "csv", "parquet", "text"] | None = Field(None, description="default: by the file's ending")
    fields: dict[str, str] | None = Field(None, description="fields to keep: new name: name in the source; default: all")
    chunk_words: int | None = Field(None, ge=10, description="cut texts into pieces of at most so many words, between sentences")
    overlap_words: int = Field(0, ge=0, description="words that a piece repeats from the one before, in whole sentences")

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either 'path' or 'dataset'")
        if self.chunk_words is not None and self.overlap_words >= self.chunk_words:
            raise ValueError("overlap_words must be smaller than chunk_words")
        return self

    def files(self, project: Project) -> dict[str, Path]:
        """The source file or folder, where it is a local one."""
        name = self.path or self.dataset or ""
        local = self.path or (project.root / name).exists() or Path(name).exists()
        return {name: project.file(name)} if local else {}

    def check(self, given: Checking) -> frozenset[str]:
        """Read the first rows: the fields are those that any of them has; a bad one is an error with its place."""
        if given.fields:
            raise ConfigError("a source must be the first stage")
        found: set[str] = set()
        place = ""
        for place, row in itertools.islice(self.rows(given.project), CHECKED_ROWS):
            if isinstance(row, str):
                raise ConfigError(f"{place}: {row}")
            found |= set(row)
        if not place:
            raise ConfigError(f"the source '{self.path or self.dataset}' has no rows")
        return frozenset(found - {META})

    def estimate(self, before: Estimate, samples: Sequence[Record], given: Checking) -> Estimate:
        """The number of rows, where it can be told without reading all of a remote data set."""
        return Estimate(self.count(given.project))

    def count(self, project: Project) -> int | None:
        """How many rows there are; None for a streamed data set."""
        if self.dataset:
            return None
        (path,) = self.files(project).values()
        if self._format(path) == "jsonl":
            with path.open("rb") as stream:
                return sum(1 for line in stream if line.strip())
        return sum(1 for _ in self.rows(project))

    def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Rows in order, in chunks."""
        return self._chunks(job)

    async def _chunks(self, job: Job) -> Chunks:
        records = (self.record(place, row) for place, row in self.rows(job.project))
        limited = itertools.islice(records, job.limit)
        size = 16  # the first answers should not wait for a long chunk to be rendered
        while chunk := list(itertools.islice(limited, size)):
            yield chunk
            size = min(CHUNK, size * 2)

    def samples(self, project: Project, n: int) -> list[Record]:
        """The first rows, for estimates."""
        return [self.record(p, r) for p, r in itertools.islice(self.rows(project), n) if not isinstance(r, str)]

    def record(self, place: str, row: Row) -> Record:
        """A record of one row; a bad row becomes a dropped one."""
        if isinstance(row, str):
            return Record(digest([place, row]), {}, source=place).drop(self.name, "unreadable", row)
        return Record.read(row, place)

    def rows(self, project: Project) -> Iterator[tuple[str, Row]]:
        """Every row with its place."""
        path = next(iter(self.files(project).values()), None)
        rows = self._dataset(path) if self.dataset or path is None else self._file(path)
        return ((f"{self.path or self.dataset}{place}", self._selected(row)) for place, row in rows)

    def _file(self, path: Path) -> Iterator[tuple[str, Row]]:
        match self._format(path):
            case "jsonl":
                return ((f":{number}", row) for number, row in read_rows(path))
            case "csv":
                return _csv(path)
            case "parquet":
                return _parquet(path)
        return self._texts(path)

    def _format(self, path: Path) -> str:
        ending = path.suffix.lower()
        if ending in PACKED:
            raise ConfigError(f"'{path.name}' is compressed; unpack it first")
        found = self.format or ("text" if path.is_dir() else FORMATS.get(ending))
        if found is None:
            raise ConfigError(f"'{path.name}' has an ending that is not known; say format: jsonl, csv, parquet or text")
        if self.chunk_words and found != "text":
            raise ConfigError(f"chunk_words cuts texts, and '{path.name}' is {found}")
        return found

    def _selected(self, row: Row) -> Row:
        if isinstance(row, str):
            return row
        meta = row.get(META)
        earlier = {META: meta} if isinstance(meta, dict) and {"id", "made"} <= meta.keys() else {}
        if self.fields is not None:
            for name in self.fields.values():
                if name not in row:
                    return f"there is no field '{name}' in the row{did_you_mean(name, row)}"
            row = {new: row[old] for new, old in self.fields.items()} | earlier
        if META in row and not earlier:
            return f"the field '{META}' is distillgen's own; rename it with fields: {{other: {META}}}"
        return row

    def _texts(self, path: Path) -> Iterator[tuple[str, Row]]:
        folder = path if path.is_dir() else path.parent
        inside = (p for p in path.rglob("*") if FORMATS.get(p.suffix.lower()) == "text" and p.is_file())
        files = sorted(inside) if path.is_dir() else [path]
        for file in files:
            name = file.relative_to(folder).as_posix()
            place = f"/{name}" if path.is_dir() else ""
            if not file.resolve().is_relative_to(folder.resolve()):
                yield place, "the link leads out of the folder; copy the file there"
                continue
            try:
                text = file.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                yield place, f"not UTF-8 text: {error.reason} at byte {error.start}"
                continue
            except OSError as error:
                yield place, f"cannot be read: {error.strerror}"
                continue
            heading = re.search(r"^#\s+(.+)$", text, re.M) if file.suffix.lower() == ".md" else None
            title = heading.group(1).strip() if heading else file.stem
            pieces = pieces_of(text, self.chunk_words, self.overlap_words) if self.chunk_words else [text.strip()]
            for i, piece in enumerate(pieces):
                if piece:
                    yield f"{place}#{i + 1}", {"text": piece, "title": title, "file": name, "piece": i + 1}

    def _dataset(self, path: Path | None) -> Iterator[tuple[str, Row]]:
        datasets = _extra("datasets", "a Hugging Face data set")
        try:
            stream = datasets.load_dataset(str(path or self.dataset), self.config, split=self.split, streaming=True)
            for i, row in enumerate(stream):
                yield f"[{self.split}]:{i}", _plain(row)
        except Exception as error:  # the package raises anything from OSError to its own; all mean the same here
            raise ConfigError(f"the data set '{self.dataset}' cannot be read: {type(error).__name__}: {error}") from error


def pieces_of(text: str, most_words: int, overlap_words: int = 0) -> list[str]:
    """Cut between sentences into pieces of at most `most_words` words; a longer sentence is cut between words.

    A piece begins with the last whole sentences of the one before, up to `overlap_words` words of them.
    """
    sentences: list[list[str]] = []
    for sentence in _SENTENCE.findall(text):
        words = sentence.split()
        sentences += [words[i : i + most_words] for i in range(0, len(words), most_words)]
    pieces: list[list[list[str]]] = []
    current: list[list[str]] = []
    fresh = 0
    for sentence in sentences:
        if fresh and sum(map(len, current)) + len(sentence) > most_words:
            pieces.append(current)
            kept: list[list[str]] = []
            for earlier in reversed(current):
                if sum(map(len, kept)) + len(earlier) > min(overlap_words, most_words - len(sentence)):
                    break
                kept.insert(0, earlier)
            current, fresh = kept, 0
        current = [*current, sentence]
        fresh += 1
    if fresh:
        pieces.append(current)
    return [" ".join(word for sentence in piece for word in sentence) for piece in pieces]


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(min(sys.maxsize, 1 << 30))
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as stream:
        lines = csv.reader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        names = next(lines, [])
        if twice := sorted(name for name in set(names) if names.count(name) > 1):
            raise ConfigError(f"the heading names '{twice[0]}' twice", path=path.name, line=1)
        while True:
            row: Row
            try:
                cells = next(lines)
            except StopIteration:
                return
            except csv.Error as error:
                row = f"not CSV: {error}"
            else:
                row = dict(zip(names, cells, strict=False))
                if cells and len(cells) != len(names):
                    row = f"the row has another number of cells than the heading's {len(names)}"
                elif any(map(_UNDECODED.search, cells)):
                    row = "not UTF-8 text; save the file as UTF-8"
            if row:
                yield f":{lines.line_num}", row


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    parquet = _extra("pyarrow.parquet", "a Parquet file")
    number = itertools.count(1)
    try:
        for batch in parquet.ParquetFile(path).iter_batches(CHUNK):
            for row in batch.to_pylist():
                yield f":{next(number)}", _plain(row)
    except (OSError, ValueError) as error:
        raise ConfigError(f"not Parquet: {error}", path=path.name) from error


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Dates, decimals and the like as JSON has them."""
    plain: dict[str, Any] = loads(dumps(row))
    return plain


def _extra(module: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{what} needs the extra 'datasets': pip install 'distillgen[datasets]'") from error
