"""predict: the rank of each record by a number that it lacks, learnt from records of other groups."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TypeAlias

from pydantic import Field

from distillgen.algorithms.surrogate import predictions, ranks_by_group
from distillgen.extras import need
from distillgen.flow.in_thread import in_thread
from distillgen.flow.measures import measures_of
from distillgen.flow.stage import CheckContext, Chunks, Job, Stage
from distillgen.flow.whole_set import Spool, number_of
from distillgen.record import Record

Row: TypeAlias = dict[str, float | str]


class Predict(Stage):
    """Predict how good each record is among those of its group, from the records of all other groups.

    A record is a trial: its group is the data set, its fields `from` are the choices that were made and what
    is known of the data set, and `of` is how good it was, null if that is not known. A forest of scikit-learn
    learns the rank of each record in its group, from 0 to 1. No record is predicted by one of its own group,
    so that the first `n` of a group by the score `<name>.value` are what would have been recommended for it.

    Of the groups with known numbers, it measures the mean rank of the `n` records with the highest
    prediction; a choice at random has 0.5. The stage waits for all records, on disk.
    """

    kind = "predict"
    scope = "set"
    reads = "the fields or scores `of` and `from`; the field `group`"
    writes = (
        "the scores `<name>.value`, the predicted rank, and `<name>.rank`, the true one where it is known; "
        "drops records without a number or a word in a field `from`"
    )

    of: str = Field(description="field or score with the number to predict; null where it is not known")
    from_: list[str] = Field(
        alias="from", min_length=1, description="fields and scores that predict: numbers, or words"
    )
    group: str = Field(description="field whose records are predicted from those with other values of it")
    n: int = Field(3, ge=1, description="records of a group whose mean rank is measured")

    def uses_seed(self) -> bool:
        """Return True: the forest is drawn by the pipeline's seed."""
        return True

    def scores(self) -> list[str]:
        """Return the names of both ranks."""
        return [f"{self.name}.value", f"{self.name}.rank"]

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if a field or scikit-learn is missing."""
        context.need(self.group, "'group'")
        context.need_number(self.of, "'of'")
        for name in self.from_:
            context.need_number(name, "'from'")
        need("it", "sklearn")
        return context.fields

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Gather all records, predict, and yield them."""
        rows, qualities, groups = list[Row](), list[float | None](), list[str]()
        with Spool(job) as spool:
            async for chunk in chunks:
                chunk = [self._placed(record, rows) for record in chunk]
                spool.add(chunk)
                live = [record for record in chunk if not record.dropped]
                qualities += [number_of(record, self.of) for record in live]
                groups += [record.text(self.group) for record in live]
            values = await in_thread(predictions, rows, qualities, groups, seed=job.context.seed)
            true = ranks_by_group(qualities, groups)
            job.services.measures.update(measures_of(self._measured(values, true, groups)))
            pairs = iter(zip(values, true, strict=True))
            for chunk in spool.chunks():
                yield [record if record.dropped else self._scored(record, *next(pairs)) for record in chunk]

    def _placed(self, record: Record, rows: list[Row]) -> Record:
        """Add what predicts a live record to the rows. Return the record, or drop it if some is missing."""
        if record.dropped:
            return record
        row: Row = {}
        for name in self.from_:
            value = number_of(record, name)
            word = record.fields.get(name)
            if value is None and not isinstance(word, str | bool):
                return record.drop(self.name, "lacking", f"'{name}' holds neither a number nor a word")
            row[name] = str(word) if value is None else value
        rows.append(row)
        return record

    def _scored(self, record: Record, value: float | None, rank: float | None) -> Record:
        scores = {f"{self.name}.value": value, f"{self.name}.rank": rank}
        return record.scored({name: number for name, number in scores.items() if number is not None})

    def _measured(
        self, values: Sequence[float | None], true: Sequence[float | None], groups: Sequence[str]
    ) -> dict[str, float]:
        """Return the mean true rank of the best `n` of each group, over the groups with known numbers."""
        pairs: dict[str, list[tuple[float, float]]] = {}
        for value, rank, group in zip(values, true, groups, strict=True):
            if value is not None and rank is not None:
                pairs.setdefault(group, []).append((value, rank))
        best = [sorted(trials, key=lambda pair: -pair[0])[: self.n] for trials in pairs.values()]
        means = [fmean(rank for _, rank in trials) for trials in best]
        return {"mean_rank_of_best": fmean(means), "groups": len(means)} if means else {}
