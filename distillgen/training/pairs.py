"""Objectives of bi-encoders and cross-encoders: two or three texts, and a teacher's score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.flow.whole_set import number_of
from distillgen.inference.logprobs import Signal
from distillgen.option_types import FieldName
from distillgen.record import Record, text_of
from distillgen.training.objective import Objective
from distillgen.training.rows import Assessment, Row, RowSelection, Unusable, cut


class Pairs(Objective):
    """Learns from the texts in `fields` (a pair, or a query and two answers) and a teacher's `score`."""

    kinds = frozenset({"causal", "encoder"})
    packages = ("sentence_transformers",)
    adapters = False  # sentence-transformers 6 needs a PEFT that is not released yet; such encoders are small
    texts: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """The numbers of texts that each loss takes."""
    unscored: ClassVar[frozenset[str]] = frozenset()
    """The losses that take no score."""

    fields: list[FieldName] = Field(
        min_length=2, max_length=3, description="the texts: a pair, or a query with two answers"
    )
    score: str | None = Field(
        None, description="the score or field with the teacher's number; for three texts, its margin"
    )

    loss: str
    """The name of the loss; each objective lists its own."""

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if a text is missing, or if the loss takes other texts or another score."""
        for name in self.fields:
            context.need(name, "'fields'")
        if len(self.fields) not in self.texts[self.loss]:
            many = " or ".join(map(str, self.texts[self.loss]))
            raise ConfigError(f"loss: {self.loss} takes {many} texts, and 'fields' names {len(self.fields)}")
        if (self.score is None) != (self.loss in self.unscored):
            wrong = "takes no 'score'" if self.score else "needs 'score', a teacher's number"
            raise ConfigError(f"loss: {self.loss} {wrong}")

    def answers(self) -> tuple[str, ...]:
        """Return the column of the score; without a score, the columns of all texts but the first."""
        return ("score",) if self.score else tuple(f"text_{i}" for i in range(1, len(self.fields)))

    def row(self, record: Record, signals: Mapping[str, Signal]) -> Row:
        """Return the texts in order, and the score."""
        row: Row = {f"text_{i}": text_of(record.fields.get(name)) for i, name in enumerate(self.fields)}
        if self.score:
            row["score"] = number_of(record, self.score)
            if row["score"] is None or not math.isfinite(row["score"]):
                raise Unusable(f"'{self.score}' holds no number")
        return row

    def counted(self, rows: RowSelection, tokenizer: Any, max_length: int) -> RowSelection:
        """Return all rows, and count those with a text that is cut."""

        def assess(row: Row) -> Assessment:
            texts = [text for name, text in row.items() if name != "score"]
            return cut(max(map(len, tokenizer(texts)["input_ids"])), max_length)

        return rows.select(assess)
