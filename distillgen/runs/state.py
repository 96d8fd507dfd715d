"""The options of a run, and its state while it runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distillgen.flow.stage import Estimate
from distillgen.inference.ledger import COUNTS, Ledger, Usage, added
from distillgen.inference.limits import Budget
from distillgen.inference.places import Place, written_beside
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import Teacher
from distillgen.pipeline.load import Pipeline
from distillgen.record import Record
from distillgen.stages._asking import FAILURES
from distillgen.teachers.scripted import Script


@dataclass(frozen=True)
class Options:
    """The options of a run. None of them changes what a run without a limit gives."""

    limit: int | None = None
    """Read only so many source rows."""
    first: str | None = None
    """Start at this stage, on the stored records of the stage before it."""
    until: str | None = None
    """Stop after this stage."""
    retry_failed: bool = False
    """Ask again for answers that failed or were cut off, refused or malformed."""
    retry_with: Mapping[str, Any] = field(default_factory=dict)
    """Sampling options for `retry_failed`."""
    max_cost_usd: float | None = None
    """Stop before the run, earlier sessions included, could cost more."""
    cap_of: Path | None = None
    """The directory whose runs `max_cost_usd` limits together; default: the run's own directory."""
    concurrency: int | None = None
    """Most requests in flight per model."""
    ledger: Place | None = None
    """The file or the database that answers are kept in."""
    verbose: bool = False
    """Show the lines of run.log to the user, too."""
    report_to: Sequence[str] = ()
    """Trackers that get the figures of the run: trackio, wandb, mlflow."""
    salvage: bool = False
    """Go on with the readable answers of a damaged ledger."""
    scripts: Mapping[str, Script] = field(default_factory=dict)
    """Python functions that answer in the place of models, by the model's name."""


@dataclass
class StageCount:
    """The number of records that have left a stage so far."""

    name: str
    kind: str
    fingerprint: str = ""
    sources: int = 0
    rows: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    gathered: int = 0
    """The number of records that were gathered into others."""
    complete: bool = False
    measured: dict[str, float] = field(default_factory=dict)
    """The numbers that the finished stage measured, by title."""
    costs: dict[str, dict[str, float]] = field(default_factory=dict)

    def entry(self) -> dict[str, Any]:
        """Return the entry of the stage in `usage.json`."""
        return asdict(self) | {"dropped": dict(self.dropped.most_common())}


def outcome_of(error: Exception | None) -> str:
    """Return the state of a run that is over, by the error that ended it."""
    outcomes = {4: "stopped by budget", 130: "interrupted"}
    return outcomes.get(getattr(error, "exit_code", 1), "failed") if error else "finished"


@dataclass
class Live:
    """The state of a run while it runs."""

    pipeline: Pipeline
    directory: Path
    ledger: Ledger
    ledger_run: str | None
    """The run's name in the ledger; None if the ledger holds no other runs."""
    ledger_seen: int
    """The newest row of the ledger that the stored stages took into account."""
    stages: list[StageCount]
    teachers: Mapping[str, Teacher]
    teacher: Callable[[str, Spec], Teacher]
    budget: Budget
    total: int | None
    """The number of source rows; None if it is unknown."""
    plan: Sequence[Estimate]
    """The bounds of each stage."""
    first: int
    """The index of the first stage that is run; stored records stand for those before."""
    last: int
    """The index of the last stage that is run."""
    error: Exception | None = None
    """The error that stopped the run."""
    stopping: str = ""
    """Why the run is stopping."""
    stop: Callable[[], None] = field(default=lambda: None)
    """Stops a run in a thread, from any thread; called again, gives up its requests in flight."""
    started: float = field(default_factory=time.monotonic)
    notes: dict[str, str] = field(default_factory=dict)
    """What a stage that takes long is doing, by the stage's name."""
    first_kept: Record | None = None
    warnings: list[str] = field(default_factory=list)
    """The warnings so far."""
    usage_before: list[Usage] = field(default_factory=list)
    """The usage of earlier sessions."""

    @property
    def most_usd(self) -> float | None:
        """The highest cost by the plan; None if a stage has no bound."""
        costs = [estimate.max_cost_usd for estimate in self.plan]
        return None if None in costs else sum(cost or 0.0 for cost in costs)

    def state(self, outcome: str, more: Sequence[Usage] = ()) -> dict[str, Any]:
        """Return the content of `usage.json`. `more` is the usage of other processes since the start."""
        usage = added([*self.ledger.usage(self.ledger_run), *more])
        totals, before = _totals(usage), _totals(self.usage_before)
        dropped = sum((count.dropped for count in self.stages), Counter[str]())
        models: dict[str, dict[str, float]] = {}
        for use in usage:
            total = models.setdefault(use.model, dict.fromkeys(COUNTS, 0))
            total.update({key: total[key] + getattr(use, key) for key in COUNTS})
        return {
            "pipeline": self.pipeline.name,
            "state": outcome,
            "source_rows": self.total,
            "kept": self.stages[-1].kept,
            "failed": sum(dropped[name] for name in FAILURES),
            "dropped": dict(dropped.most_common()),
            "stages": [count.entry() for count in self.stages],
            "models": models,
            "usage": [use._asdict() for use in usage],
            "totals": totals,
            "from_ledger": sum(teacher.activity.replayed for teacher in self.teachers.values()),
            "asked_now": {key: round(totals[key] - before[key], 6) for key in COUNTS},
            "ledger": written_beside(self.directory, self.ledger.place),
            "ledger_seen": self.ledger_seen,
            "seconds": round(time.monotonic() - self.started, 1),
            "updated_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }


def _totals(usage: Sequence[Usage]) -> dict[str, float]:
    return {key: round(sum(getattr(use, key) for use in usage), 6) for key in COUNTS}
