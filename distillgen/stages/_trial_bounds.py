"""The bounds of the trials of a search, for `plan`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillgen.flow.condition import estimate_of
from distillgen.flow.stage import BoundStage, Estimate
from distillgen.record import Record, digest
from distillgen.stages._loop_bounds import TOTALS


def of_trials(
    trials: Iterable[Sequence[BoundStage]], most: int, before: Estimate, samples: Sequence[Record]
) -> Estimate:
    """Return the bounds of at most `most` of the trials, and the rows of the largest.

    They are those of the costliest trials. Trials whose stages are equal up to one of them send the same
    requests there, and these count once. Behind a training they do not: it may end a little differently.
    """
    shared = dict[str, Estimate]()
    by_trial, alone = list[list[Estimate]](), list[list[Estimate]]()
    for stages in trials:
        last, key, trained = before, "", False
        by_trial.append([])
        alone.append([])
        for bound in stages:
            key = digest([key, bound.stage.kind, bound.stage.model_dump()])
            last = shared[key] if key in shared else estimate_of(bound, last, samples)
            by_trial[-1].append(last)
            if trained:
                alone[-1].append(last)
            else:
                shared[key] = last
            trained = trained or bool(bound.makes(Path()))
    totals: dict[str, Any] = {}
    for name in TOTALS:
        largest, behind = (_costliest(estimates, name, most) for estimates in (by_trial, alone))
        once = _total(shared.values(), name)
        totals[name] = None if largest is None else min(largest, once + behind)
    rows = [estimates[-1].rows for estimates in by_trial]
    counts = [count for count in rows if count is not None]
    return replace(before, rows=max(counts) if counts and len(counts) == len(rows) else None, **totals)


def of_one_record(stages: Iterable[BoundStage]) -> Iterator[tuple[BoundStage, Estimate]]:
    """Yield each stage with its bounds for one record, whose fields may be of any length."""
    last = Estimate(1)
    for bound in stages:
        last = estimate_of(bound, last, [Record("", {})])
        yield bound, last


def _costliest(trials: Iterable[Iterable[Estimate]], name: str, most: int) -> Any:
    """Return the sum of the largest `most` totals of trials, None if one is not known."""
    totals = [_total(estimates, name) for estimates in trials]
    return None if None in totals else sum(sorted(totals, reverse=True)[:most])


def _total(estimates: Iterable[Estimate], name: str) -> Any:
    numbers = [getattr(estimate, name) for estimate in estimates]
    return None if None in numbers else sum(numbers)
