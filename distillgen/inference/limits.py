"""Limits: requests in flight, requests and tokens per minute, and money."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from distillgen.errors import BudgetStop

ENOUGH = 4  # rows that have left a stage before their mean cost is used
FIRST = 32  # requests in flight at first, if no limit is given


class Slots:
    """A limit of requests in flight: `take` a slot and `give` it back. Urgent requests go first, then earlier
    ones.

    Without a given limit, the limit adapts: it doubles while answers come faster, and is tried again now and
    then. If the endpoint is overloaded, the limit falls once a second by twice the share of overloaded
    answers, at most by half, and rises with every round of answers (additive increase, multiplicative
    decrease). It is at least 1.
    """

    def __init__(self, most: int | None) -> None:
        self.most, self.limit = most, float(most or FIRST)
        self._busy = self._arrived = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._round = self._rounds = 0
        self._outcomes = self._refusals = 0
        self._trial = True
        self._best = self._begun = self._cut = 0.0

    async def take(self, urgency: int = 0) -> None:
        """Wait for a slot."""
        if self._busy < int(self.limit) and not self._waiting:
            self._busy += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrived += 1
        heappush(self._waiting, (-urgency, self._arrived, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()
            raise

    def give(self) -> None:
        """Give a slot back; the next request takes it."""
        self._busy -= 1
        while self._waiting and self._busy < int(self.limit):
            _, _, turn = heappop(self._waiting)
            if not turn.done():
                self._busy += 1
                turn.set_result(None)

    def note(self, now: float, *, overloaded: bool = False) -> None:
        """Count an answer, and adapt the limit. `now` is monotonic, in seconds."""
        self._round += not overloaded
        self._outcomes += 1
        self._refusals += overloaded
        if overloaded and now - self._cut >= 1:
            self.limit = max(1.0, self.limit * max(0.5, 1 - 2 * self._refusals / self._outcomes))
            self._cut, self._outcomes, self._refusals = now, 0, 0
        if self._round < self.limit:
            return
        rate = self._round / max(now - self._begun, 1e-9)
        self._round, self._begun, self._rounds = 0, now, self._rounds + 1
        if not self._waiting:
            return  # no request waits: the limit has no effect
        if self._cut:
            self.limit = min(self.limit * 33 / 32 + 1, self.most or self.limit * 2)
        elif self.most is None and self._trial and rate < 1.1 * self._best:
            self.limit, self._trial = self.limit / 2, False
        elif self.most is None and (self._trial or self._rounds % 16 == 0):
            self.limit, self._trial, self._best = self.limit * 2, True, rate


class Rate:
    """A limit of units per minute, spread evenly, with a burst of one second. It uses the loop's monotonic
    clock.
    """

    def __init__(self, per_minute: float) -> None:
        self._per_s = per_minute / 60
        self._burst = self._level = max(1.0, self._per_s)
        self._at: float | None = None
        self._turn = asyncio.Lock()

    async def take(self, units: float) -> None:
        """Wait for `units`, in order of arrival. The level may go below zero, so that a large request is not
        blocked.
        """
        async with self._turn:
            while self._refilled() <= 0:
                await asyncio.sleep(max(0.001, (0.1 - self._level) / self._per_s))
            self._level -= units

    def settle(self, units: float) -> None:
        """Correct an estimate: `units` is positive if more was used than taken."""
        self._level -= units

    def _refilled(self) -> float:
        now = asyncio.get_running_loop().time()
        self._level = min(self._burst, self._level + (now - (self._at or now)) * self._per_s)
        self._at = now
        return self._level


@dataclass
class Outlook:
    """The expected costs of a run, by stage: `worst` is the most that a source row can cost (None if
    unknown), `finished` returns the number of rows that have left each stage, `paid` the cost of each stage
    so far.
    """

    worst: Sequence[float | None]
    total: int | None
    finished: Callable[[], Sequence[int]]
    paid: Callable[[], Sequence[float]]

    def likely(self) -> list[float | None]:
        """Return the cost of a row in each stage: the mean if enough rows have left the stage, else the worst
        case.
        """
        pairs = zip(self.paid(), self.finished(), self.worst, strict=True)
        return [paid / count if count >= ENOUGH else worst for paid, count, worst in pairs]

    def rest(self, costs: Sequence[float | None], rows: int, stages: int) -> float:
        """Return the cost of `rows` rows in the first `stages` stages; an unknown cost counts as 0."""
        counts = zip(costs[:stages], self.finished(), strict=False)
        return sum((cost or 0.0) * max(0, rows - count) for cost, count in counts)

    def affords(self, money_usd: float, rows: int, stages: int) -> bool:
        """Return whether the money is enough for `rows` rows in the first `stages` stages.

        It is, if it covers the worst case, or the costs so far continued and the worst case of one request.
        """
        worst = self.worst[:stages]
        if None not in worst and money_usd >= self.rest(worst, rows, stages):
            return True
        room = max((cost or 0.0 for cost in worst), default=0.0)
        return self.measured(stages) and money_usd >= self.rest(self.likely(), rows, stages) + room

    def measured(self, stages: int) -> bool:
        """Return whether enough rows have left the stages for a mean cost."""
        return min(self.finished()[:stages], default=0) >= ENOUGH

    def text(self, spent_usd: float) -> str:
        """Return a clause about the cap with which the run would finish, or ""."""
        if self.total is None or None in self.worst:
            return ""
        stages = len(self.worst)
        likely = spent_usd + self.rest(self.likely(), self.total, stages)
        most = math.ceil((spent_usd + self.rest(self.worst, self.total, stages)) * 1e4) / 1e4
        finished = min(self.finished(), default=0)
        return (
            f"; {finished:,} of {self.total:,} rows are finished, all take about ${likely:.4f}, "
            f"and --max-cost-usd {most:g} is enough in any case"
        )


@dataclass
class Budget:
    """Money that all teachers of a run have spent and reserved, in US dollars."""

    max_cost_usd: float | None = None
    spent: float = 0.0
    reserved: float = 0.0
    outlook: Outlook | None = None
    shared: bool = False
    """Whether further runs follow under the same cap, so that no cap can be named that is enough."""
    paced: bool = True
    """Whether a row begins only when the money is enough to finish it."""
    promised: dict[bytes, float] = field(default_factory=dict)
    """What the answers may cost that earlier processes left to come, by ledger key: a part of `spent`."""
    promised_usd: float = field(init=False)
    """Their sum."""
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Sum up what is promised, once: each record that begins asks for the sum."""
        self.promised_usd = sum(self.promised.values())

    @property
    def left_usd(self) -> float:
        """Return the money for rows: what is not spent, and what is promised to their requests."""
        return (self.max_cost_usd or 0.0) - self.spent + self.promised_usd

    def take_promised(self, keys: Sequence[bytes]) -> float:
        """Return what the promised answers to these keys may cost: it is no longer spent, but reserved."""
        usd = sum(self.promised.pop(key, 0.0) for key in keys) if self.promised else 0.0
        if usd:
            self.promised_usd -= usd
            self.settle(-usd, -usd)
        return usd

    async def reserve(self, worst_usd: float) -> None:
        """Reserve the worst case of a request before it is sent. If it does not fit, wait for requests in
        flight, which may cost less than reserved. Raise BudgetStop if it can exceed the cap.
        """
        while not self.take(worst_usd):
            self._settled.clear()
            await self._settled.wait()

    def take(self, worst_usd: float) -> bool:
        """Reserve the worst case of a request, if it fits now; return whether it did. Raise BudgetStop if it
        does not fit and nothing is reserved that may cost less.
        """
        if self.max_cost_usd is not None and self.spent + self.reserved + worst_usd > self.max_cost_usd:
            if self.reserved <= 1e-12:
                raise self.stop(f"the next request could cost ${worst_usd:.4f}")
            return False
        self.reserved += worst_usd
        return True

    def stop(self, why: str) -> BudgetStop:
        """Return the error that ends the run; it names the cap with which the run would finish."""
        more = self.outlook.text(self.spent) if self.outlook and not self.shared else ""
        state = f"${self.spent:.4f} is spent"
        if self.promised:
            state = (
                f"${self.spent - self.promised_usd:.4f} is spent, answers that an earlier run left at the "
                f"endpoint may cost ${self.promised_usd:.4f}"
                " (its own prompts get them)"
            )
        return BudgetStop(f"stopped by --max-cost-usd {self.max_cost_usd:g}: {state}, and {why}{more}")

    def settle(self, worst_usd: float, cost_usd: float) -> None:
        """Replace a reserved worst case by the cost."""
        self.reserved -= worst_usd
        self.spent += cost_usd
        self._settled.set()
