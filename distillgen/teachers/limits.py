"""What an endpoint and a purse allow: requests and tokens a minute, and money."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from distillgen.errors import BudgetStop


class Rate:
    """So many units a minute, smoothly, with one second's worth of burst. No limit where `per_minute` is None.

    Uses the loop's monotonic clock, so that a jump of the wall clock changes nothing.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._per_s = per_minute / 60 if per_minute else None
        self._burst = max(1.0, self._per_s or 0.0)
        self._level = self._burst
        self._at: float | None = None
        self._turn = asyncio.Lock()

    async def take(self, units: float) -> None:
        """Wait for `units`, in order of arrival; the level may go below zero, so that a large request passes in the end."""
        if self._per_s is None:
            return
        async with self._turn:
            while self._refill(self._per_s) <= 0:
                await asyncio.sleep(max(0.001, -self._level / self._per_s + 1 / self._per_s / 10))
            self._level -= units

    def settle(self, units: float) -> None:
        """Correct an estimate: positive where more was used than taken."""
        if self._per_s is not None:
            self._level -= units

    def _refill(self, per_s: float) -> float:
        now = asyncio.get_running_loop().time()
        if self._at is not None:
            self._level = min(self._burst, self._level + (now - self._at) * per_s)
        self._at = now
        return self._level


@dataclass
class Budget:
    """Money spent and set aside, over all teachers of a run, in US dollars."""

    max_cost_usd: float | None = None
    spent: float = 0.0
    reserved: float = 0.0
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    async def reserve(self, worst_usd: float) -> None:
        """Set the worst case of a request aside before it is sent, waiting while what is in flight may still turn out
        cheaper. Raises BudgetStop where it could exceed the cap.
        """
        while self.max_cost_usd is not None and self.spent + self.reserved + worst_usd > self.max_cost_usd:
            if self.reserved <= 1e-12:
                raise BudgetStop(
                    f"stopped by --max-cost-usd {self.max_cost_usd:g}: ${self.spent:.4f} is spent, "
                    f"and the next request could cost ${worst_usd:.4f}"
                )
            self._settled.clear()
            await self._settled.wait()
        self.reserved += worst_usd

    def settle(self, worst_usd: float, cost_usd: float) -> None:
        """Replace what was set aside by what it did cost."""
        self.reserved -= worst_usd
        self.spent += cost_usd
        self._settled.set()
