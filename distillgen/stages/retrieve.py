"""retrieve: add entries of a memory to each record: the nearest, those with its words, or random ones."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.flow.bounds import most_parts
from distillgen.flow.in_thread import in_thread
from distillgen.flow.record_template import RecordTemplate
from distillgen.flow.stage import BoundStage, CheckContext, Chunk, Chunks, Estimate, Job, Scope, Stage
from distillgen.flow.whole_set import Spool, embedded
from distillgen.local_models.embedder import check as check_embedder
from distillgen.project import Project
from distillgen.prompting.filler import Parts, parts_of
from distillgen.record import META, Record, Unrenderable, digest, dumps, item_of, text_of
from distillgen.rows.named_files import NAMED_FILES, NamedFiles
from distillgen.rows.readers import contents
from distillgen.stages._memory import (
    Eligibility,
    Entry,
    drawn,
    edge_finder,
    nearest,
    word_index,
    word_matches,
)
from distillgen.stages._rounds import ITEM, kept_of

HERE = "here"
SCORES = {"nearest": "cosine", "bm25": "bm25"}
"""The field of a retrieved entry that holds its score."""

Row: TypeAlias = dict[str, Any]
"""The fields of an entry that a record receives."""

Find: TypeAlias = Callable[[Sequence[Record]], Awaitable[list[list[Row]]]]


class Retrieve(Stage, NamedFiles):
    """Put `k` entries of a memory into a field: the nearest, those with the same words, or random ones.

    The memory is a file or folder; with `from: here`, the records that reach the stage, but for held-out
    ones, which the stage then waits for; or, inside `rounds`, the records that earlier rounds kept. The field
    is a list of rows, the best first, each with its `cosine` or its score `bm25`. By cosine, each record and
    each entry costs an embedding, which is kept.

    With `path`, the entries are edges of a graph, such as the corpus of a stage `graph`. The stage then
    brings the edges on the shortest paths between the nodes that the record names, from the first to the
    last; for a single node, the edges around it.
    """

    kind = "retrieve"
    scope = "row"
    optional: ClassVar[frozenset[str]] = Stage.optional | NAMED_FILES
    reads = "the field `query`, or the names of nodes in it; the file, folder or records `from`"
    writes = "the field `into`"

    memory: str | None = Field(
        None,
        alias="from",
        description="file or folder of entries, as of a source, or `here` for the records that reach the "
        "stage; default: the records that earlier rounds kept",
    )
    entries: str | None = Field(
        None, description="template; an entry for which the result is empty, false, no, 0 or null is left out"
    )
    by: Literal["nearest", "bm25", "random"] = Field(
        "nearest", description="the entries with the greatest cosine, those with the greatest BM25, or random"
    )
    query: str | None = Field(None, description="field of the record to look up")
    key: str | None = Field(None, description="field of the entries to compare it with")
    path: list[str] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="the two fields with the nodes of an edge, instead of key",
    )
    into: str = Field("retrieved", description="field that receives the entries, the best first")
    keep: list[str] | str | None = Field(
        None,
        description="fields of an entry to bring; a name alone: the field whose value is brought in the "
        "entry's place, such as its picture; default: all",
    )
    k: int = Field(1, ge=1, description="largest number of entries")
    others: bool = Field(False, description="leave out entries about the same source item as the record")
    within: str | None = Field(None, description="field that is equal in the record and the entry")
    across: str | None = Field(None, description="field that differs between the record and the entry")
    min_cosine: float = Field(0.0, ge=-1, le=1, description="smallest cosine of an entry that is brought")
    max_cosine: float = Field(
        1.0,
        ge=-1,
        le=1,
        description="greatest cosine, so that a copy of the record itself is left out; default: any",
    )
    embedder: str = Field(
        "minilm",
        description="embedding model: minilm, a local folder, a name on the Hugging Face Hub, or words, "
        "which compares content words without a model",
    )
    shuffle: bool = Field(
        False, description="control: exchange the entries, so that each is found in the place of another"
    )

    def uses_seed(self) -> bool:
        """Return whether entries are drawn or exchanged."""
        return self.by == "random" or self.shuffle

    @model_validator(mode="after")
    def _consistent(self) -> Retrieve:
        if self.into == META:
            raise ValueError(f"the field '{META}' is distillgen's own")
        options = self.model_fields_set
        for name in self.media:
            if self.memory in (None, HERE):
                raise ValueError(f"'{name}': records have references already; only a file's rows name files")
            if name in self.entry_fields:
                raise ValueError(f"'{name}' names pictures or sounds, and entries are found by their texts")
        if self.by == "random":
            if useless := sorted({"query", "key", "path"} & options):
                raise ValueError(f"'{useless[0]}' has no use with 'by: random'")
        elif (self.key is None) == (self.path is None):
            raise ValueError(
                "give either 'key', the entries' field to look in, or 'path', "
                "the fields of an edge's two nodes"
            )
        elif self.query is None:
            raise ValueError("give 'query', the field of the record to look up")
        near = {"embedder", "min_cosine", "max_cosine"}
        if self.path and (useless := sorted({*near, "by", "others", "within", "across"} & options)):
            raise ValueError(f"'{useless[0]}' has no use with 'path', which finds nodes by their names")
        if self.by != "nearest" and (useless := sorted(near & options)):
            raise ValueError(f"'{useless[0]}' has no use with 'by: {self.by}', which embeds nothing")
        return self

    @property
    def entry_fields(self) -> list[str]:
        """The fields that an entry needs."""
        return self.path or [*filter(None, [self.key])]

    @property
    def kept(self) -> list[str] | None:
        """The fields of an entry that are brought; None for all."""
        return [self.keep] if isinstance(self.keep, str) else self.keep

    def files(self, project: Project) -> dict[str, Path]:
        """Return the file or folder of the memory, if there is one."""
        return {self.memory: project.file(self.memory)} if self.memory and self.memory != HERE else {}

    def bind(self, context: CheckContext) -> BoundRetrieve:
        """Raise ConfigError if a field, the memory or the embedder is missing."""
        if self.query:
            context.need(self.query, "'query'")
        for stage in (bound.stage for bound in context.stages if self.shuffle):
            if isinstance(stage, Retrieve) and not stage.shuffle and stage.into == self.into:
                self._controls(stage)
        entry_context, longest, parts = self._entry_context(context)
        place = f" in {self.memory}" if self.memory else ""
        for name in self.entry_fields if self.memory else ():
            entry_context.need(name, f"'{'path' if self.path else 'key'}'{place}")
        if isinstance(self.keep, str) and self.memory:
            entry_context.need(self.keep, f"'keep'{place}")
        for option, value_field in (("within", self.within), ("across", self.across)):
            if value_field:
                context.need(value_field, f"'{option}'")
                entry_context.need(value_field, f"'{option}'{place}")
        condition = RecordTemplate(self.entries) if self.entries is not None else None
        if condition:
            condition.check(entry_context, f"'entries'{place}")
        if self.path:
            need("'path'", "networkx")
        elif self.by == "nearest":
            check_embedder(self.embedder)
        elif self.by == "bm25":
            need("'by: bm25'", "bm25s", "numpy")
        return BoundRetrieve(
            self,
            context,
            context.fields | {self.into},
            files=self.files(context.project),
            condition=condition,
            longest=longest,
            of_entries=parts,
        )

    def _entry_context(self, context: CheckContext) -> tuple[CheckContext, int, Parts]:
        """Return a context with the fields of the entries, and the bytes of the longest row of a file, with
        the most pictures and sounds of one.

        Raise ConfigError if there is no memory.
        """
        if self.memory is None:
            context.need(ITEM, "'retrieve' without 'from', which works only inside 'rounds',")
        if self.memory in (None, HERE):
            return context, 0, Parts()
        names, longest, parts = set[str](), 0, Parts()
        for fields in contents(str(self.memory), context.project, self.media):
            names |= fields.keys()
            longest = max(longest, len(dumps(row := self.row(fields))))
            parts |= parts_of(row)
        self.check_named(names)
        return replace(context, fields=frozenset(names)), longest, parts

    def row(self, fields: Mapping[str, Any]) -> Row:
        """Return the fields of an entry that a record receives."""
        return {name: fields[name] for name in self.kept or fields if name in fields}

    def _controls(self, other: Retrieve) -> None:
        """Raise ConfigError if this control differs from the stage `other` in an option besides `shuffle`."""
        options, others = (
            stage.model_dump(by_alias=True, exclude={"name", "shuffle"}) for stage in (self, other)
        )
        for option in options:
            if options[option] != others[option]:
                remedy = f"a control differs in nothing but 'shuffle'; --set retrieve.{option}=… sets both"
                difference = (
                    f"'{option}' is {options[option]!r} in this control of '{other.name}', which has "
                    f"{others[option]!r}"
                )
                raise ConfigError(f"{difference}; {remedy}")


@dataclass(frozen=True)
class BoundRetrieve(BoundStage):
    """The stage with the condition of its entries."""

    stage: Retrieve
    condition: RecordTemplate | None = field(kw_only=True)
    longest: int = field(kw_only=True)
    """The bytes of the longest row of a file; 0 for other memories."""
    of_entries: Parts = field(kw_only=True)
    """The most pictures and sounds of a row of a file."""

    @property
    def scope(self) -> Scope:
        """`set` if the memory is the records themselves, else `row`."""
        return "set" if self.stage.memory == HERE else "row"

    def output_names(self) -> frozenset[str]:
        """Return the field with the entries."""
        return frozenset({self.stage.into})

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return the number of records, and the bytes of the longest list of entries."""
        stage, one = self.stage, self.of_entries
        if not self.files:  # an entry may be a record with all that the stages of a round make of it
            one = most_parts(stage.kept or self.context.fields, before, samples)
        parts = {**before.parts, stage.into: Parts({kind: n * stage.k for kind, n in one.items()})}
        part = len(dumps({name: -0.1234 for name in SCORES.values()})) + 1
        if self.files:
            part += self.longest
        elif stage.memory == HERE and stage.kept and before.made_bytes is not None:
            for name in stage.kept:
                longest = max((len(dumps(sample.fields.get(name))) for sample in samples), default=0)
                part += len(dumps(name)) + 2 + max(before.made_bytes, longest)
        else:
            return Estimate(before.rows, made_bytes=None, made_parts=parts)
        return Estimate(
            before.rows,
            made_bytes=None if before.made_bytes is None else max(before.made_bytes, stage.k * part),
            made_parts=parts,
        )

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Find the entries of each record that is not dropped."""
        with ExitStack() as stack:
            if self.stage.memory == HERE:
                spool = stack.enter_context(Spool(job))
                async for chunk in chunks:
                    spool.add(chunk)
                find = await self._find([*self._here(spool)], job)
                for chunk in spool.chunks():
                    yield await self._with_entries(chunk, find)
                return
            find = await self._find([*self._kept_or_read(job)], job)
            async for chunk in chunks:
                yield await self._with_entries(chunk, find)

    async def _with_entries(self, chunk: Chunk, find: Find) -> Chunk:
        found_rows = await find([record for record in chunk if not record.dropped])
        results, keep = iter(found_rows), self.stage.keep
        if isinstance(keep, str):
            results = ([row[keep] for row in rows] for rows in found_rows)
        return [
            r if r.dropped else replace(r, fields={**r.fields, self.stage.into: next(results)}) for r in chunk
        ]

    def _here(self, spool: Spool) -> Iterator[Entry]:
        """Yield the records that reach the stage, without dropped and held-out ones."""
        for record in chain.from_iterable(spool.chunks()):
            if not record.dropped and not record.held_out:
                yield from self._entry(record)

    def _kept_or_read(self, job: Job) -> Iterator[Entry]:
        """Yield the rows of the file, or the records that earlier rounds kept."""
        if self.stage.memory is None:
            for record in chain.from_iterable(map(kept_of, job.context.earlier)):
                yield from self._entry(record)
        else:
            for fields in contents(self.stage.memory, job.context.project, self.stage.media):
                yield from self._entry(Record("", fields, item=item_of(fields)))

    def _entry(self, record: Record) -> Iterator[Entry]:
        """Yield the entry of a record, unless it lacks a field or the condition leaves it out."""
        keep = self.stage.keep
        try:
            if self.condition is None or self.condition.holds(record):
                needed = [*self.stage.entry_fields, *([keep] if isinstance(keep, str) else ())]
                if all(name in record.fields for name in needed):
                    yield Entry(record.fields, record.item)
        except Unrenderable:
            return

    async def _find(self, entries: Sequence[Entry], job: Job) -> Find:
        """Return a function that finds the entries of records."""
        stage = self.stage
        rows = [stage.row(entry.fields) for entry in entries]
        if stage.shuffle:
            order = random.Random(digest([job.context.seed, stage.name])).sample(range(len(rows)), len(rows))
            rows = [rows[other] for _, other in sorted(zip(order, order[1:] + order[:1], strict=True))]
        if stage.path:
            return self._along([entry.fields for entry in entries], rows)
        eligibility = Eligibility(entries, stage.others, stage.within, stage.across)
        if stage.by == "random":
            return self._random(rows, eligibility, job.context.seed)
        texts = [text_of(entry.fields[str(stage.key)]) for entry in entries]
        if stage.by == "bm25":
            return await self._by_words(rows, eligibility, texts)
        return await self._near(rows, eligibility, texts, job)

    def _random(self, rows: Sequence[Row], eligibility: Eligibility, seed: int) -> Find:
        async def find(records: Sequence[Record]) -> list[list[Row]]:
            chosen = (drawn(r, eligibility, self.stage.k, seed, self.name) for r in records)
            return [[rows[place] for place, _ in hits] for hits in chosen]

        return find

    async def _by_words(self, rows: Sequence[Row], eligibility: Eligibility, texts: Sequence[str]) -> Find:
        query, score = str(self.stage.query), SCORES["bm25"]
        index = await in_thread(word_index, texts) if texts else None

        async def find(records: Sequence[Record]) -> list[list[Row]]:
            if index is None:
                return [[] for _ in records]
            queries = [text_of(record.fields.get(query)) for record in records]
            matches = await in_thread(
                lambda: [
                    word_matches(record, text, index, eligibility, self.stage.k)
                    for record, text in zip(records, queries, strict=True)
                ]
            )
            return [[{**rows[i], score: value} for i, value in hits] for hits in matches]

        return find

    async def _near(
        self, rows: Sequence[Row], eligibility: Eligibility, texts: Sequence[str], job: Job
    ) -> Find:
        """Return a function that finds the nearest entries of each record."""
        stage, ledger, score = self.stage, job.services.ledger, SCORES["nearest"]
        keys = await embedded(texts, stage.embedder, ledger)
        limits = (stage.min_cosine, stage.max_cosine if stage.max_cosine < 1 else 2.0)

        async def find(records: Sequence[Record]) -> list[list[Row]]:
            if not rows:
                return [[] for _ in records]
            queries = [text_of(record.fields.get(str(stage.query))) for record in records]
            vectors = await embedded(queries, stage.embedder, ledger)
            hits_by_record = await in_thread(
                lambda: [
                    nearest(record, vector, keys, eligibility, stage.k, limits)
                    for record, vector in zip(records, vectors, strict=True)
                ]
            )
            return [[{**rows[i], score: value} for i, value in hits] for hits in hits_by_record]

        return find

    def _along(self, entries: Sequence[Mapping[str, Any]], rows: Sequence[Row]) -> Find:
        """Return a function that finds, for each record, the edges of paths between the nodes it names."""
        head, tail = self.stage.entry_fields
        ends = [(text_of(entry[head]), text_of(entry[tail])) for entry in entries]
        edges_for = edge_finder(ends, self.stage.k)

        async def find(records: Sequence[Record]) -> list[list[Row]]:
            queries = [text_of(record.fields.get(str(self.stage.query))) for record in records]
            return [[rows[i] for i in edges_for(query)] for query in queries]

        return find
