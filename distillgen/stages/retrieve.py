"""retrieve: bring what a memory holds nearest to a record."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from distillgen.embedding import check as check_embedder
from distillgen.errors import ConfigError
from distillgen.project import Project
from distillgen.record import META, Record, digest
from distillgen.stages import Checking, Chunks, Estimate, Job, Stage
from distillgen.stages._whole_set import embedded
from distillgen.stages.rounds import ITEM, kept_of
from distillgen.stages.source import Source

NEAREST = "cosine"


class Retrieve(Stage):
    """Put the `k` entries of a memory that are nearest to a record into a field, a list of rows, each with its closeness as
    `cosine`. The memory is a file or folder, or, inside `rounds`, what the earlier rounds kept. Costs an embedding a record and
    an entry, which are kept.
    """

    kind = "retrieve"

    memory: str | None = Field(None, alias="from", description="a file or folder, as of a source; default: the earlier rounds")
    query: str = Field(description="the record's field that is looked up")
    key: str = Field(description="the entries' field in which it is looked up")
    into: str = Field("retrieved", description="the field that receives the entries, nearest first")
    keep: list[str] | None = Field(None, description="fields of an entry to bring; default: all")
    k: int = Field(1, ge=1, description="most entries")
    min_cosine: float = Field(0.0, ge=-1, le=1, description="an entry that is less close is not brought")
    embedder: str = Field("minilm", description="minilm, a local folder, a name on the Hugging Face Hub, or words")
    shuffle: bool = Field(False, description="as a control: every entry is found where another one belongs")

    @model_validator(mode="after")
    def _own_field(self) -> Retrieve:
        if self.into == META:
            raise ValueError(f"the field '{META}' is distillgen's own")
        return self

    def files(self, project: Project) -> dict[str, Path]:
        """The memory, where it is one of files."""
        return {self.memory: project.file(self.memory)} if self.memory else {}

    def check(self, given: Checking) -> frozenset[str]:
        """The fields, the memory and the embedder are there."""
        given.need(self.query, "'query'")
        if self.memory is None:
            given.need(ITEM, "'retrieve' without 'from', which stands inside 'rounds',")
        else:
            fields = frozenset(chain.from_iterable(self._rows(given.project)))
            replace(given, fields=fields).need(self.key, f"'key' in {self.memory}")
        check_embedder(self.embedder)
        return given.fields | {self.into}

    def _rows(self, project: Project) -> list[Mapping[str, Any]]:
        rows = []
        for record in Source(name=self.name, path=self.memory).records(project):
            if record.dropped:
                raise ConfigError(f"{record.source}: {record.dropped.reason}")
            rows.append(record.fields)
        return rows

    def estimate(self, before: Estimate, samples: Sequence[Record], given: Checking) -> Estimate:
        """As many go on; what entries bring has no bound."""
        return Estimate(before.rows, made_bytes=None)

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Look every live record up."""
        found = self._rows(job.project) if self.memory else [r.fields for r in chain.from_iterable(map(kept_of, job.earlier))]
        entries = [entry for entry in found if self.key in entry]
        keys = await embedded([str(entry[self.key]) for entry in entries], self.embedder, job.ledger)
        brought = [{name: entry[name] for name in self.keep or entry if name in entry} for entry in entries]
        if self.shuffle:
            order = random.Random(digest([job.seed, self.name])).sample(range(len(brought)), len(brought))
            brought = [brought[other] for _, other in sorted(zip(order, order[1:] + order[:1], strict=True))]
        async for chunk in chunks:
            live = [record for record in chunk if not record.dropped]
            asked = [str(record.fields.get(self.query, "")) for record in live if entries]  # of an empty memory, nothing
            places = await embedded(asked, self.embedder, job.ledger)
            nearest = iter(await asyncio.to_thread(self._nearest, places, keys) or [[] for _ in live])

            def with_entries(near: Sequence[tuple[int, float]]) -> list[dict[str, Any]]:
                return [{**brought[i], NEAREST: closeness} for i, closeness in near]

            yield [r if r.dropped else replace(r, fields={**r.fields, self.into: with_entries(next(nearest))}) for r in chunk]

    def _nearest(self, places: Any, keys: Any) -> list[list[tuple[int, float]]]:
        """For each record, the entries from the closest on; of equally close ones the earlier first."""
        found = []
        for place in places:
            near = (keys @ place).tolist()
            order = sorted(range(len(near)), key=lambda i: -near[i])[: self.k]
            found.append([(i, round(near[i], 4)) for i in order if near[i] > 0 and near[i] >= self.min_cosine])
        return found
