"""What the workers of a run have in common while they run: one budget, one count of the work, one stop.

In a cluster it is an actor of its own, which the workers and the command ask.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from distillgen.errors import BudgetStop
from distillgen.inference.ledger import Usage, added
from distillgen.inference.limits import Budget
from distillgen.runs.state import StageCount
from distillgen.text.display import duration, money, name_width, stage_line

MOST_ATTEMPTS = 5  # workers that may die of one shard: the sixth would, too


@dataclass(frozen=True)
class Count:
    """The work of a worker since it started. Costs are in US dollars."""

    answers: int = 0
    from_ledger: int = 0
    """The number of answers that were in the ledger and cost nothing now."""
    failed: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Count) -> Count:
        return Count(
            self.answers + other.answers,
            self.from_ledger + other.from_ledger,
            self.failed + other.failed,
            self.cost_usd + other.cost_usd,
        )


@dataclass(frozen=True)
class Tally:
    """The work of all workers so far, those that died included."""

    finished: int = 0
    """The number of shards that are done."""
    stages: tuple[StageCount, ...] = ()
    """The stages that workers run, with the records of all shards."""
    usage: tuple[Usage, ...] = ()
    """What the workers have used."""
    died: int = 0
    """The number of shards that were begun again because their worker had died."""
    count: Count = field(default_factory=Count)
    warnings: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """The number of source rows whose records have left the last stage of a worker."""
        return self.stages[-1].sources if self.stages else 0


@dataclass(frozen=True)
class ShardProgress:
    """The progress of the workers of a run at one moment."""

    tally: Tally
    shards: int
    workers: int
    total_rows: int | None
    elapsed_s: float
    answers_per_s: float
    stopping: bool

    def __str__(self) -> str:
        """Return one line for a terminal or a log."""
        tally, count = self.tally, self.tally.count
        rows = f"{tally.rows:,}" + (f" of {self.total_rows:,}" if self.total_rows is not None else "")
        parts = [
            f"{tally.finished} of {self.shards} shards",
            f"{rows} rows",
            f"{count.answers:,} answers, {self.answers_per_s:.1f} a second",
            f"{count.from_ledger:,} from the ledger" if count.from_ledger else "",
            f"{count.failed:,} failed" if count.failed else "",
            money(count.cost_usd) if count.cost_usd else "",
            f"{tally.died} begun again, as the worker died" if tally.died else "",
            f"{duration(self.elapsed_s)} elapsed",
            "stopping; waiting for answers that are paid for" if self.stopping else "",
        ]
        return f"{self.workers} workers: {'; '.join(filter(None, parts))}"

    def stage_lines(self) -> Iterator[str]:
        """Give a line for each stage that workers run, as `distillgen status` shows it."""
        wide = name_width(stage.name for stage in self.tally.stages)
        return (stage_line(stage.entry(), self.total_rows, wide) for stage in self.tally.stages)


class Foreman:
    """Reserves money for all workers, adds up what they report, and tells them to stop."""

    def __init__(self, max_cost_usd: float | None, spent_usd: float) -> None:
        self._budget = Budget(max_cost_usd, spent_usd, shared=True)
        self._reserved: defaultdict[int, float] = defaultdict(float)
        self._counts: list[Count] = []
        self._worker_of: dict[int, int] = {}
        self._attempts: Counter[int] = Counter()
        self._stages: dict[int, Sequence[StageCount]] = {}
        self._usage: dict[int, Sequence[Usage]] = {}
        self._finished: set[int] = set()
        self._warnings: dict[str, None] = {}
        self._stopping = False

    async def join(self) -> int:
        """Return the number of a new worker. One that takes the place of a dead one is new."""
        self._counts.append(Count())
        return len(self._counts) - 1

    async def begin(self, worker: int, shard: int) -> bool:
        """Note that a worker begins a shard; return whether it may.

        If another worker had begun it, that one is dead, and what it had reserved may be billed. A shard of
        which MOST_ATTEMPTS workers have died is not begun again.
        """
        if shard in self._worker_of:
            lost = self._reserved.pop(self._worker_of[shard], 0.0)
            self._budget.settle(lost, lost)
        self._worker_of[shard] = worker
        self._attempts[shard] += 1
        return self._attempts[shard] <= MOST_ATTEMPTS

    async def finish(self, shard: int) -> None:
        """Note that the answers of a shard are complete."""
        self._finished.add(shard)

    async def reserve(self, worker: int, worst_usd: float) -> tuple[bool, str]:
        """Reserve the worst case of a request, and return whether it fits now; if it can never fit, also why.

        A request that does not fit now may when others cost less than reserved: ask again later.
        """
        try:
            if not self._budget.take(worst_usd):
                return False, ""
        except BudgetStop as refusal:
            return False, str(refusal)
        self._reserved[worker] += worst_usd
        return True, ""

    async def settle(self, worker: int, worst_usd: float, cost_usd: float) -> None:
        """Replace a reserved worst case by the cost."""
        self._budget.settle(worst_usd, cost_usd)
        self._reserved[worker] -= worst_usd

    async def report(
        self,
        worker: int,
        count: Count,
        usage: Sequence[Usage],
        shard: int,
        stages: Sequence[StageCount],
        warnings: Sequence[str],
    ) -> bool:
        """Take the work of a worker so far, and the stages of its shard; return whether it has to stop."""
        self._counts[worker], self._usage[worker] = count, usage
        self._stages[shard] = stages
        self._warnings.update(dict.fromkeys(warnings))
        return self._stopping

    async def stop(self) -> None:
        """Tell all workers to stop, with their next report."""
        self._stopping = True

    async def tally(self) -> Tally:
        """Return the work of all workers so far."""
        stages = tuple(map(_over_shards, zip(*self._stages.values(), strict=True)))
        usage = tuple(added(chain(*self._usage.values())))
        died = sum(count - 1 for count in self._attempts.values())
        total = sum(self._counts, Count())
        return Tally(len(self._finished), stages, usage, died, total, tuple(self._warnings))


def _over_shards(counts: Sequence[StageCount]) -> StageCount:
    """Return the numbers of records of a stage over all shards. What it measures has no sum."""
    return StageCount(
        counts[0].name,
        counts[0].kind,
        sources=sum(count.sources for count in counts),
        rows=sum(count.rows for count in counts),
        kept=sum(count.kept for count in counts),
        dropped=sum((count.dropped for count in counts), Counter[str]()),
        gathered=sum(count.gathered for count in counts),
    )
