"""Teachers by name: where their words come from, and what they said of a record, as columns of its row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distillgen.inference.logprobs import Signal, distribution
from distillgen.record import Record, text_of
from distillgen.training.part import Signal as SignalKind
from distillgen.training.rows import Row, Unusable

LEAST = 1e-13  # the probability of a class that a teacher excludes
KINDS = ("names", "logprobs", "vector")  # the columns of a recorded teacher
RECORD = (
    "give all a body that reads files, such as {pretrained: owner/name}, or record what the teacher says in "
    "a stage generate with logprobs"
)
COLUMNS_OF: Mapping[SignalKind, Sequence[str]] = {
    "classes": ("names", "logprobs"),
    "vector": ("vector",),
    "number": ("vector",),
    "tokens": ("tokens",),  # no column of a recorded teacher
    "layers": ("layers",),  # nor this
    "projections": ("projections",),  # nor this
}
NOUNS: Mapping[SignalKind, str] = {
    "classes": "no classes",
    "vector": "no vector",
    "number": "no number",
    "tokens": "no tokens",
    "layers": "no layers",
    "projections": "no queries, keys and values",
}


class Source(BaseModel):
    """Where the words of a teacher come from. Give one of the first four."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str | None = Field(None, description="a stage whose answers or vectors were recorded")
    field: str | None = Field(
        None, description="a field: {class: probability}, a class, a list of classes (votes), or a vector"
    )
    model: str | None = Field(None, description="an earlier student, asked in the training; it is frozen")
    peer: dict[str, Any] | None = Field(None, description="a network that is trained along, as a student")
    head: str | None = Field(None, description="the head of a network; default: its first")
    inputs: list[str] | None = Field(
        None, description="fields that the network reads; default: those of its training"
    )
    reads: list[SignalKind] = Field(
        default_factory=list,
        description="what is read of a stage or field; default: what the losses and weights need",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.stage, self.field, self.model, self.peer)) != 1:
            raise ValueError("a teacher is one of {stage: …}, {field: …}, {model: …} and {peer: …}")
        return self


def words(record: Record, signals: Mapping[str, Signal], source: Source) -> Row:
    """Return what is read of a recorded teacher, in the same columns for every record. Raises Unusable."""
    if source.field is not None:
        number = "number" in source.reads
        columns = of_field(record.fields.get(source.field), source.field, number=number)
    else:
        columns = of_signal(signals.get(str(source.stage), Signal()), str(source.stage))
    for kind in source.reads:
        if COLUMNS_OF[kind][0] not in columns:
            raise Unusable(f"'{source.field or source.stage}' gives {NOUNS[kind]}")
    return {name: columns[name] for kind in source.reads for name in COLUMNS_OF[kind]}


def of_signal(signal: Signal, name: str) -> Row:
    """Return what a stage recorded: its answer's distribution over classes, its embedding, or both.

    The classes are the stripped texts of the alternatives of a one-token answer. An answer of several tokens
    is one outcome, with the product of their probabilities. Raises Unusable if nothing was recorded.
    """
    row: Row = {}
    if shares := distribution(signal.text, signal.logprobs):
        row = _columns(shares)
    if signal.embedding:
        row["vector"] = [float(number) for number in signal.embedding]
    if not row:
        raise Unusable(f"stage '{name}' recorded no log-probabilities and no embedding of it")
    return row


def of_field(value: Any, name: str, *, number: bool = False) -> Row:
    """Return what a field says: {class: probability}, a class, a list of classes (votes), or a vector.

    With `number`, a number is a vector of one. Raises Unusable for anything else.
    """
    if number:
        if not _is_number(value):
            raise Unusable(f"'{name}' holds no number")
        return {"vector": [float(value)]}
    if isinstance(value, dict) and value and all(_is_number(share) for share in value.values()):
        if min(value.values()) < 0 or not 0 < sum(value.values()) < 1.01:
            raise Unusable(f"the probabilities in '{name}' do not sum to 1")
        return _columns({text_of(outcome): share for outcome, share in value.items()})
    if isinstance(value, list) and value and all(_is_number(number) for number in value):
        return {"vector": [float(number) for number in value]}
    votes = value if isinstance(value, list) else [value]
    if not votes or not all(isinstance(vote, str | int | bool) for vote in votes):
        raise Unusable(f"'{name}' holds no class, no probabilities, no votes and no vector")
    counts = Counter(text_of(vote).strip() for vote in votes)
    return _columns({outcome: count / len(votes) for outcome, count in counts.items()})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _columns(shares: Mapping[str, float]) -> Row:
    return {"names": [*shares], "logprobs": [math.log(max(share, LEAST)) for share in shares.values()]}
