"""What bi-encoders and cross-encoders share: texts side by side, and how alike a teacher finds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.flow.stage import Checking
from distillgen.flow.whole_set import number_of
from distillgen.inference.logprobs import Logprobs
from distillgen.record import FieldName, Record, text_of
from distillgen.training.objective import Objective
from distillgen.training.rows import Assessment, Row, RowSelection, Unusable, cut


class Pairs(Objective):
    """Learns from `fields`, two texts or three (a query, one that fits it and one that does not), and a teacher's `score`."""

    writes = False
    kinds = frozenset({"causal", "encoder"})
    packages = ("sentence_transformers",)
    adapters = False  # sentence-transformers 6 takes one only with a PEFT that is not out yet, and such encoders are small
    texts: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """How many texts each loss takes."""
    unscored: ClassVar[frozenset[str]] = frozenset()
    """Losses that need no score."""

    fields: list[FieldName] = Field(
        min_length=2, max_length=3, description="the texts: a pair, or a query with two answers"
    )
    score: str | None = Field(
        None, description="the score or field with the teacher's number; of three texts: its margin"
    )

    def check(self, given: Checking) -> None:
        """The texts are there, as many as the loss takes, and a score where it needs one."""
        loss = str(getattr(self, "loss"))  # noqa: B009 (each of the two has losses of its own)
        for name in self.fields:
            given.need(name, "'fields'")
        if len(self.fields) not in self.texts[loss]:
            many = " or ".join(map(str, self.texts[loss]))
            raise ConfigError(f"loss: {loss} takes {many} texts, and 'fields' names {len(self.fields)}")
        if (self.score is None) != (loss in self.unscored):
            wrong = "takes no 'score'" if self.score else "needs 'score', a teacher's number"
            raise ConfigError(f"loss: {loss} {wrong}")

    def answers(self) -> tuple[str, ...]:
        """The number; without one, what fits the first text."""
        return ("score",) if self.score else tuple(f"text_{i}" for i in range(1, len(self.fields)))

    def row(self, record: Record, signals: Mapping[str, Logprobs]) -> Row:
        """The texts in order, and the number."""
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
