"""Export the records of a run, or any data set, in the formats that trainers and tools read."""

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
from distillgen.rows.array_readers import METADATA
from distillgen.rows.formats import FORMATS, Writer, schema_of
from distillgen.runs.card import Census, card
from distillgen.runs.directory import Run, guard_of, is_running
from distillgen.runs.export_media import metadata_names
from distillgen.runs.export_rows import Batch, ExportOptions, Rows
from distillgen.runs.trainer_files import ExportedRows, check_trainers, trainer_files
from distillgen.state_files import PARTIAL

FEW = 50  # rows with the bytes of their pictures that are in memory together
LOAD = {"arrow": "load_from_disk", **dict.fromkeys(("jsonl", "parquet", "csv"), "load_dataset")}
"""The function of `datasets` that loads each format; the Hub shows those of `load_dataset`."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    rows: Mapping[str, int]
    """The number of rows by split."""
    files: Sequence[str]
    left_out: Mapping[str, int]
    """The number of rows that do not fit the shape, by reason."""
    taken: Mapping[str, str]
    """The field or template that each part of the shape comes from."""
    private: Mapping[str, int]
    """The number of rows with private content, such as a path of this machine, by kind."""


def export(data: Run | str, out: Path, options: ExportOptions) -> Exported:
    """Write the records of a run, or the rows of a file or a Hugging Face data set.

    Writes a folder; writes one file if `out` has the format's ending. Everything is checked before anything
    is written, memory does not grow with the rows, and `out` appears only when it is complete. Raises
    ConfigError.
    """
    writer = FORMATS.get(options.format)
    if writer is None:
        raise ConfigError(f"there is no format '{options.format}'{did_you_mean(options.format, FORMATS)}")
    if out.exists():
        raise ConfigError(f"'{out}' exists already; remove it first, or give another --out")
    one_file = out.suffix == writer.suffix
    if writer.typed:
        need(f"export as {options.format}", "pyarrow")
    if isinstance(data, Run):
        _check_complete(data)
    elif options.dropped:
        raise ConfigError(f"--dropped needs a run; '{data}' is not a run")
    check_trainers(options.trainers, options.shape, options.format, one_file)
    rows = Rows(data, options, writer)
    rows.carries_files = writer.typed or options.format == "jsonl" and not one_file
    if one_file and (len(rows.splits) > 1 or options.shard_rows):
        parts = f"the splits {', '.join(rows.splits)}" if len(rows.splits) > 1 else "shards"
        raise ConfigError(f"'{out}' is one file, and {parts} are several; give --out a folder")
    options = replace(options, splits=rows.splits)
    counts = dict.fromkeys(rows.splits or ["train"], 0)
    census = Census()
    private = Counter[str]()
    guard = guard_of(data.directory if isinstance(data, Run) else Path())

    def look(row: Mapping[str, Any]) -> None:
        census.see(row)
        private.update(filter(None, [guard.finding(dumps(row))]))

    schema = _survey(rows, counts, writer, look)
    media = rows.media if rows.media.columns else None
    files = {out.stem: [out.name]} if one_file else _files(options, counts, writer.suffix)
    builder, in_folder = "", media is not None and options.format == "jsonl" and not one_file
    if media and in_folder:
        builder = media.builder
        if options.shard_rows or options.trainers:
            option = "--shard-rows" if options.shard_rows else "--for"
            remedy = "give --format parquet" if options.shard_rows else "load the folder with 'datasets'"
            raise ConfigError(f"{option} has no form for a folder of pictures or sounds; {remedy}")
        files = metadata_names(list(rows.splits))
    if media and writer.typed:
        schema = media.schema(schema)
    dialogues = frozenset(name for name, kinds in census.fields.items() if "chat turns" in kinds)
    exported = ExportedRows(
        out.resolve().name, options.format, options.shape or "", files, rows.columns, dialogues
    )
    texts = trainer_files(options.trainers, exported)
    with _new_folder(out, one_file) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        _write(rows, folder, files, options.shard_rows, schema)
        if writer.suffix == ".arrow" and not one_file:
            _write_dataset_files(folder, files, schema, options)
        if isinstance(data, Run) and not one_file:
            load, place = LOAD.get(options.format, ""), out.resolve().name
            data_files = files if load == "load_dataset" else {}
            if in_folder:
                data_files = {split: [f"{split}/**"] for split in rows.splits}
            page = card(
                data.directory, census, data_files, place, load, builder, media.types if media else {}
            )
            (folder / "README.md").write_text(page, encoding="utf-8")
        rows.check_unchanged()
    names = [*(name for split_names in files.values() for name in split_names), *texts]
    return Exported(counts, names, rows.left_out, rows.shaper.sources if rows.shaper else {}, private)


def _check_complete(run: Run) -> None:
    """Raise ConfigError if the run is still going on, or has no corpus."""
    state = run.state
    if state["state"] == "running" or is_running(run.directory):
        remedy = f"wait for it (distillgen status {run.directory})"
        raise ConfigError(f"'{run.directory}' is still running; {remedy}")
    unfinished = state["state"] == "killed" and not state["stages"][-1]["complete"]
    if unfinished or not (run.directory / "corpus.jsonl").exists():  # it may be of an earlier run
        raise ConfigError(f"'{run.directory}' has no corpus yet; run it to its end first")


def _survey(
    rows: Rows, counts: dict[str, int], writer: type[Writer], look: Callable[[Mapping[str, Any]], None]
) -> Any:
    """Count the rows of each split, give each to `look`, and return the schema, if the format needs one."""

    def counted() -> Iterator[Batch]:
        for split, batch in rows.batches():
            counts[split] += len(batch)
            for row in batch:
                look(row)
            yield batch

    batches = counted()
    schema = schema_of(batches) if writer.typed else None
    for _ in batches:
        pass
    for split, count in counts.items():
        if not count:
            reasons = "".join(f"; {n} rows: {why}" for why, n in rows.left_out.most_common(1))
            larger = "give it a larger share, or another --seed"
            remedy = larger if len(counts) > 1 else "nothing was written"
            raise ConfigError(f"there are no rows for the split '{split}'{reasons}; {remedy}")
    return schema


def _files(options: ExportOptions, counts: Mapping[str, int], suffix: str) -> dict[str, list[str]]:
    """Return the names of each split's files, in the form that `datasets` and the Hub recognize."""
    files = {}
    for split, count in counts.items():
        shards = math.ceil(count / (options.shard_rows or count))
        prefix = f"{split}-" if suffix != ".arrow" else f"{split}/data-" if options.splits else "data-"
        files[split] = [f"{prefix}{i:05d}-of-{shards:05d}{suffix}" for i in range(shards)]
    return files


def _write(
    rows: Rows, folder: Path, files: Mapping[str, Sequence[str]], shard_rows: int | None, schema: Any
) -> None:
    """Write the rows of each split to its files, `shard_rows` to a file."""
    writer = FORMATS[rows.options.format]
    names = {split: iter(split_names) for split, split_names in files.items()}
    only = next(iter(files)) if len(files) == 1 else ""
    open_files: dict[str, tuple[Writer, int]] = {}
    in_folder = any(Path(name).name == METADATA for name in next(iter(files.values())))
    for split, batch in _with_files(rows, folder, files if in_folder else {}, schema is not None):
        split = only or split
        while batch:
            if split not in open_files:
                path = folder / next(names[split])
                path.parent.mkdir(exist_ok=True)
                file = writer(path, rows.columns, schema, rows.identifier)
                open_files[split] = file, shard_rows or sys.maxsize
            file, room = open_files.pop(split)
            file.write(batch[:room])
            if room > len(batch):
                open_files[split] = file, room - len(batch)
            else:
                file.close()
            batch = batch[room:]
    for file, _ in open_files.values():
        file.close()


def _with_files(
    rows: Rows, folder: Path, files: Mapping[str, Sequence[str]], typed: bool
) -> Iterator[tuple[str, Batch]]:
    """Give batches of rows, few at a time where they hold the bytes of pictures and sounds.

    With `files`, which are the rows of each split, the pictures and sounds are copied beside them.
    """
    media = rows.media
    for split, batch in rows.batches():
        if not media.columns or not (files or typed):
            yield split, batch
            continue
        if files:
            name = files[split][0] if split in files else next(iter(files.values()))[0]
            place = (folder / name).parent
            place.mkdir(exist_ok=True)
            yield split, [media.name_files(row, place) for row in batch]
            continue
        for start in range(0, len(batch), FEW):
            yield split, [media.embed_files(row) for row in batch[start : start + FEW]]


def _write_dataset_files(
    folder: Path, files: Mapping[str, Sequence[str]], schema: Any, options: ExportOptions
) -> None:
    """Write the files that `datasets.load_from_disk` reads besides the Arrow files."""
    from datasets import DatasetInfo, Features

    for split, names in files.items():
        split_folder = folder / split if options.splits else folder
        DatasetInfo(features=Features.from_arrow_schema(schema)).write_to_directory(str(split_folder))
        state: dict[str, Any] = {
            "_data_files": [{"filename": Path(name).name} for name in names],
            "_fingerprint": digest([split, names], 16),
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split,
        }
        (split_folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    if options.splits:
        splits = json.dumps({"splits": list(files)})
        (folder / "dataset_dict.json").write_text(splits, encoding="utf-8")


@contextlib.contextmanager
def _new_folder(out: Path, one_file: bool) -> Iterator[Path]:
    """Give a hidden folder to write in; at the end, rename it, or the one file in it, to `out`.

    Files that a killed export left in the hidden folder are removed.
    """
    hidden = out.with_name(f".{out.name}{PARTIAL}")
    try:
        hidden.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to '{out.parent}': {error.strerror}; give another --out") from error
    with open_folder(hidden) as handle:
        try:
            lock(handle)
        except BlockingIOError:
            remedy = "wait for it, or give another --out"
            raise ConfigError(f"another export is writing '{out}'; {remedy}") from None
        try:
            for path in hidden.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield hidden
            os.rename(hidden / out.name if one_file else hidden, out)
            if one_file:
                hidden.rmdir()
        except BaseException as error:
            shutil.rmtree(hidden, ignore_errors=True)
            if isinstance(error, OSError):
                reason = (error.strerror or str(error)).lower()
                other = error.filename and not Path(str(error.filename)).is_relative_to(hidden)
                action = f"read '{error.filename}'" if other else f"write '{out}'"
                raise ConfigError(f"cannot {action}: {reason}") from error
            raise
