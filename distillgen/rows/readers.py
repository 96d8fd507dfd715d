"""Readers: what the rows of each kind of file are, and of a folder or a data set on the Hub.

A reader is one function. It yields each row with its place inside the file, or the reason why the row is
unreadable. To add a kind of file, write its reader and give the file's ending in `READERS`.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import need
from distillgen.platforms import cores
from distillgen.privacy import public
from distillgen.project import Project
from distillgen.record import META
from distillgen.rows.array_readers import array_rows, descriptions_in, folder_rows, media_rows
from distillgen.rows.documents import KINDS, Document, Unconverted
from distillgen.rows.jsonl import read_rows
from distillgen.rows.media import TYPES, FileFault, referred
from distillgen.rows.reading import Reader, Reading, Row, Rows, plain, reported
from distillgen.rows.texts import conversion_of, converted_rows, document_rows, text_rows
from distillgen.user_files import ending_of, first_bytes, inner_files, opened, what_is

log = logging.getLogger("distillgen")

CONVERSIONS = 8  # documents that are converted at a time, if there are so many cores
NAMES = 5  # files that the log names among those that are not read
BATCH = 256  # rows of a Parquet file that are decoded together
_SEPARATOR = re.compile(r'"?sep=(.)"?[\r\n]*')  # a first line by which a table tells Excel its separator
NO_FILES: Mapping[str, str] = MappingProxyType({})


def origin(data: str) -> dict[str, str]:
    """Return a source's options for the name of a file, a folder or a data set. Raise ConfigError for another
    name.
    """
    if Path(data).exists() or ending_of(Path(data)) in READERS:
        return {"path": data}
    if "/" not in data:
        raise ConfigError(
            f"there is no run, file or folder '{data}'; a data set on the Hub is named owner/name"
        )
    return {"dataset": data}


def reader_of(path: Path, reading: Reading) -> Reader:
    """Return the reader of a file or folder. Raise ConfigError if the file has none."""
    if path.is_dir():
        return _folder
    reader = _FORMATS[reading.format] if reading.format else READERS.get(ending_of(path))
    if reader is document_rows and ending_of(path) not in KINDS:
        raise ConfigError(f"'{path.name}' has not the ending of a document: {', '.join(KINDS)}")
    if reader is None:
        if description := what_is(first_bytes(path)):
            raise ConfigError(f"'{path.name}' is {description}")
        remedy = "say format: jsonl, csv, parquet or text"
        raise ConfigError(f"'{path.name}' has an unknown ending; {remedy}")
    if reading.cutter and reader not in (text_rows, document_rows):
        raise ConfigError(f"{reading.cutter.option} cuts texts and documents, not '{path.name}'")
    return reader


def rows_of(path: Path, reading: Reading) -> Rows:
    """Yield the rows of a file or folder. Raise ConfigError where it cannot be read."""
    return _read(reader_of(path, reading), path, reading)


def _read(reader: Reader, path: Path, reading: Reading) -> Rows:
    """Yield the rows of a file with references to the pictures and sounds that they name."""
    rows = reader(path, reading)
    return rows if path.is_dir() or not reading.media else with_references(rows, path.parent, reading)


def with_references(rows: Rows, folder: Path, reading: Reading) -> Rows:
    """Yield rows with a reference in place of each path of a picture or sound, which is one as seen from the
    folder or the project; or with the reason why there is no such file.
    """
    for place, row, item in rows:
        if isinstance(row, dict):
            try:
                row = row | {
                    name: referred(row[name], kind, folder, reading.root)
                    for name, kind in reading.media.items()
                    if name in row
                }
            except ValueError as error:
                row, item = FileFault(error), ""
        yield place, row, item


def count(path: Path, reading: Reading) -> int:
    """Return the number of rows of a file or folder; of JSON Lines without reading the rows."""
    if reader_of(path, reading) is _jsonl:
        with opened(path, page=True) as (stream, encoding):
            start = stream.readline().lstrip(b"\xef\xbb\xbf \t\r\n")
            if encoding.startswith("utf-8") and start.startswith(b"{"):
                return 1 + sum(1 for line in stream if line.strip())
    return sum(1 for _ in rows_of(path, replace(reading, media={})))


def selected(row: dict[str, Any], fields: Mapping[str, str] | None) -> Row:
    """Return the `fields` of a row under their new names, with the `meta` that an earlier run wrote; or the
    reason why it cannot be used.
    """
    meta = row.get(META)
    earlier = {META: meta} if isinstance(meta, dict) and {"id", "made"} <= meta.keys() else {}
    if fields:
        try:
            row = {new: row[old] for new, old in fields.items()} | earlier
        except KeyError as error:
            name = str(error.args[0])
            return f"there is no field '{name}' in the row{did_you_mean(name, row)}"
    if META in row and not earlier:
        return f"the field '{META}' is distillgen's own; rename it with fields: {{other: {META}}}"
    return row


def contents(path: str, project: Project, media: Mapping[str, str] = NO_FILES) -> Iterator[dict[str, Any]]:
    """Yield the fields of each row of a file or folder, without `meta`, and with references to the files that
    the fields in `media` name. Raise ConfigError for an unreadable row.
    """
    place = str(public(path, project.root))
    for inside, row, _ in rows_of(project.file(path), Reading(root=project.root, media=media)):
        if isinstance(row, dict) and META in row:
            row = selected(row, None)
        if isinstance(row, str):
            raise ConfigError(f"{place}{inside}: {row}")
        yield {name: value for name, value in row.items() if name != META}


def _jsonl(path: Path, reading: Reading) -> Rows:
    return ((f":{number}", row, "") for number, row in read_rows(path))


def _csv(path: Path, reading: Reading) -> Rows:
    csv.field_size_limit(1 << 30)
    delimiter = "\t" if ".tsv" in [ending.lower() for ending in path.suffixes] else ","
    with opened(path, page=True) as (stream, encoding):
        encoding = "utf-8-sig" if encoding == "utf-8" else encoding
        text = io.TextIOWrapper(
            stream, encoding, newline="", errors="surrogateescape" if encoding == "utf-8-sig" else "strict"
        )
        first = text.readline()
        separator = _SEPARATOR.fullmatch(first)
        lines, before = (text, 1) if separator else (chain([first], text), 0)
        rows = csv.DictReader(lines, delimiter=separator[1] if separator else delimiter, strict=True)
        row: Row | None
        names = _columns(rows, path, before + 1)
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
            except UnicodeEncodeError:  # errors="surrogateescape" has read a byte that is not UTF-8
                row = "not UTF-8 text; save the file as UTF-8"
            yield f":{before + rows.reader.line_num}", row, ""


def _columns(rows: csv.DictReader[str], path: Path, line: int) -> Sequence[str]:
    """Return the names in the heading. Raise ConfigError if a name is there twice, or all are in one cell."""
    try:
        names = [*(rows.fieldnames or ())]
    except csv.Error as error:
        raise ConfigError(f"not CSV: {error}", path=path.name, line=line) from error
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"the heading names '{twice[0]}' twice", path=path.name, line=line)
    if len(names) == 1 and (other := next((mark for mark in ";\t|" if mark in names[0]), "")):
        problem = f"the heading is one column, {names[0]!r}: its parts seem to be separated by {other!r}"
        raise ConfigError(
            f"{problem}; save the table with commas, or with tabs as .tsv", path=path.name, line=line
        )
    return names


def dataset_rows(name: str, config: str | None, split: str, reading: Reading) -> Rows:
    """Yield the rows of a data set on the Hub, or of one in a folder, as they stream in."""
    if reading.cutter:
        option = reading.cutter.option
        raise ConfigError(f"{option} cuts texts and documents, not the data set '{Path(name).name}'")
    need("a data set", "datasets")
    with reported(Path(name)):
        from datasets import load_dataset

        rows = undecoded(load_dataset(name, config, split=split, streaming=True))
        yield from with_references(_typed(rows, reading), Path(name), reading)


def undecoded(rows: Any) -> Any:
    """Return a data set of the package `datasets` with the bytes of its pictures and sounds."""
    from datasets import Audio, Image

    for name, feature in (rows.features or {}).items():
        inner = getattr(feature, "feature", feature)  # of a list
        if isinstance(inner, Image | Audio):
            kept = type(inner)(decode=False)
            column = kept if inner is feature else type(feature)(kept)
            rows = rows.cast_column(name, column)
    return rows


def _parquet(path: Path, reading: Reading) -> Rows:
    need("a Parquet file", "pyarrow")
    with reported(path):
        from pyarrow.parquet import ParquetFile

        if not (head := first_bytes(path)).startswith(b"PAR1") and (description := what_is(head)):
            raise ConfigError(f"this is {description}", path=path)
        file = ParquetFile(path)
        names = file.schema_arrow.names
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"there are two columns '{twice[0]}'; give one of them another name", path=path)
        yield from _typed((row for batch in file.iter_batches(BATCH) for row in batch.to_pylist()), reading)


def _typed(rows: Iterable[dict[str, Any]], reading: Reading) -> Rows:
    """Yield rows of typed columns, with dates, decimals and the like as JSON writes them."""
    columns = reading.columns
    for number, row in enumerate(rows, 1):
        chosen = {name: value for name, value in row.items() if columns is None or name in columns}
        yield f":{number}", plain(chosen, row, reading.root), ""


def _folder(path: Path, reading: Reading) -> Rows:
    """Yield the texts and documents of a folder, or the rows of its files, or its pictures if there is
    nothing else, in the order of the files' names.
    """
    all_files = inner_files(path)
    media = [file for file in all_files if file.suffix.lower() in TYPES]
    if reading.pattern:
        matches = {*path.glob(reading.pattern)}
        all_files = [file for file in all_files if file in matches]
    of_rows_or_texts = READERS.keys() - _LARGE.keys() - {".json"}
    files = [file for file in all_files if ending_of(file) in of_rows_or_texts]
    if not reading.format and _is_of_media(path, files) and media:
        yield from folder_rows(path, media, reading)
        return
    if reading.format:
        files = [file for file in files if READERS[ending_of(file)] is _FORMATS[reading.format]]
    texts = [file for file in files if READERS[ending_of(file)] is text_rows]
    if not texts and not reading.pattern:  # a page beside a table is no row
        of_tables = [file for file in files if READERS[ending_of(file)] is not document_rows]
        files = of_tables or files
    _name_others(path, all_files, files)
    texts = [file for file in files if READERS[ending_of(file)] in (text_rows, document_rows)]
    if texts and len(texts) < len(files):
        of_rows = next(file for file in files if file not in texts)
        content = f"the folder holds texts ({texts[0].name}) and files of rows ({of_rows.name})"
        of_its_reader = (name for name, reader in _FORMATS.items() if reader is READERS[ending_of(of_rows)])
        ways = f"format: text or format: {next(of_its_reader)}"
        raise ConfigError(f"{content}; say which to read, with {ways}", path=path)
    if reading.cutter and len(texts) < len(files):
        raise ConfigError(f"{reading.cutter.option} cuts texts and documents, and '{path.name}' has none")
    for file, conversion in _ahead(path, files, reading):
        place = file.as_posix().removeprefix(path.as_posix())
        if not _is_inside(file, path):
            yield place, "the link leads out of the folder; copy the file there", ""
            continue
        reader = partial(converted_rows, conversion) if conversion is not None else READERS[ending_of(file)]
        for inside, row, item in _read(reader, file, replace(reading, folder=path)):
            yield place + inside, row, item


def _is_inside(file: Path, folder: Path) -> bool:
    return file.resolve().is_relative_to(folder.resolve())


def _ahead(
    folder: Path, files: Sequence[Path], reading: Reading
) -> Iterator[tuple[Path, Document | Unconverted | None]]:
    """Yield each file, a document with its conversion. Documents are converted several at a time."""
    number = min(cores(), CONVERSIONS)
    pool = ThreadPoolExecutor(number)
    waiting = deque[tuple[Path, Future[Document | Unconverted] | None]]()
    try:
        for file in files:
            is_document = READERS[ending_of(file)] is document_rows and _is_inside(file, folder)
            waiting.append((file, pool.submit(conversion_of, file, reading) if is_document else None))
            if len(waiting) > number:
                next_file, job = waiting.popleft()
                yield next_file, job.result() if job else None
        for next_file, job in waiting:
            yield next_file, job.result() if job else None
    finally:
        pool.shutdown(cancel_futures=True)


def _is_of_media(folder: Path, files: Sequence[Path]) -> bool:
    """Return whether a folder has no files of rows or texts, save those that describe its pictures."""
    about = descriptions_in(folder)
    about += [folder / "README.md"] if about else []
    return all(file in about or READERS[ending_of(file)] is document_rows for file in files)


def _name_others(folder: Path, all_files: Sequence[Path], files: Sequence[Path]) -> None:
    """Log the number and names of the files in a folder that are not read."""
    others = [file.relative_to(folder).as_posix() for file in all_files if file not in {*files}]
    if others:
        names = ", ".join(others[:NAMES]) + (", …" if len(others) > NAMES else "")
        log.info("%s: %d of %d files are not read: %s", folder.name, len(others), len(all_files), names)


_LARGE: dict[str, Reader] = {".npy": array_rows, ".npz": array_rows, **dict.fromkeys(TYPES, media_rows)}

READERS: dict[str, Reader] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _jsonl,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".txt": text_rows,
    ".md": text_rows,
    ".text": text_rows,
    **dict.fromkeys(KINDS, document_rows),
    **_LARGE,
}
"""The reader of each kind of file, by its ending."""

_FORMATS: dict[str, Reader] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
    "text": text_rows,
    "document": document_rows,
}
"""The reader for each value of the option `format`."""
