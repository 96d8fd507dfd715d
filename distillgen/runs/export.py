"""A run's results, or any data set, in the formats that trainers and tools read; and what teachers gave besides text."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import need
from distillgen.inference.ledger import Ledger
from distillgen.inference.logprobs import unpack
from distillgen.project import Project
from distillgen.record import META, SPLIT, Record, Unrenderable, digest, dumps, item_of, text_of
from distillgen.rows.formats import BATCH, FORMATS, Writer, schema_of
from distillgen.rows.jsonl import read_rows as read_any_rows
from distillgen.rows.shapes import Shaper, shaper
from distillgen.runs.card import Census, card
from distillgen.runs.directory import Run, guard_of, read_records, read_rows
from distillgen.state_files import PARTIAL
from distillgen.text.display import clipped

Batch = list[dict[str, Any]]
SPLIT_NAME = re.compile(r"\w{1,100}(?:\.\w{1,100})*")  # as `datasets` has them; a file is named after it


@dataclass(frozen=True)
class Wanted:
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


@dataclass(frozen=True)
class Exported:
    """What came of it: rows by split, the rows that have no place in the shape by reason, and what the parts were made of."""

    rows: Mapping[str, int]
    files: Sequence[str]
    left_out: Mapping[str, int]
    taken: Mapping[str, str]
    private: Mapping[str, int]
    """In how many rows stands what is not for others, such as a path of this machine."""


def export(data: Run | str, out: Path, wanted: Wanted) -> Exported:
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
    rows = _Rows(data, wanted, writer)
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


class _Rows:
    """The rows of an export, as often as they are needed. Raises ConfigError for whatever the data has not."""

    def __init__(self, data: Run | str, wanted: Wanted, writer: type[Writer]) -> None:
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


def _surveyed(
    rows: _Rows,
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


def _files(wanted: Wanted, counts: Mapping[str, int], suffix: str) -> dict[str, list[str]]:
    """The names of each split's files, as `datasets` and the Hub know them."""
    files = {}
    for split, count in counts.items():
        of = math.ceil(count / (wanted.shard_rows or count))
        before = f"{split}-" if suffix != ".arrow" else f"{split}/data-" if wanted.splits else "data-"
        files[split] = [f"{before}{i:05d}-of-{of:05d}{suffix}" for i in range(of)]
    return files


def _write(
    rows: _Rows, folder: Path, files: Mapping[str, Sequence[str]], shard_rows: int | None, schema: Any
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
    folder: Path, files: Mapping[str, Sequence[str]], schema: Any, wanted: Wanted
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
    handle = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ConfigError(f"another export is writing '{out}'; wait for it, or give another --out") from None
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
            raise ConfigError(f"cannot write '{out}': {(error.strerror or str(error)).lower()}") from error
        raise
    finally:
        os.close(handle)


def export_signals(run: Run, path: Path) -> int:
    """Write what the teachers gave besides text to a Parquet file, a row for each answer in a kept record's lineage, and
    return how many: the record's id, the stage, the teacher, its tokenizer (its SHA-256 or name), how many alternatives were
    recorded, tokens and log-probabilities (float32, natural logarithm), alternatives, the embedding. Memory stays flat.
    """
    need("export --signals", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if path.suffix != ".parquet":
        raise ConfigError(f"signals are exported as Parquet: give a name like {path.with_suffix('.parquet')}")
    strings, floats = pa.list_(pa.string()), pa.list_(pa.float32())
    columns = {
        "id": pa.string(),
        "stage": pa.string(),
        "teacher": pa.string(),
        "tokenizer": pa.string(),
        "top_k": pa.int32(),
        "tokens": strings,
        "logprobs": floats,
        "top_tokens": pa.list_(strings),
        "top_logprobs": pa.list_(floats),
        "embedding": floats,
    }
    rows, count = _signals(run), 0
    with parquet.ParquetWriter(path, pa.schema(list(columns.items()))) as writer:
        while batch := list(islice(rows, BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema=writer.schema))
            count += len(batch)
    return count


def _signals(run: Run) -> Iterator[dict[str, Any]]:
    lock = run.lock
    asked = {
        options["name"]: options.get("model", "") for stage in lock["stages"] for options in stage.values()
    }
    ledger = Ledger(run.ledger, read_only=True)
    rows = read_rows(run.directory / "corpus.jsonl")
    try:
        while some := list(islice(rows, BATCH)):
            made = [(row["meta"]["id"], each) for row in some for each in row["meta"]["made"]]
            found = ledger.find([bytes.fromhex(each["key"]) for _, each in made])
            for record, each in made:
                logprobs, embedding = unpack(found[bytes.fromhex(each["key"])][2])
                if logprobs or embedding:
                    yield {
                        "id": record,
                        "stage": each["stage"],
                        "teacher": each["model"],
                        "tokenizer": lock["tokenizers"].get(asked[each["stage"]], ""),
                        "top_k": max((len(top) for _, _, top in logprobs), default=0),
                        "tokens": [token for token, _, _ in logprobs],
                        "logprobs": [value for _, value, _ in logprobs],
                        "top_tokens": [[token for token, _ in top] for _, _, top in logprobs],
                        "top_logprobs": [[value for _, value in top] for _, _, top in logprobs],
                        "embedding": embedding,
                    }
    finally:
        ledger.close_now()
