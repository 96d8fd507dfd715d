"""source: read records, or draw them. Files are streamed; a bad row becomes a dropped record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.stage import CHUNK, BoundStage, CheckContext, Chunks, Estimate, Job, Stage
from distillgen.option_types import FileName, ScriptName
from distillgen.privacy import public
from distillgen.project import Project
from distillgen.record import META, SPLIT, TEST, TRAIN, VALIDATION, Record, digest, item_of, text_of
from distillgen.rows.cut import Cut, Cutter
from distillgen.rows.documents import Convert, Unconverted
from distillgen.rows.edges import Edges
from distillgen.rows.media import UNUSABLE, FileFault
from distillgen.rows.named_files import NAMED_FILES, NamedFiles
from distillgen.rows.patterns import matches, place_of
from distillgen.rows.readers import NAMES, READERS, count, dataset_rows, rows_of, selected, with_references
from distillgen.rows.reading import Reading, Rows
from distillgen.rows.scripts import check_script, script_files, script_rows
from distillgen.rows.turns import dialogues_in
from distillgen.stages._draw import Draw
from distillgen.user_files import inner_files

SAMPLES = 200  # rows from which a plan estimates sizes
COUNTED = 1_000_000  # rows of a script that a plan counts
UNCONVERTED = "unconverted"  # the reason's name of a document that gave no text; check accepts it
NODE = "node"  # the field with the id of a row, unless the option names another
SHARD = r"\d+/[1-9]\d*"  # worker i of n
CUTS = ("chunk_words", "chunk")  # options that cut texts
ROW_FILES = {".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"}  # no file among them is converted
CHECKED_ROWS = 1000  # rows that the check reads; a later bad row is dropped


class Source(Stage, NamedFiles):
    """Read rows from a file, a folder, a Hugging Face data set or a function; or draw random rows."""

    kind = "source"
    scope = "row"
    conditional = False
    optional: ClassVar[frozenset[str]] = Stage.optional | NAMED_FILES | {"shard"}
    reads = "a file, a folder, a data set or a script; nothing, or files of values, with `draw`"
    writes = (
        "the fields of the rows, or the new names in `fields`; for a text `text`, `title`, `file` and "
        "`piece`, with `chunk` also `headings`, `start` and `end`; of an .npz its arrays, of an .npy "
        "`array`; of pictures `image`, of sounds `audio`, with `file` and, by folder, `label`; with `draw` "
        "the fields that it draws; of documents `text`, `title`, `file`, `piece`, `headings`, `start`, "
        "`end`, `page` and `last_page`, and with `convert: {pictures: true}` also `pictures`; "
        "with `held_out` or `validation` also `split`"
    )

    path: str | None = Field(
        None,
        description="file (.jsonl, .json, .csv, .tsv, .parquet, .txt, .md, .npy, .npz), a picture (.png, "
        ".jpg, .webp or .gif), a sound (.wav, .mp3 or .flac), or a document (.pdf, .docx, .odt, .pptx, "
        ".epub, .html or .rst); a folder of files with rows, of texts and documents, or of pictures or "
        "sounds; or a pattern, such as reports/**/*.pdf. A file may be packed with gzip, bzip2, xz or "
        "Zstandard",
    )
    dataset: str | None = Field(
        None, description="name of a data set on the Hugging Face Hub, instead of a path"
    )
    script: ScriptName | None = Field(
        None,
        description="`file.py:function` of the project or of the shipped data, instead of a path: a function "
        "that yields rows, as mappings. It is called with the options in `with`, and with the pipeline's "
        "seed if it takes `seed`; equal arguments must give equal rows",
    )
    arguments: dict[str, Any] | None = Field(
        None, alias="with", description="options of the script's function"
    )
    draw: Draw | None = Field(None, description="rows of random values, instead of a path")
    config: str | None = Field(None, description="configuration of the data set")
    split: str = Field("train", description="split of the data set")
    format: Literal["jsonl", "csv", "parquet", "text", "document"] | None = Field(
        None, description="format of the file; default: by its ending"
    )
    fields: dict[str, str] | None = Field(
        None, description="fields to keep, as new name: name in the source; default: all"
    )
    lineage: bool = Field(
        False,
        description="rows of an earlier run keep their id, scores and answers; only with the ledger of "
        "that run",
    )
    chunk_words: int | None = Field(
        None,
        ge=10,
        description="cut texts into pieces of at most this many words, before headings and between blocks "
        "and sentences",
    )
    overlap_words: int = Field(
        0, ge=0, description="number of words, in whole sentences, that a piece repeats from the one before"
    )
    chunk: Cut | None = Field(
        None,
        description="cut texts into pieces in the same way, of a size in words or tokens: `{words: 120}`, or "
        "`{tokens: 400, tokenizer_file: tokenizer.json}`; rows have also `headings`, `start` and `end`",
    )
    convert: Convert | None = Field(
        None,
        description="limits of time, memory and pages for converting a document, and whether its pictures "
        "are kept; a document that reaches a limit becomes a dropped row",
    )
    edges: FileName | None = Field(
        None,
        description="file of edges (.jsonl, .csv or .parquet with `from` and `to`, ids of rows): each row "
        "gets `neighbours`, the ids that an edge joins it with, in either direction",
    )
    node: str | None = Field(None, description="field with the id of a row, for 'edges'; default: node")
    held_out: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of rows (of texts: of files) that are held out from training; their `split` is "
        "test, otherwise train",
    )
    validation: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of rows whose `split` becomes validation; with 'held_out', or for rows whose "
        "`split` is train. No student learns them and evaluate does not ask about them: weights and the "
        "readings of networks learn from them",
    )
    shard: str | None = Field(
        None,
        pattern=f"^{SHARD}$",
        description="`i/n`, with i from 0 to n - 1: only the rows that worker i of n takes, by the hash of "
        "their item; the option `--shard` of `distillgen run` sets it",
    )
    item: list[str] | None = Field(
        None,
        min_length=1,
        description="fields that are equal in rows of one item, which no split separates; default: all "
        "but those that number or answer the item, such as id, answer and label",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if [self.path, self.dataset, self.script, self.draw].count(None) != 3:
            raise ValueError("give one of 'path', 'dataset', 'script' and 'draw'")
        if not (self.draw or self.origin):
            raise ValueError("the name of the source is empty: name a file, a data set or a script")
        if self.arguments and not self.script:
            raise ValueError("'with' holds options of a function; it has no use without 'script'")
        for option in ("config", "format", "lineage", *CUTS) if self.script else ():
            if getattr(self, option):
                raise ValueError(f"'{option}' is for files; it has no use with 'script'")
        if self.node and not self.edges:
            raise ValueError("'node' names the ids that edges lead to; it has no use without 'edges'")
        if self.edges and (self.lineage or self.draw):
            raise ValueError("'edges' joins rows that are read; it has no use with 'draw' or 'lineage'")
        media = sorted(NAMED_FILES)
        for option in ("config", "format", "fields", "lineage", *media, *CUTS) if self.draw else ():
            if getattr(self, option):
                raise ValueError(f"'{option}' is for rows that are read; it has no use with 'draw'")
        if self.chunk_words is not None and self.overlap_words >= self.chunk_words:
            raise ValueError("overlap_words must be smaller than chunk_words")
        if self.chunk and (self.chunk_words or self.overlap_words):
            raise ValueError("'chunk' stands in the place of 'chunk_words' and 'overlap_words'")
        if self.shard and self.shard_number >= self.shards:
            raise ValueError(
                f"'shard' is {self.shard}; the last of {self.shards} is {self.shards - 1}/{self.shards}"
            )
        if (self.held_out or 0) + (self.validation or 0) >= 1:
            raise ValueError("'held_out' and 'validation' leave nothing to train on")
        return self

    def uses_seed(self) -> bool:
        """Return whether it draws rows, or the items that are held out."""
        drawn = (self.script, self.draw, self.held_out, self.validation)
        return any(option is not None for option in drawn)

    @property
    def shards(self) -> int:
        """The number of workers that share the rows; 1 without `shard`."""
        return int(self.shard.partition("/")[2]) if self.shard else 1

    @property
    def shard_number(self) -> int:
        """The number of the worker that this is, from 0."""
        return int(self.shard.partition("/")[0]) if self.shard else 0

    def takes(self, record: Record) -> bool:
        """Return whether the worker takes a record: all rows of an item have the same worker."""
        return (
            self.shards == 1
            or int(digest(["shard", record.item or record.id], 8), 16) % self.shards == self.shard_number
        )

    @property
    def origin(self) -> str:
        """The path, or the name of the data set or of the script."""
        names = (self.path, self.dataset, self.script, "draw")
        return next(name for name in names if name is not None)

    def files(self, project: Project) -> dict[str, Path]:
        """Return the source file or folder, the script and the project files that it imports, or the files of
        drawn values; nothing for a remote data set.
        """
        if self.draw:
            return self.draw.files(project)
        others = {self.edges: project.file(self.edges)} if self.edges else {}
        others |= self.chunk.files(project) if self.chunk else {}
        if self.script:
            return {**script_files(self.script, project), **others}
        if self.dataset and not any((folder / self.dataset).exists() for folder in (project.root, Path())):
            return others
        if self.path and (place := place_of(self.path, project)).pattern:
            return {**matches(place), **others}
        return {self.origin: project.file(self.origin), **others}

    def bind(self, context: CheckContext) -> BoundSource:
        """Read the first rows, and take the fields of all of them. Raise ConfigError for a bad row."""
        if context.fields:
            raise ConfigError("a source must be the first stage")
        files = self.files(context.project)
        if self.script:
            check_script(
                self.script,
                self.arguments or {},
                context.seed,
                context.project,
                self._reading(context.project),
            )
        edges = self._edges(context.project, context.seed)
        if edges is not None and not len(edges):
            place, reason = next(iter(edges.unusable), ("", "it has no rows"))
            raise ConfigError(f"'edges': no edge of '{self.edges}{place}' joins two rows: {reason}")
        first = list(islice(self._records(context.project, context.seed, edges), CHECKED_ROWS))
        for record in first:
            accepted = record.dropped and record.dropped.filter in (UNCONVERTED, UNUSABLE)
            if record.dropped and not (accepted and any(r.fields for r in first)):
                raise ConfigError(f"{record.source}: {record.dropped.reason}")
        if not first:
            raise ConfigError(f"the source '{self.origin}' has no rows{self._unread(context.project)}")
        fields = frozenset(name for record in first for name in record.fields)
        self.check_named(fields)
        for name in self.item or ():
            if name not in fields:
                mistake = f"'item' names the field '{name}', which no row has"
                raise ConfigError(f"{mistake}{did_you_mean(name, fields)}")
        if self.validation and self.held_out is None and SPLIT not in fields:
            raise ConfigError(
                f"'validation' takes rows whose '{SPLIT}' is train, and no row has one: give held_out, too"
            )
        return BoundSource(
            self, context, fields, files=files, samples=first[:SAMPLES], dialogues=dialogues_in(first)
        )

    def _unread(self, project: Project) -> str:
        """Return a clause that says what a folder without rows holds; "" for another source."""
        if not (self.path and (path := place_of(self.path, project).path).is_dir()):
            return ""
        if not (names := [file.relative_to(path).as_posix() for file in inner_files(path)]):
            return ": the folder is empty"
        examples = ", ".join(names[:NAMES]) + (", …" if len(names) > NAMES else "")
        kind = f"of the format '{self.format}'" if self.format else f"that is read ({' '.join(READERS)})"
        return f": none of its {len(names)} files ({examples}) is one {kind}, or has any text"

    def records(self, project: Project, seed: int = 0) -> Iterator[Record]:
        """Yield a record of each row. A bad row becomes a dropped record, and at the end a bad edge does."""
        edges = self._edges(project, seed)
        yield from self._records(project, seed, edges)
        for inside, reason in edges.unusable if edges else ():
            place = str(public(str(self.edges), project.root)) + inside
            yield Record(digest([place, reason]), {}, source=place).drop(self.name, "unreadable", reason)

    def _edges(self, project: Project, seed: int) -> Edges | None:
        """Return the edges between the rows, for which it reads all ids; None without a file of edges."""
        if self.edges is None:
            return None
        rows = (record.fields for record in self._records(project, seed) if not record.dropped)
        name = self.node or NODE
        nodes = [fields[name] for fields in rows if fields.get(name) is not None]
        return Edges(project.file(self.edges), nodes, project.root)

    def _records(self, project: Project, seed: int, edges: Edges | None = None) -> Iterator[Record]:
        """Yield a record of each row, with its neighbours if there are edges."""
        records = self._read(project, seed)
        yield from records if edges is None else edges.join(records, self.node or NODE, self.name)

    def _read(self, project: Project, seed: int) -> Iterator[Record]:
        """Yield a record of each row, with its part of the split."""
        if self.draw:
            yield from (self._placed(record, seed) for record in self.draw.records(project, seed))
            return
        origin = str(public(place_of(self.path, project).name if self.path else self.origin, project.root))
        for inside, row, item in self._rows(project, seed):
            place = origin + inside
            if isinstance(row, dict) and (self.fields or META in row):
                row = selected(row, self.fields)
            if isinstance(row, str):
                kinds = (UNCONVERTED, Unconverted), (UNUSABLE, FileFault)
                why = next((name for name, kind in kinds if isinstance(row, kind)), "unreadable")
                yield Record(digest([place, row]), {}, source=place).drop(self.name, why, row)
            elif self.lineage and META in row:
                yield Record.from_row(row)
            else:
                item = item_of(row, self.item) if self.item else item
                yield self._placed(Record.read(row, place, item), seed)

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Yield the rows in order, in chunks."""
        rows = islice(self.records(job.context.project, job.context.seed), job.context.limit)
        records = filter(self.takes, rows) if self.shard else rows
        while chunk := list(islice(records, CHUNK)):
            yield chunk

    def _rows(self, project: Project, seed: int) -> Rows:
        """Yield the rows of the file, the data set or the script."""
        if self.script:
            reading = self._reading(project)
            rows = script_rows(self.script, self.arguments or {}, seed, project, reading)
            return with_references(rows, project.root, reading)
        path = self._path(project)
        if self.dataset:
            return dataset_rows(str(path), self.config, self.split, self._reading(project))
        return rows_of(path, self._reading(project))

    def count(self, project: Project, seed: int = 0) -> int | None:
        """Return the number of rows; None for a streamed data set, and for a script of more than COUNTED.

        Of a shard, it returns that of its own rows where these can be read fast: in a file of rows.
        """
        number = self._count_of_all(project, seed)
        if not self.shard or number is None or number > COUNTED:
            return number
        converted = self.path and not {*self._path(project).suffixes} & ROW_FILES
        return number if converted else sum(map(self.takes, self.records(project, seed)))

    def _count_of_all(self, project: Project, seed: int) -> int | None:
        if self.draw:
            return self.draw.n
        if self.script:
            number = sum(1 for _ in islice(self._rows(project, seed), COUNTED + 1))
            return number if number <= COUNTED else None
        return None if self.dataset else count(self._path(project), self._reading(project))

    def _path(self, project: Project) -> Path:
        """Return the file or folder to read, or the name of a data set on the Hub."""
        if self.path:
            return place_of(self.path, project).path
        return self.files(project).get(self.origin, Path(self.origin))

    def _reading(self, project: Project) -> Reading:
        cutter = self.chunk.cutter(project) if self.chunk else None
        if self.chunk_words:
            cutter = Cutter(self.chunk_words, self.overlap_words)
        limits = self.convert or Convert()
        pattern = place_of(self.path, project).pattern if self.path else ""
        names = self.fields or {}
        media = {names.get(name, name): kind for name, kind in self.media.items()}
        return Reading(self.format, self.fields, cutter, limits, pattern, root=project.root, media=media)

    def _placed(self, record: Record, seed: int) -> Record:
        """Return the record with its part of the split. All rows of an item, and all pieces of a text, have
        the same part. Each seed of the pipeline splits otherwise.
        """
        if self.held_out is None:
            if self.validation is None or SPLIT not in record.fields or record.part != TRAIN:
                return record
        elif SPLIT in record.fields:
            remedy = "leave held_out out, which would make another"
            return record.drop(self.name, "unreadable", f"the row has a field '{SPLIT}' already; {remedy}")
        lot = int(digest([seed, record.item] if seed else record.item, 8), 16) / 16**8
        tests = self.held_out or 0.0
        side = TEST if lot < tests else VALIDATION if lot < tests + (self.validation or 0.0) else TRAIN
        return replace(record, fields={**record.fields, SPLIT: side})


@dataclass(frozen=True)
class BoundSource(BoundStage):
    """The source with its first rows."""

    stage: Source
    samples: Sequence[Record] = field(kw_only=True)
    """The first rows."""
    dialogues: Mapping[str, Sequence[list[dict[str, Any]]]] = field(kw_only=True)

    @cached_property
    def count(self) -> int | None:
        """The number of rows; None for a streamed data set, and for a script that yields very many."""
        return self.stage.count(self.context.project, self.context.seed)

    def turns(self) -> Mapping[str, Sequence[list[dict[str, Any]]]]:
        """Return, for each field with chat turns, the first value of each order of roles."""
        return self.dialogues

    def example(self) -> Record | None:
        """Return the first row."""
        return self.samples[0]

    def values(self, name: str) -> list[str] | None:
        """Return the values of a field in all training rows, for which it reads them; None for a data set."""
        if self.stage.dataset:
            return None
        records = self.stage.records(self.context.project, self.context.seed)
        rows = (record.fields for record in records if not record.dropped and record.part == TRAIN)
        return list(dict.fromkeys(text for row in rows if (text := text_of(row.get(name)))))

    def scores(self) -> set[str]:
        """Return the names of the scores that the first rows have from an earlier run."""
        return {name for record in self.samples for name in record.scores}

    def records_logprobs(self) -> bool:
        """Return whether the ledger may hold log-probabilities: an earlier run may have recorded some."""
        return self.stage.lineage

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return the number of rows, or no bound for a streamed data set."""
        return Estimate(self.count)
