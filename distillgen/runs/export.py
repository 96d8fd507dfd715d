"""A run's results, or any data set, in the formats that trainers and tools read; and what teachers gave besides text."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import need
from distillgen.platforms import lock, open_folder
from distillgen.record import digest, dumps
from distillgen.rows.formats import FORMATS, Writer, schema_of
from distillgen.runs.card import Census, card
from distillgen.runs.directory import Run, guard_of
from distillgen.runs.export_rows import Batch, ExportOptions, Rows
from distillgen.state_files import PARTIAL


@dataclass(frozen=True)
class Exported:
    """What came of it: rows by split, the rows that have no place in the shape by reason, and what the parts were made of."""

    rows: Mapping[str, int]
    files: Sequence[str]
    left_out: Mapping[str, int]
    taken: Mapping[str, str]
    private: Mapping[str, int]
    """In how many rows stands what is not for others, such as a path of this machine."""


def export(data: Run | str, out: Path, wanted: ExportOptions) -> Exported:
    """Write the kept (or dropped) records of a run, or the rows of a file or Hugging Face data set, to a folder or, where `out`
    has the format's ending, to one file. Everything is checked before anything is written, memory stays flat, and `out` appears
    only when it is whole. Raises ConfigError.
    """
    writer = FORMATS.get(wanted.format)
    if writer is None:
        raise ConfigError(f"there is no format '{wanted.format}'{did_you_mean(wanted.format, FORMATS)}")
    if out.exists():
        raise ConfigError(f"'{out}' is there already; remove it first, or give another --out")
    one_file = out.suffix == writer.suffix
    if writer.typed:
        need(f"export as {wanted.format}", "pyarrow")
    if isinstance(data, Run):
        _check_whole(data)
    elif wanted.dropped:
        raise ConfigError(f"--dropped is of a run, and '{data}' is none")
    rows = Rows(data, wanted, writer)
    if one_file and (len(rows.splits) > 1 or wanted.shard_rows):
        what = f"the splits {', '.join(rows.splits)}" if len(rows.splits) > 1 else "shards"
        raise ConfigError(f"'{out}' is one file, and {what} are several; give --out a folder")
    wanted = replace(wanted, splits=rows.splits)
    counts = dict.fromkeys(rows.splits or ["train"], 0)
    census = Census()
    private = Counter[str]()
    guard = guard_of(data.directory if isinstance(data, Run) else Path())
    schema = _surveyed(
        rows, counts, census, writer, lambda row: private.update(filter(None, [guard.finding(dumps(row))]))
    )
    with _appearing(out, one_file) as folder:
        files = {out.stem: [out.name]} if one_file else _files(wanted, counts, writer.suffix)
        _write(rows, folder, files, wanted.shard_rows, schema)
        if writer.suffix == ".arrow" and not one_file:
            _for_load_from_disk(folder, files, schema, wanted)
        if isinstance(data, Run) and not one_file:
            data_files = files if wanted.format in ("jsonl", "parquet", "csv") else {}
            (folder / "README.md").write_text(card(data.directory, census, data_files), encoding="utf-8")
    taken = rows.shaper.taken if rows.shaper else {}
    return Exported(
        counts, [name for names in files.values() for name in names], rows.left_out, taken, private
    )


def _check_whole(run: Run) -> None:
    """What is still being written is not exported."""
    if run.state["state"] == "running":
        raise ConfigError(
            f"'{run.directory}' is being carried out; wait for it (distillgen status {run.directory})"
        )
    if not (run.directory / "corpus.jsonl").exists():
        raise ConfigError(f"'{run.directory}' has no corpus yet; run it to its end first")


def _surveyed(
    rows: Rows,
    counts: dict[str, int],
    census: Census,
    writer: type[Writer],
    look: Callable[[Mapping[str, Any]], None],
) -> Any:
    """Count the rows of each split, and find the schema that they fit where one is needed, without writing anything."""

    def counted() -> Iterator[Batch]:
        for split, batch in rows.batches():
            counts[split] += len(batch)
            for row in batch:
                census.see(row)
                look(row)
            yield batch

    batches = counted()
    schema = schema_of(batches) if writer.typed else None
    for _ in batches:
        pass
    for split, count in counts.items():
        if not count:
            reasons = "".join(f"; {n} rows: {why}" for why, n in rows.left_out.most_common(1))
            remedy = (
                "give it a larger share, or take another --seed" if len(counts) > 1 else "nothing was written"
            )
            raise ConfigError(f"there are no rows for the split '{split}'{reasons}; {remedy}")
    return schema


def _files(wanted: ExportOptions, counts: Mapping[str, int], suffix: str) -> dict[str, list[str]]:
    """The names of each split's files, as `datasets` and the Hub know them."""
    files = {}
    for split, count in counts.items():
        of = math.ceil(count / (wanted.shard_rows or count))
        before = f"{split}-" if suffix != ".arrow" else f"{split}/data-" if wanted.splits else "data-"
        files[split] = [f"{before}{i:05d}-of-{of:05d}{suffix}" for i in range(of)]
    return files


def _write(
    rows: Rows, folder: Path, files: Mapping[str, Sequence[str]], shard_rows: int | None, schema: Any
) -> None:
    writer = FORMATS[rows.wanted.format]
    names = {split: iter(own) for split, own in files.items()}
    only = next(iter(files)) if len(files) == 1 else ""
    open_now: dict[str, tuple[Writer, int]] = {}
    for split, batch in rows.batches():
        split = only or split
        while batch:
            if split not in open_now:
                path = folder / next(names[split])
                path.parent.mkdir(exist_ok=True)
                open_now[split] = (
                    writer(path, rows.columns, schema, rows.identifier),
                    shard_rows or sys.maxsize,
                )
            file, room = open_now.pop(split)
            file.write(batch[:room])
            if room > len(batch):
                open_now[split] = file, room - len(batch)
            else:
                file.close()
            batch = batch[room:]
    for file, _ in open_now.values():
        file.close()


def _for_load_from_disk(
    folder: Path, files: Mapping[str, Sequence[str]], schema: Any, wanted: ExportOptions
) -> None:
    """What `datasets.load_from_disk` reads beside the Arrow files."""
    from datasets import DatasetInfo, Features

    for split, names in files.items():
        own = folder / split if wanted.splits else folder
        DatasetInfo(features=Features.from_arrow_schema(schema)).write_to_directory(str(own))
        state: dict[str, Any] = {
            "_data_files": [{"filename": Path(name).name} for name in names],
            "_fingerprint": digest([split, names], 16),
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split,
        }
        (own / "state.json").write_text(json.dumps(state))
    if wanted.splits:
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(files)}))


@contextlib.contextmanager
def _appearing(out: Path, one_file: bool) -> Iterator[Path]:
    """A hidden folder beside `out` to write in, of which `out` is made at the end. What a killed export left there goes."""
    partial = out.with_name(f".{out.name}{PARTIAL}")
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to '{out.parent}': {error.strerror}; give another --out") from error
    with open_folder(partial) as folder:
        try:
            lock(folder)
        except BlockingIOError:
            remedy = "wait for it, or give another --out"
            raise ConfigError(f"another export is writing '{out}'; {remedy}") from None
        try:
            for left in partial.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield partial
            os.rename(partial / out.name if one_file else partial, out)
            if one_file:
                partial.rmdir()
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError):
                reason = (error.strerror or str(error)).lower()
                raise ConfigError(f"cannot write '{out}': {reason}") from error
            raise
