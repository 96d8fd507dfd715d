"""The rows of a training: their parts, and the choice of those that fit the student."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from distillgen.errors import ConfigError
from distillgen.record import TEST, TRAIN, VALIDATION

Row: TypeAlias = dict[str, Any]
"""The data that one record teaches. All rows of a training have the same columns."""

PARTS = {TRAIN: "train", VALIDATION: "validation", TEST: "held_out"}
"""The parts of a training's rows, by the part of the data that they come from."""


class Unusable(Exception):
    """A record teaches nothing; the message says why."""


class Assessment(NamedTuple):
    """An objective's verdict on one row."""

    left_out: str = ""
    """Why the row is left out; empty if it is used."""
    note: str = ""
    """A reason under which a row that is used is counted, such as that its end is cut off."""


def fit(prompt: int, total: int, max_length: int) -> Assessment:
    """Assess a row by its tokens: the prompt's, and all. A completion may be cut, a prompt may not."""
    if total <= prompt:
        return Assessment("nothing to learn: no token after the prompt")
    if prompt >= max_length:
        return Assessment(f"the prompt alone has max_length ({max_length}) tokens or more")
    return cut(total, max_length)


def cut(length: int, max_length: int) -> Assessment:
    """Use every row, and count those that are cut at `max_length` tokens."""
    return Assessment(note=f"cut at max_length ({max_length}) tokens" if length > max_length else "")


def uncut(length: int, max_length: int) -> Assessment:
    """Leave out a row of more than `max_length` tokens."""
    return Assessment(f"longer than max_length ({max_length}) tokens" if length > max_length else "")


@dataclass(frozen=True)
class RowSelection:
    """Rows by part, and how many rows were cut or left out, by the reason."""

    parts: Mapping[str, Any]
    """A `datasets.Dataset` for each of PARTS that has rows."""
    counts: Mapping[str, int] = field(default_factory=dict)

    def select(self, assess: Callable[[Row], Assessment]) -> RowSelection:
        """Return the rows that `assess` does not leave out, and count the others.

        Trainers would drop them silently.

        Raises ConfigError if no row is left to train on.
        """
        counts, parts = Counter(self.counts), {}
        for name, rows in self.parts.items():
            assessments = [assess(row) for row in rows]
            counts.update(row.note for row in assessments if row.note)
            counts.update(f"left out: {row.left_out}" for row in assessments if row.left_out)
            parts[name] = rows.select([i for i, row in enumerate(assessments) if not row.left_out])
        if not len(parts["train"]):
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items())
            raise ConfigError(f"no row is left to train on: {reasons}")
        return RowSelection({name: rows for name, rows in parts.items() if len(rows)}, counts)

    def map(self, rewrite: Callable[..., Row], **options: Any) -> RowSelection:
        """Return the rows that `rewrite` makes of these, with its columns only."""
        parts = {
            name: rows.map(rewrite, fn_kwargs=options, remove_columns=rows.column_names)
            for name, rows in self.parts.items()
        }
        return RowSelection(parts, self.counts)
