"""The bounds of a loop, for `plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from distillgen.flow.bounds import longest
from distillgen.flow.condition import estimate_of
from distillgen.flow.stage import BoundStage, Estimate
from distillgen.prompting.filler import Filler
from distillgen.record import Record
from distillgen.stages._rounds import Repetition

TOTALS = ("requests", "input_tokens", "output_tokens", "max_cost_usd")
MOST_GROWTH = 1_000_000  # records that may come of one; beyond that, a bound tells nobody anything


@dataclass(frozen=True)
class LoopBounds:
    """What bounds a loop."""

    how: Repetition
    n: int
    beginning: Sequence[BoundStage]
    """The stages of the first round."""
    stages: Sequence[BoundStage]
    """The stages of every other round."""
    fields: frozenset[str]
    """The fields of a record at the end of a round."""

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return the bounds of all rounds."""
        if self.how.grows:
            return self._growing(before, samples)
        first, last = (of_a_round(stages, before, samples) for stages in (self.beginning, self.stages))
        totals: dict[str, Any] = {name: getattr(first, name) for name in TOTALS}
        for _ in range(1, self.n) if self.how.carry else ():  # a carried field can be longer in each round
            parts = {name: last.parts[name] for name in self.how.carry if name in last.parts}
            offered = replace(before, made_bytes=last.made_bytes, made_parts={**before.parts, **parts})
            last = of_a_round(self.stages, offered, [*samples, *self._carried(samples, last.made_bytes or 1)])
            totals = {name: _sum(totals[name], getattr(last, name)) for name in TOTALS}
        if not self.how.carry:
            totals = {name: _sum(totals[name], _times(getattr(last, name), self.n - 1)) for name in TOTALS}
        rows = last.rows  # each record is kept once, unless it is offered again
        if rows is not None and (self.how.repeat or last.spared):
            rows *= self.n
        return replace(last, rows=rows, spared=self._spared(before, last.spared), **totals)

    def _spared(self, before: Estimate, of_a_round: int) -> int:
        """Return how many records cause no request: without `repeat`, the loop asks about each record at most
        once.
        """
        if not of_a_round or before.rows is None:
            return 0
        n = self.n
        return of_a_round * n if self.how.repeat else max(0, before.rows - (before.rows - of_a_round) * n)

    def is_bounded(self, samples: Sequence[Record]) -> bool:
        """Return whether the number of records that the rounds are offered has a bound, for any source."""
        if not self.how.grows or self.how.most is not None:
            return True
        rows = self._growing(Estimate(1), samples).rows
        return rows is not None and rows <= MOST_GROWTH

    def _growing(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return the bounds of all rounds, if later rounds are offered what earlier ones kept."""
        offered, stages = before, self.beginning
        rows: int | None = 0
        totals: dict[str, Any] = dict.fromkeys(TOTALS, 0)
        for _ in range(self.n):
            last = of_a_round(stages, offered, samples)
            totals = {name: _sum(totals[name], getattr(last, name)) for name in TOTALS}
            rows = _sum(rows, last.rows)
            most = self._offered_next(before.rows, offered.rows, last.rows)
            offered = replace(offered, rows=most, made_bytes=last.made_bytes, made_parts=last.made_parts)
            samples, stages = [self._grown(record, last.made_bytes or 1) for record in samples], self.stages
        return replace(last, rows=rows, spared=0, **totals)

    def _offered_next(self, pool: int | None, offered: int | None, kept: int | None) -> int | None:
        """Return the most records that the round after one with so many `offered` and `kept` is offered."""
        if offered is None or pool is None:
            return None
        most = None if kept is None else offered + kept if self.how.repeat else max(offered, kept)
        if self.how.most is None:
            return most
        cap = max(self.how.most, pool)
        return cap if most is None else min(most, cap)

    def _carried(self, samples: Sequence[Record], size: int) -> list[Record]:
        """Return the source rows with a carried field, whose value is the longest that a round makes."""
        names = frozenset(self.how.carry)
        return [
            replace(
                record,
                fields={**record.fields, **{name: longest(record.fields[name], size) for name in present}},
            )
            for record in samples
            if (present := names & record.fields.keys())
        ]

    def _grown(self, record: Record, size: int) -> Record:
        """Return a source row whose texts are as long as a text that a round makes in their place."""
        names = set(self.how.carry).union(*(bound.output_names() for bound in self.stages))
        texts = {
            name: longest(value, size)
            for name, value in record.fields.items()
            if name in names
            and (isinstance(value, str) or isinstance(value, list) and name in self.how.carry)
        }
        filler = dict.fromkeys(self.fields, Filler("x" * size))
        return replace(record, fields={**filler, **record.fields, **texts})


def of_a_round(stages: Sequence[BoundStage], before: Estimate, samples: Sequence[Record]) -> Estimate:
    """Return the bounds of one round: its totals, and the rows at its end."""
    totals: dict[str, Any] = dict.fromkeys(TOTALS, 0)
    last, spared = before, 0
    for bound in stages:
        last = estimate_of(bound, last, samples)
        totals = {name: _sum(totals[name], getattr(last, name)) for name in TOTALS}
        spared += last.spared
    return replace(last, spared=spared, **totals)


def _sum(total: Any, value: Any) -> Any:
    return None if total is None or value is None else total + value


def _times(total: Any, number: int) -> Any:
    return None if total is None else total * number
