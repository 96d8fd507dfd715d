"""The bounds of a stage's requests, for `plan`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from distillgen.errors import ConfigError
from distillgen.flow.stage import BoundStage, CheckContext, Estimate
from distillgen.inference.endpoint import endpoint_class
from distillgen.inference.parts import with_parts, without_file
from distillgen.inference.spec import Spec
from distillgen.prompting.filler import ONE, Filler, Parts, parts_of
from distillgen.record import Record, Scores, Unrenderable, dumps


class AnyScore(Scores):
    """Has every score, with the longest text of a number."""

    def __missing__(self, name: str) -> Any:
        """Return a number whose text is as long as any."""
        return -1.2345678901234567e-300


def full_record(record: Record, context: CheckContext, before: Estimate) -> Record:
    """Return a source row with all fields before a stage. A text that a stage writes is as long as can be,
    and a field that it makes has as many pictures as can be.
    """
    size = before.made_bytes or 1
    filler = Filler("x" * size)
    fields = {**dict.fromkeys(context.fields, filler), **record.fields}
    for name in context.output_names & record.fields.keys():
        text = record.fields[name]
        if isinstance(text, str) and len(text.encode("utf-8", "replace")) < len(filler):
            fields[name] = filler
    for name, parts in before.parts.items():
        value = fields.get(name)
        if isinstance(value, Filler) or parts - parts_of(value):
            fields[name] = longest(value, size, parts | parts_of(value))
    return replace(record, fields=fields, scores=AnyScore())


def longest(value: Any, size: int, parts: Parts = ONE) -> Filler:
    """Return a text in the place of a field's value, of this size or that of the value, whichever is more."""
    text = value if isinstance(value, str) else dumps(value).decode()
    return Filler(text + "x" * (size - len(text.encode("utf-8", "replace"))), parts)


def most_parts(names: Iterable[str], before: Estimate, samples: Sequence[Record]) -> Parts:
    """Return the most pictures and sounds that some fields of a record have together."""
    chosen, most = [*names], Parts()
    for record in samples or [Record("", {})]:
        values = (parts_of(record.fields.get(name)) | before.parts.get(name, Parts()) for name in chosen)
        most |= sum(values, Parts())
    return most


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
            requests_by_record.append(asks(full_record(record, context, before)))
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


def check_cap(cap: str, bounds: Iterable[tuple[BoundStage, Estimate]]) -> None:
    """Raise ConfigError if the cap cannot hold: a model without a price, or an unbounded answer."""
    for bound, estimate in bounds:
        specs = {name: bound.context.models[name] for name in bound.models if name in bound.context.models}
        project = bound.context.project
        paid = [name for name, spec in specs.items() if endpoint_class(spec.provider, project).paid]
        for name in paid:
            if specs[name].price is None:
                remedy = "add price: {input: …, output: …}, US dollars for a million tokens"
                raise ConfigError(f"{cap}: model '{name}' has no price; {remedy}")
        if paid and estimate.output_tokens is None:
            remedy = "set it in the prompt's sampling, the model or the stage"
            mistake = f"stage '{bound.name}' has no max_tokens, so that an answer has no bound"
            raise ConfigError(f"{cap}: {mistake}; {remedy}")


def size_of(messages: Sequence[Mapping[str, Any]]) -> int:
    """Return the bytes of chat messages, and 16 for the chat template around each."""
    return sum(
        len(str(message["content"]).encode("utf-8", "replace")) + 16
        for message in with_parts(messages, without_file)
    )
