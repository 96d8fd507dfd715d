"""The money of a search: what its stages have spent, and what they may still spend."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from distillgen.errors import BudgetStop, DistillgenError
from distillgen.flow.stage import WorkerServices


class MoneyShort(DistillgenError):
    """The money of the search does not reach for the next request."""


class SearchMoney:
    """The money that the stages of these names spend; `most_usd` is the search's own cap."""

    def __init__(self, most_usd: float | None, stages: Collection[str], services: WorkerServices) -> None:
        self._most_usd, self._stages, self._ledger = most_usd, stages, services.ledger
        shared = next((teacher.services for teacher in services.teachers.values()), None)
        self._budget = shared.budget if shared else None
        self._run = shared.run if shared else None

    def spending_usd(self) -> float:
        """Return the money that the stages have spent in this run, in all its resumes."""
        usages = self._ledger.usage(self._run)
        return sum(usage.cost_usd for usage in usages if usage.stage.partition("/")[0] in self._stages)

    def left_usd(self) -> float | None:
        """Return the money that the search may still spend; None if only the run has a cap."""
        return None if self._most_usd is None else max(0.0, self._most_usd - self.spending_usd())

    @contextmanager
    def capped(self) -> Iterator[None]:
        """Lower the run's cap to what is left for the search. Raise MoneyShort where that does not reach."""
        left, budget = self.left_usd(), self._budget
        if left is None or budget is None:
            yield
            return
        before, cap = budget.max_cost_usd, budget.spent + left
        budget.max_cost_usd = cap if before is None else min(before, cap)
        try:
            yield
        except BudgetStop as stop:
            if before is not None and before <= cap:
                raise
            raise MoneyShort(
                f"usd: {self._most_usd:g} may be spent, and the next request could exceed it"
            ) from stop
        finally:
            budget.max_cost_usd = before
