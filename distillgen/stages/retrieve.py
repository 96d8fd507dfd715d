"""retrieve: add the nearest entries of a memory to each record."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import Field, model_validator

from distillgen.algorithms.name_graph import connections, mentioned
from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.flow.stage import CheckContext, Chunks, Estimate, Job, Stage
from distillgen.flow.whole_set import embedded
from distillgen.local_models.embedder import check as check_embedder
from distillgen.project import Project
from distillgen.record import META, Record, digest, text_of
from distillgen.rows.readers import contents
from distillgen.stages._rounds import ITEM, kept_of

NEAREST = "cosine"

Entry: TypeAlias = dict[str, Any]
"""The fields of an entry that a record receives."""

Find: TypeAlias = Callable[[Sequence[str]], Awaitable[list[list[Entry]]]]


class Retrieve(Stage):
    """Put the `k` nearest entries of a memory into a field.

    The memory is a file or folder, or, inside `rounds`, the records that earlier rounds kept. The field
    is a list of rows, the nearest first, each with its `cosine`. Each record and each entry costs an
    embedding, which is kept.

    With `path`, the entries are edges of a graph, such as the corpus of a stage `graph`. The stage then
    brings the edges on the shortest paths between the nodes that the record names, from the first to the
    last; for a single node, the edges around it.
    """

    kind = "retrieve"
    scope = "row"
    reads = "the field `query`, or the names of nodes in it; the file or folder `from`"
    writes = "the field `into`"

    memory: str | None = Field(
        None,
        alias="from",
        description="file or folder of entries, as of a source; default: the records that earlier rounds "
        "kept",
    )
    query: str = Field(description="field of the record to look up")
    key: str | None = Field(None, description="field of the entries to compare it with")
    path: list[str] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="the two fields with the nodes of an edge, instead of key",
    )
    into: str = Field("retrieved", description="field that receives the entries, nearest first")
    keep: list[str] | None = Field(None, description="fields of an entry to bring; default: all")
    k: int = Field(1, ge=1, description="largest number of entries")
    min_cosine: float = Field(0.0, ge=-1, le=1, description="smallest cosine of an entry that is brought")
    embedder: str = Field(
        "minilm",
        description="embedding model: minilm, a local folder, a name on the Hugging Face Hub, or words, "
        "which compares content words without a model",
    )
    shuffle: bool = Field(
        False, description="control: exchange the entries, so that each is found in the place of another"
    )

    @model_validator(mode="after")
    def _own_field(self) -> Retrieve:
        if self.into == META:
            raise ValueError(f"the field '{META}' is distillgen's own")
        if (self.key is None) == (self.path is None):
            raise ValueError(
                "give either 'key', the entries' field to look in, or 'path', "
                "the fields of an edge's two nodes"
            )
        if self.path and (useless := sorted({"embedder", "min_cosine"} & self.model_fields_set)):
            raise ValueError(f"'{useless[0]}' has no use with 'path', which finds nodes by their names")
        return self

    @property
    def entry_fields(self) -> list[str]:
        """The fields that an entry needs."""
        return self.path or [str(self.key)]

    def files(self, project: Project) -> dict[str, Path]:
        """Return the file or folder of the memory, if there is one."""
        return {self.memory: project.file(self.memory)} if self.memory else {}

    def check(self, context: CheckContext) -> frozenset[str]:
        """Return the fields; raise ConfigError if a field, the memory or the embedder is missing."""
        context.need(self.query, "'query'")
        for stage in (bound.stage for bound in context.stages if self.shuffle):
            if isinstance(stage, Retrieve) and not stage.shuffle and stage.into == self.into:
                self._controls(stage)
        if self.memory is None:
            context.need(ITEM, "'retrieve' without 'from', which works only inside 'rounds',")
        else:
            fields = frozenset(chain.from_iterable(contents(self.memory, context.project)))
            for name in self.entry_fields:
                replace(context, fields=fields).need(
                    name, f"'{'path' if self.path else 'key'}' in {self.memory}"
                )
        if self.key:
            check_embedder(self.embedder)
        else:
            need("'path'", "networkx")
        return context.fields | {self.into}

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

    def estimate(self, before: Estimate, samples: Sequence[Record], context: CheckContext) -> Estimate:
        """Return the number of records; the size of the entries has no bound."""
        return Estimate(before.rows, made_bytes=None)

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Find the entries of each record that is not dropped."""
        memory = (
            [*contents(self.memory, job.context.project)]
            if self.memory
            else [r.fields for r in chain.from_iterable(map(kept_of, job.context.earlier))]
        )
        entries = [entry for entry in memory if all(name in entry for name in self.entry_fields)]
        results = [{name: entry[name] for name in self.keep or entry if name in entry} for entry in entries]
        if self.shuffle:
            order = random.Random(digest([job.context.seed, self.name])).sample(
                range(len(results)), len(results)
            )
            results = [results[other] for _, other in sorted(zip(order, order[1:] + order[:1], strict=True))]
        find = self._along(entries, results) if self.path else await self._near(entries, results, job)
        async for chunk in chunks:
            chunk_results = iter(
                await find([text_of(record.fields.get(self.query)) for record in chunk if not record.dropped])
            )
            yield [
                r if r.dropped else replace(r, fields={**r.fields, self.into: next(chunk_results)})
                for r in chunk
            ]

    def _along(self, entries: Sequence[Mapping[str, Any]], results: Sequence[Entry]) -> Find:
        """Return a function that finds for each query the edges of paths between the nodes that it names."""
        import networkx as nx

        ends = [
            (text_of(entry[self.entry_fields[0]]), text_of(entry[self.entry_fields[1]])) for entry in entries
        ]
        places = defaultdict[frozenset[str], list[int]](list)
        for i, edge in enumerate(ends):
            places[frozenset(edge)].append(i)
        graph = nx.Graph()
        graph.add_edges_from((*edge, {"count": len(places[frozenset(edge)])}) for edge in ends)

        async def find(queries: Sequence[str]) -> list[list[Entry]]:
            edges = [connections(graph, mentioned(graph, query), self.k) for query in queries]
            return [
                [results[i] for edge in path_edges for i in places[frozenset(edge)]][: self.k]
                for path_edges in edges
            ]

        return find

    async def _near(self, entries: Sequence[Mapping[str, Any]], results: Sequence[Entry], job: Job) -> Find:
        """Return a function that finds the nearest entries of each query."""
        keys = await embedded(
            [text_of(entry[str(self.key)]) for entry in entries], self.embedder, job.services.ledger
        )

        async def find(queries: Sequence[str]) -> list[list[Entry]]:
            if not entries:
                return [[] for _ in queries]
            places = await embedded(queries, self.embedder, job.services.ledger)
            nearest = await asyncio.to_thread(self._nearest, places, keys)
            return [
                [{**results[i], NEAREST: closeness} for i, closeness in neighbours] for neighbours in nearest
            ]

        return find

    def _nearest(self, places: Any, keys: Any) -> list[list[tuple[int, float]]]:
        """Return for each query the nearest entries and their cosines, in descending order; ties in the order
        of entries.
        """
        by_query = []
        for place in places:
            near = (keys @ place).tolist()
            order = sorted(range(len(near)), key=lambda i: -near[i])[: self.k]
            by_query.append(
                [(i, round(near[i], 4)) for i in order if near[i] > 0 and near[i] >= self.min_cosine]
            )
        return by_query
