"""The bounds of a stage's requests, for `plan`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from distillgen.flow.stage import CheckContext, Estimate
from distillgen.inference.parts import with_parts, without_file
from distillgen.inference.spec import Spec
from distillgen.record import Record, Scores, Unrenderable, dumps


class AnyScore(Scores):
    """Has every score, with the longest text of a number."""

    def __missing__(self, name: str) -> Any:
        """Return a number whose text is as long as any."""
        return -1.2345678901234567e-300


PARTS = 1_000  # the most parts of a list that a plan counts


class Filler(str):
    """A text in the place of a field that a stage makes, as long as the field can be.

    A template that reads the parts of a list or mapping can be rendered with it: a part that it names is the
    whole text, and a loop takes the text apart. One that calculates with a number can, too: the result is the
    whole text, and a comparison with a number holds.
    """

    __slots__ = ()

    def _itself(self, *operands: Any) -> Filler:
        return self

    __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _itself
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __abs__ = _itself
    __round__ = _itself

    def _holds(self, other: Any) -> bool:
        return True

    __lt__ = __le__ = __gt__ = __ge__ = _holds

    def __getitem__(self, part: Any) -> Any:
        return Filler(super().__getitem__(part)) if isinstance(part, slice) else self

    def __add__(self, other: Any) -> Filler:
        return Filler(super().__add__(other)) if isinstance(other, str) else self

    def __iter__(self) -> Iterator[Filler]:
        size = -(-len(self) // PARTS)
        return (
            Filler(super(Filler, self).__getitem__(slice(i, i + size))) for i in range(0, len(self), size)
        )


def full_record(record: Record, context: CheckContext, made_bytes: int | None) -> Record:
    """Return a source row with all fields before a stage. A text that a stage writes is as long as can be."""
    filler = Filler("x" * (made_bytes or 1))
    fields = {**dict.fromkeys(context.fields, filler), **record.fields}
    for name in context.output_names & record.fields.keys():
        text = record.fields[name]
        if isinstance(text, str) and len(text.encode("utf-8", "replace")) < len(filler):
            fields[name] = filler
    return replace(record, fields=fields, scores=AnyScore())


class Ask(NamedTuple):
    """The bounds of one request."""

    model: str
    size: int
    """The bytes of the prompt: a token has at least one."""
    most: int | None
    """The most tokens of the answer; None without a bound."""
    schema: Any = None
    """The JSON Schema of the answer."""
    text: bool = True
    """Whether it asks for a text. An embedding or a score goes through no batch API."""
    parts: Sequence[Mapping[str, Any]] = ()
    """The pictures and sounds of the prompt."""

    def cost_usd(self, models: Mapping[str, Spec]) -> float:
        """Return the most that the request can cost."""
        spec = models[self.model] if self.text else models[self.model].asked_online
        schema = self.schema if "json_schema" in spec.capabilities else None
        added = 0 if schema is None else len(dumps(schema)) + spec.added_tokens(tools=False, schema=True)
        return spec.most_usd(self.size + added + spec.tokens_of(self.parts), self.most or 0)


def bounds(
    before: Estimate,
    samples: Sequence[Record],
    context: CheckContext,
    asks: Callable[[Record], Sequence[Ask]],
) -> Estimate:
    """Return the most that requests about every row can take.

    `asks` returns the requests about a record. A field that an earlier stage makes counts with its greatest
    length.
    """
    requests_by_record: list[Sequence[Ask]] = []
    for record in samples:
        with suppress(Unrenderable):  # the run drops the row and says why; it asks nothing
            requests_by_record.append(asks(full_record(record, context, before.made_bytes)))
    priced = any(context.models[ask.model].price for requests in requests_by_record for ask in requests)
    if before.rows is None:
        return Estimate(None, None, None, None, None if priced else 0.0, None)
    bounded = all(ask.most is not None for requests in requests_by_record for ask in requests)
    output_tokens = (
        max((sum(ask.most or 0 for ask in requests) for requests in requests_by_record), default=0)
        * before.rows
    )
    read = (
        sum(ask.size for requests in requests_by_record for ask in requests)
        / max(1, len(requests_by_record))
        / 4
        * before.rows
    )
    costs = [sum(ask.cost_usd(context.models) for ask in requests) for requests in requests_by_record]
    return Estimate(
        before.rows,
        before.rows * max(map(len, requests_by_record), default=0),
        round(read),
        output_tokens if bounded else None,
        before.rows * max(costs, default=0.0)
        if bounded and before.made_bytes is not None or not priced
        else None,
        before.made_bytes,
    )


def size_of(messages: Sequence[Mapping[str, Any]]) -> int:
    """Return the bytes of chat messages, and 16 for the chat template around each."""
    return sum(
        len(str(message["content"]).encode("utf-8", "replace")) + 16
        for message in with_parts(messages, without_file)
    )
