"""Rows that Python code hands over: a list, frame, data set or generator, written to a file of the run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.record import Record, dumps
from distillgen.rows.media import FileFault
from distillgen.rows.readers import undecoded
from distillgen.rows.reading import plain
from distillgen.state_files import PARTIAL

ROWS = "rows.jsonl"  # the file of the rows, and its name in the pipeline
SLICE = 1000  # rows of a frame that are converted together
ORIGINS = {"path", "dataset", "script", "draw"}  # the options of a source with the origin of its rows: one
_OF_ORIGIN = {"with", "config", "split", "format"}  # options of it


def write_rows(rows: Any, path: Path, limit: int | None = None, root: Path = Path()) -> None:  # noqa: B008
    """Write the rows, at most `limit`, as JSON Lines. The file is replaced once all of them are written.

    A picture of Pillow, the bytes of a picture or a sound, and an array that is one become files of the
    project in `root`, to which the rows refer. Raise ConfigError, with the number of the row from 0 on, for
    a value that JSON cannot hold, or a picture that cannot be used.
    """
    partial, count = path.with_name(path.name + PARTIAL), 0
    with partial.open("wb") as stream:
        for number, row in enumerate(islice(_mappings(rows), limit)):
            row = row.row() if isinstance(row, Record) else row
            if not isinstance(row, Mapping):
                raise ConfigError(f"rows[{number}] is {type(row).__name__} and no mapping of names to values")
            fields = plain({str(name): value for name, value in row.items()}, row, root)
            if isinstance(fields, FileFault):
                raise ConfigError(f"rows[{number}]: {fields}")
            if isinstance(fields, str):
                raise ConfigError(f"rows[{number}]: {fields.partition(';')[0]}, which a row cannot hold")
            stream.write(dumps(fields, sort_keys=False) + b"\n")
            count += 1
    if not count:
        raise ConfigError("rows: there are none; a generator gives its rows once, so make it anew")
    os.replace(partial, path)


def with_rows(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the stages of a pipeline whose source reads the rows. A pipeline without a source gets one."""
    first = stages[0].get("source") if stages else None
    if first is not None and not isinstance(first, Mapping):
        return [dict(stage) for stage in stages]  # a mistake, which the check reports
    options = {name: value for name, value in (first or {}).items() if name not in ORIGINS | _OF_ORIGIN}
    return [{"source": {**options, "path": ROWS}}, *map(dict, stages[1:] if first is not None else stages)]


def _mappings(rows: Any) -> Iterator[Any]:
    """Yield the rows of a pandas or polars frame, an Arrow table, a data set, or any iterable."""
    if hasattr(rows, "cast_column"):  # a data set; it decodes pictures only for a function that changes them
        return iter(rows if getattr(rows, "format", {}).get("type") == "custom" else undecoded(rows))
    if hasattr(rows, "iter_rows"):  # polars
        return iter(rows.iter_rows(named=True))
    if hasattr(rows, "iloc") and hasattr(rows, "columns"):  # pandas
        return _of_pandas(rows)
    if hasattr(rows, "to_batches"):  # Arrow
        return (row for batch in rows.to_batches(SLICE) for row in batch.to_pylist())
    kind = type(rows).__name__
    if kind == "LazyFrame":
        raise ConfigError("rows is a lazy frame: call its collect()")
    if isinstance(rows, Mapping):
        remedy = "give one of them" if kind.endswith("DatasetDict") else "give a list of mappings, one a row"
        raise ConfigError(f"rows is {kind}, with the keys {', '.join(map(str, islice(rows, 5)))}: {remedy}")
    if isinstance(rows, str | bytes | Path) or not isinstance(rows, Iterable):
        remedy = "a list of mappings, a frame, a data set or a generator"
        raise ConfigError(f"rows takes {remedy}, not {kind}; a file goes into the pipeline's source")
    return iter(rows)


def _of_pandas(frame: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a frame without its index. A missing value is null."""
    if not frame.columns.is_unique:
        raise ConfigError("rows: two columns of the frame have the same name; rename one")
    for start in range(0, len(frame), SLICE):
        part = frame.iloc[start : start + SLICE]
        yield from part.astype(object).where(part.notna(), None).to_dict("records")
