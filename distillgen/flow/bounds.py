"""The bounds of what a stage asks, for `plan`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from distillgen.flow.stage import CheckContext, Estimate
from distillgen.record import Record, Unrenderable


def bounds(
    before: Estimate,
    samples: Sequence[Record],
    context: CheckContext,
    asks: Callable[[Record], Sequence[tuple[str, int, int | None]]],
) -> Estimate:
    """Return the most that requests about every row can take.

    `asks` returns, for each request about a record, the model, its bytes (a token has at least one) and the
    most tokens of the answer. A field that an earlier stage makes counts with its greatest length.
    """
    filler = dict.fromkeys(context.fields, "x" * (before.made_bytes or 1))
    each: list[Sequence[tuple[str, int, int | None]]] = []
    for record in samples:
        with suppress(Unrenderable):  # the run drops the row and says why; it asks nothing
            each.append(asks(replace(record, fields={**filler, **record.fields})))
    priced = any(context.models[model].price for some in each for model, _, _ in some)
    if before.rows is None:
        return Estimate(None, None, None, None, None if priced else 0.0, None)
    bounded = all(most is not None for some in each for _, _, most in some)
    written = max((sum(most or 0 for _, _, most in some) for some in each), default=0) * before.rows
    read = sum(size for some in each for _, size, _ in some) / max(1, len(each)) / 4 * before.rows
    costs = [
        sum(context.models[model].most_usd(size, most or 0) for model, size, most in some) for some in each
    ]
    return Estimate(
        before.rows,
        before.rows * max(map(len, each), default=0),
        round(read),
        written if bounded else None,
        before.rows * max(costs, default=0.0)
        if bounded and before.made_bytes is not None or not priced
        else None,
        before.made_bytes,
    )


def size_of(messages: Sequence[Mapping[str, Any]]) -> int:
    """Return the bytes of chat messages, with some for what a chat template adds."""
    return sum(len(str(message["content"]).encode("utf-8", "replace")) + 16 for message in messages)
