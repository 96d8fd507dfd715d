"""diversity: measure how diverse the kept records are."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distillgen.algorithms import diversity
from distillgen.algorithms.reservoir import Reservoir
from distillgen.flow.in_thread import in_thread
from distillgen.flow.measures import measures_of
from distillgen.flow.stage import CheckContext, Chunk, Chunks, Job
from distillgen.flow.whole_set import Placed, Vectors
from distillgen.record import Record, digest
from distillgen.text.words import words

if TYPE_CHECKING:
    from distillgen.flow.whole_set import Array

_EMBEDDING = {"vendi", "coverage"}
Measure = Literal["distinct_1", "distinct_2", "self_bleu", "vendi", "coverage"]


class Diversity(Placed):
    """Measure how diverse the texts of the kept records are, on a sample.

    `distinct_1` and `distinct_2` are the shares of different words and word pairs. `self_bleu` is 1 where
    the texts repeat one another. `vendi` is the effective number of different texts. `coverage` is how
    near the kept records come to all records, kept or dropped. `vendi` and `coverage` embed the sample.
    Records pass at once and unchanged.
    """

    kind = "diversity"
    scope = "set"
    reads = "the text in `field`; the numbers in `vector`"
    writes = "its measures, to `usage.json` and the report"

    field: str = Field(description="field with the text to measure, and to embed")
    measures: list[Measure] = Field(
        ["distinct_1", "distinct_2", "self_bleu"], min_length=1, description="measures to compute"
    )
    sample: int = Field(
        1000,
        ge=2,
        description="number of texts to measure; only figures of samples of the same size can be compared",
    )

    def uses_seed(self) -> bool:
        """Return True: it draws by the pipeline's seed."""
        return True

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if the field is missing, or the embedder where it is needed."""
        context.need(self.field, "'field'")
        if _EMBEDDING & set(self.measures):
            self.check_vectors(context)
        return context.fields

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Pass all records, and measure at the end."""
        kept, all_ = (
            Reservoir[Record](self.sample, random.Random(digest([job.context.seed, self.name])))
            for _ in range(2)
        )
        async for chunk in chunks:
            for record in chunk:
                if self.field in record.fields:
                    all_.add(replace(record, dropped=None))
                    if not record.dropped:
                        kept.add(record)
            yield chunk
        if kept.items:
            job.services.measures.update(measures_of(await self._measured(kept.items, all_.items, job)))

    async def _measured(self, kept: Chunk, everything: Chunk, job: Job) -> dict[str, float]:
        texts = [words(record.text(self.field)) for record in kept]
        figures = {"texts": float(len(texts))}
        for measure in self.measures:
            if measure in _EMBEDDING:
                samples = [kept] if measure == "vendi" else [kept, everything]
                vectors = [await self._vectors(sample, job) for sample in samples]
                figures[measure] = await in_thread(getattr(diversity, measure), *vectors)
            elif measure == "self_bleu":
                figures[measure] = await in_thread(diversity.self_bleu, texts)
            else:
                figures[measure] = diversity.distinct(texts, int(measure[-1]))
        return figures

    async def _vectors(self, records: Chunk, job: Job) -> Array:
        vectors = Vectors(self, job)
        await vectors.add(records)
        return vectors.all()
