"""The options of a run, and its state while it goes on."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distillgen.inference.ledger import COUNTS, Ledger
from distillgen.inference.limits import Budget
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import Teacher
from distillgen.pipeline.load import Pipeline
from distillgen.record import Record
from distillgen.stages.generate import FAILURES
from distillgen.teachers.scripted import Script


@dataclass(frozen=True)
class Options:
    """How a run is carried out; none of it changes what an unlimited run gives."""

    limit: int | None = None
    first: str | None = None
    until: str | None = None
    retry_failed: bool = False
    retry_with: Mapping[str, Any] = field(default_factory=dict)
    max_cost_usd: float | None = None
    concurrency: int | None = None
    ledger: Path | None = None
    salvage: bool = False
    scripts: Mapping[str, Script] = field(default_factory=dict)


@dataclass
class StageCount:
    """What has left a stage so far."""

    name: str
    kind: str
    fingerprint: str = ""
    sources: int = 0
    rows: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    complete: bool = False
    measured: dict[str, float] = field(default_factory=dict)
    """The numbers that the finished stage measured, by title."""
    costs: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class Live:
    """A run while it goes on. `ledger_run` is the name of its answers, None where the ledger holds no others; `ledger_seen` the
    newest row of which the stages that stand are known to take notice.
    """

    pipeline: Pipeline
    directory: Path
    ledger: Ledger
    ledger_run: str | None
    ledger_seen: int
    stages: list[StageCount]
    teachers: Mapping[str, Teacher]
    teacher: Callable[[str, Spec], Teacher]
    budget: Budget
    total: int | None
    most_usd: float
    last: int
    stopping: str = ""
    started: float = field(default_factory=time.monotonic)
    notes: dict[str, str] = field(default_factory=dict)
    first_kept: Record | None = None
    first_shown: bool = False
    warnings: list[str] = field(default_factory=list)
    """What run.log warns of, as it comes, for whoever watches."""
    totals_before: dict[str, float] = field(init=False)
    """What the run had asked before this command."""

    def __post_init__(self) -> None:
        """Count what the ledger holds at the start."""
        self.totals_before = self._totals()

    def _totals(self) -> dict[str, float]:
        usage = self.ledger.usage(self.ledger_run)
        return {key: round(sum(getattr(used, key) for used in usage), 6) for key in COUNTS}

    def state(self, word: str) -> dict[str, Any]:
        """What `usage.json` holds."""
        usage = self.ledger.usage(self.ledger_run)
        totals = self._totals()
        dropped = sum((count.dropped for count in self.stages), Counter[str]())
        models: dict[str, dict[str, float]] = {}
        for used in usage:
            total = models.setdefault(used.model, dict.fromkeys(COUNTS, 0))
            total.update({key: total[key] + getattr(used, key) for key in COUNTS})
        return {
            "pipeline": self.pipeline.name,
            "state": word,
            "source_rows": self.total,
            "kept": self.stages[-1].kept,
            "failed": sum(dropped[name] for name in FAILURES),
            "dropped": dict(dropped.most_common()),
            "stages": [
                asdict(count) | {"dropped": dict(count.dropped.most_common())} for count in self.stages
            ],
            "models": models,
            "usage": [used._asdict() for used in usage],
            "totals": totals,
            "from_ledger": sum(teacher.activity.replayed for teacher in self.teachers.values()),
            "asked_now": {key: round(totals[key] - self.totals_before[key], 6) for key in COUNTS},
            "ledger": os.path.relpath(self.ledger.path, self.directory),
            "ledger_seen": self.ledger_seen,
            "seconds": round(time.monotonic() - self.started, 1),
            "updated_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
