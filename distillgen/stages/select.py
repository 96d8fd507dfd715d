"""select: compare all records and keep some of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.in_thread import in_thread
from distillgen.flow.ordered import splice
from distillgen.flow.stage import CheckContext, Chunks, Estimate, Job
from distillgen.flow.whole_set import Placed, Spool, Vectors, number_of
from distillgen.record import Record, digest, text_of
from distillgen.text.words import words

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

VECTORS, GROUPS, SCORES = (
    ("k_center", "herding", "facility_location", "gradient_matching"),
    ("stratified", "round_robin"),
    ("top", "bottom"),
)


class Select(Placed):
    """Keep the `n` records, the `share` of records or the records within the `budget` that `by` chooses.

    The score `<name>.rank` of a kept record is its place in the order of choice. The stage waits for all
    records and keeps them on disk; memory holds a number or a vector of each.

    `{by: top, score: generate.logprob, share: 0.8}` drops the least likely fifth. The ratio `score:
    conditioned.mean_logprob, over: alone.mean_logprob` is the instruction-following difficulty of Li et
    al. (2023, From Quantity to Quality, section 2.2). The time of `k_center` and `herding` grows with the
    number of all records times the number of chosen records (500 of 20,000: 4 CPU seconds). The time of
    `facility_location` grows with the square of the number of records (70 seconds for 20,000, half an hour
    for 100,000). `gradient_matching` compares gradients of the last layer of a probe that learns the classes
    in `group` from the vectors (Killamsetty et al. 2021, GRAD-MATCH); its time grows with the cube of the
    number of chosen records.
    """

    kind = "select"
    scope = "set"
    reads = (
        "the fields or scores `score`, `over`, `group` and `cost`; the text in `field`, or the numbers "
        "in `vector`"
    )
    writes = "the score `<name>.rank`; drops the records that are not chosen"
    selects = True

    by: Literal[
        "top",
        "bottom",
        "random",
        "k_center",
        "herding",
        "facility_location",
        "gradient_matching",
        "stratified",
        "round_robin",
    ] = Field(
        description="top, bottom: largest or smallest score; random; k_center, herding, "
        "facility_location: by vectors, the most spread out, those with the mean of all, "
        "those nearest to all; gradient_matching: by vectors and classes, those whose "
        "gradients add up to that of all; stratified, round_robin: from each group by its share, or "
        "equally many"
    )
    n: int | None = Field(None, ge=1, description="number of records to keep")
    share: float | None = Field(None, gt=0, lt=1, description="share of the records to keep")
    budget: float | None = Field(
        None, gt=0, description="keep records in the order of choice while their costs add up to at most this"
    )
    cost: str | None = Field(
        None, description="score or field with a record's cost; default: the number of words in its texts"
    )
    score: str | None = Field(
        None, description="score or numeric field; in a group the largest goes first; default: chance"
    )
    over: str | None = Field(None, description="score or numeric field by which `score` is divided")
    group: str | None = Field(
        None,
        description="field or score whose values are the groups, such as cluster.id, or the classes of "
        "gradient_matching",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Select:
        if sum(amount is not None for amount in (self.n, self.share, self.budget)) != 1:
            raise ValueError("give one of 'n', 'share' and 'budget'")
        ranked, grouped, placed = self.by in SCORES, self.by in GROUPS, self.by in VECTORS
        classed = self.by == "gradient_matching"
        if ranked and self.score is None:
            raise ValueError(f"'by: {self.by}' needs 'score'")
        if (grouped or classed) and self.group is None:
            raise ValueError(f"'by: {self.by}' needs 'group'")
        useless = {
            "score": not (ranked or grouped),
            "group": not (grouped or classed),
            "field": not placed,
            "vector": not placed,
        }
        useless |= {"over": self.score is None, "cost": self.budget is None}
        for option, without_use in useless.items():
            if without_use and getattr(self, option) is not None:
                raise ValueError(f"'{option}' has no use with 'by: {self.by}'")
        return self

    def uses_seed(self) -> bool:
        """Return whether chance has a part in the order of the records."""
        return self.by in ("random", "facility_location") or self.score is None and self.by not in VECTORS

    def scores(self) -> list[str]:
        """Return the name of the rank."""
        return [f"{self.name}.rank"]

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if a field or a package is missing. The run checks scores."""
        if self.by in VECTORS:
            self.check_vectors(context)
        return context.fields

    def estimate(self, before: Estimate, samples: Sequence[Record], context: CheckContext) -> Estimate:
        """Return the number of kept rows; for a budget, the number of all rows."""
        rows = before.rows
        if rows is not None:
            rows = min(rows, self.n or rows) if self.share is None else round(rows * self.share)
        return Estimate(rows, made_bytes=before.made_bytes)

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Gather all records, choose, and yield them."""
        live = _LiveRecords(Vectors(self, job))
        with Spool(job) as spool:
            async for chunk in chunks:
                chunk = splice(chunk, ([self._usable(r)] for r in chunk if not r.dropped))
                if self.by in VECTORS:
                    chunk = await live.vectors.add(chunk)
                spool.add(chunk)
                for record in chunk:
                    live.names.update((*record.scores, *record.fields))
                    if not record.dropped:
                        live.values.append(self._value(record) or 0.0)
                        live.groups.append(_group(record, self.group) if self.group else "")
                        live.costs.append(self._cost(record) or 0.0)
            if live.names and not live.values:
                self._refuse_unknown(live.names)
            ranks = await in_thread(self._ranks, live, job.context.seed) if live.values else {}
            numbers = count()
            for chunk in spool.chunks():
                yield [
                    r if r.dropped else self._settled(r, ranks.get(next(numbers)), len(ranks)) for r in chunk
                ]

    def _usable(self, record: Record) -> Record:
        """Return the record; drop it if it has no score or no cost."""
        for name, missing in (
            ("score", self.score and self._value(record) is None),
            ("cost", self._cost(record) is None),
        ):
            if missing:
                number_name = (
                    "/".join(filter(None, (self.score, self.over))) if name == "score" else self.cost
                )
                return record.drop(self.name, self.by, f"has no number '{number_name}'")
        return record

    def _value(self, record: Record) -> float | None:
        value = number_of(record, self.score) if self.score else None
        if value is None or self.over is None:
            return value
        over = number_of(record, self.over)
        return value / over if over else None

    def _cost(self, record: Record) -> float | None:
        if self.budget is None:
            return 0.0
        if self.cost:
            return number_of(record, self.cost)
        return float(sum(len(words(value)) for value in record.fields.values() if isinstance(value, str)))

    def _refuse_unknown(self, names: Iterable[str]) -> None:
        for name in filter(None, (self.score, self.over, self.cost)):
            if name not in names:
                message = f"stage '{self.name}': no record has '{name}'{did_you_mean(name, names)}"
                raise ConfigError(f"{message}; they have: {', '.join(sorted(names))}")

    def _ranks(self, live: _LiveRecords, seed: int) -> dict[int, int]:
        """Return the rank of each chosen record, from 1."""
        total = len(live.values)
        size = min(total, self.n or round(total * (self.share or 1)))
        if self.budget is not None:  # an approximation
            size = min(total, round(self.budget * total / max(1, sum(live.costs))))
        order = self._order(live, size, random.Random(digest([seed, self.name])))
        chosen = islice(order, size) if self.budget is None else _affordable(order, live.costs, self.budget)
        return {i: rank for rank, i in enumerate(chosen, 1)}

    def _order(self, live: _LiveRecords, size: int, chance: random.Random) -> Iterator[int]:
        shuffled = chance.sample(range(len(live.values)), len(live.values))
        if self.by == "random":
            return iter(shuffled)
        if self.by in VECTORS:
            from distillgen.algorithms.selection import facility_location, herding, k_center

            vectors = live.vectors.all()
            if self.by == "gradient_matching":
                return self._matching(vectors, live.groups)
            if self.by == "facility_location":
                return facility_location(vectors, size, seed=chance.getrandbits(32))
            return (herding if self.by == "herding" else k_center)(vectors)
        sign = 1 if self.by == "bottom" else -1
        ranked = (
            sorted(range(len(live.values)), key=lambda i: sign * live.values[i]) if self.score else shuffled
        )
        if self.by in SCORES:
            return iter(ranked)
        from distillgen.algorithms.selection import in_turn

        groups: dict[str, list[int]] = {group: [] for group in live.groups}
        for i in ranked:
            groups[live.groups[i]].append(i)
        return in_turn(list(groups.values()), proportional=self.by == "stratified")

    def _matching(self, vectors: Array, groups: Sequence[str]) -> Iterator[int]:
        from distillgen.algorithms.gradient_matching import gradient_matching

        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        if len(numbers) < 2:
            raise ConfigError(f"stage '{self.name}': '{self.group}' has one value; classes need two or more")
        return gradient_matching(vectors, [numbers[group] for group in groups])

    def _settled(self, record: Record, rank: int | None, count: int) -> Record:
        if rank is not None:
            return record.scored({f"{self.name}.rank": rank})
        return record.drop(self.name, self.by, f"not among the {count:,} selected by {self.by}")


@dataclass
class _LiveRecords:
    """The numbers, groups and vectors of the live records, in order, and the names of all fields."""

    vectors: Vectors
    values: list[float] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    names: set[str] = field(default_factory=set)


def _group(record: Record, name: str) -> str:
    return text_of(record.scores.get(name, record.fields.get(name)))


def _affordable(order: Iterator[int], costs: Sequence[float], budget: float) -> Iterator[int]:
    """Yield items until their costs exceed the budget."""
    for i in order:
        budget -= costs[i]
        if budget < 0:
            return
        yield i
