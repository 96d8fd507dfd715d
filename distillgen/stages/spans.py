"""spans: texts with a hole, each of which is learnt from what is around it (Zhang et al. 2025, WikiDYK)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice

from pydantic import Field, model_validator

from distillgen.algorithms.word_spans import draw_in_turns, word_spans
from distillgen.flow.stage import CHUNK, CheckContext, Chunks, Estimate, Job, Stage
from distillgen.record import META, Record, digest, dumps


class Spans(Stage):
    """Make records of a text without some of its neighbouring words, and of these words.

    A span is any run of `words` words: a text of 9 words has 35 spans of 1 to 5. They are drawn by the
    pipeline's seed; none comes again before all have come equally often. A record without a text, or with
    fewer words than the shortest span, is dropped.
    """

    kind = "spans"
    scope = "row"
    remakes = True
    reads = "the text in `field`"
    writes = "the fields `masked` and `gone`; one record for each draw; drops records without a span"

    field: str = Field(description="field with the text")
    words: tuple[int, int] = Field((1, 5), description="fewest and most words of a span")
    draw: int = Field(ge=1, description="number of records from each text; the paper draws 1000")
    mask: str = Field("[MASK]", description="text that takes the place of the span")
    masked: str = Field("masked", description="field that receives the text without the span")
    gone: str = Field("gone", description="field that receives the words of the span")

    @model_validator(mode="after")
    def _possible(self) -> Spans:
        shortest, longest = self.words
        if not 1 <= shortest <= longest:
            raise ValueError(f"'words' is [fewest, most], from 1 on, not [{shortest}, {longest}]")
        if META in (self.masked, self.gone):
            raise ValueError(f"the field '{META}' is distillgen's own; give another name")
        if self.masked == self.gone:
            raise ValueError("'masked' and 'gone' are two fields; give them two names")
        return self

    def uses_seed(self) -> bool:
        """Return True: it draws by the pipeline's seed."""
        return True

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if no earlier stage makes the text."""
        context.need(self.field, "'field'")
        return context.fields | {self.masked, self.gone}

    def estimate(self, before: Estimate, samples: Sequence[Record], context: CheckContext) -> Estimate:
        """Return the number of records; no new text is longer than the old one and the mask."""
        rows = None if before.rows is None else before.rows * self.draw
        if before.made_bytes is None:
            return Estimate(rows, made_bytes=None)
        longest = max((len(dumps(record.fields.get(self.field))) for record in samples), default=0)
        return Estimate(rows, made_bytes=max(before.made_bytes, longest) + len(dumps(self.mask)))

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Replace every live record by the records of its draws."""
        async for chunk in chunks:
            leaving = chain.from_iterable(
                [r] if r.dropped else self._drawn(r, job.context.seed) for r in chunk
            )
            while out := list(islice(leaving, CHUNK)):
                yield out

    def _drawn(self, record: Record, seed: int) -> Iterator[Record]:
        text = record.fields.get(self.field)
        if not isinstance(text, str):
            yield record.drop(self.name, "no_text", f"'{self.field}' holds no text")
            return
        words = [match.span() for match in re.finditer(r"\S+", text)]
        spans = word_spans(len(words), *self.words)
        if not spans:
            reason = f"'{self.field}' has {len(words)} words, fewer than a span"
            yield record.drop(self.name, "too_short", reason)
            return
        chance = random.Random(f"{seed}/{self.name}/{record.id}")
        for number, i in enumerate(draw_in_turns(len(spans), self.draw, chance)):
            first, last = spans[i]
            start, end = words[first][0], words[last][1]
            fields = {self.masked: text[:start] + self.mask + text[end:], self.gone: text[start:end]}
            yield replace(
                record,
                id=digest([record.id, self.name, number]),
                fields={**record.fields, **fields},
                parents=(record.id,),
            )
