"""An estimate of the time that a run still takes, by the tokens of its stages.

A row is a poor measure of work: a story takes a hundred times as long as the verdict on it. The work of a
request is therefore counted in tokens of answer. A request costs something whatever its answer is, and a
token that is read costs a small part of one that is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from distillgen.flow.stage import Estimate

REQUEST = 20.0  # the work of a request besides its tokens: about .4 s of an endpoint that writes 50 tokens/s
READ = 1 / 20  # the work of a token that is read
MEMORY_S = 15.0  # the least time over which rates are averaged; it grows with the run


class Requests(NamedTuple):
    """What was asked of one model in one stage."""

    requests: int
    input_tokens: int
    output_tokens: int

    @property
    def work(self) -> float:
        """The work, in tokens of answer."""
        return self.output_tokens + READ * self.input_tokens + REQUEST * self.requests


class StageWork(NamedTuple):
    """The source rows that left a stage, the records that it kept, and what it asked in this session."""

    sources: int
    kept: int
    requests: Mapping[str, Requests]


class TimeLeft:
    """Estimates the time left from readings of a run's stages.

    Models that have begun work side by side, so that the slowest counts; one that has not begun may have to
    wait for the others, so that its time is added.
    """

    def __init__(
        self, total: int | None, plan: Sequence[Estimate], models: Sequence[Sequence[str]], first: int = 0
    ) -> None:
        """Take the number of source rows, the bounds and the models of each stage, and the first stage that
        is run.
        """
        self._total, self._plan, self._models, self._first = total, plan, models, first
        self._asks = any(estimate.requests != 0 for estimate in plan[first:])
        self._base: dict[int, int] = {}
        """The source rows that had left a stage before its first answer: the ledger had theirs."""
        self._done: dict[str, float] = {}
        self._pace: dict[str, tuple[float, float]] = {}
        """Work and seconds of each model up to its last answer; what is long ago counts less."""
        self._waited_s: dict[str, float] = {}
        """Seconds since the last answer of each model."""
        self._started_s = self._read_s = math.nan
        self.share: float | None = None
        """The part of the work that is done."""

    def read(self, now_s: float, stages: Sequence[StageWork], in_flight: Mapping[str, int]) -> float | None:
        """Return the seconds left at a time; None as long as more than half of them would be a guess about
        stages that have no answer yet.
        """
        if math.isnan(self._started_s):
            self._started_s = self._read_s = now_s
        for i, stage in enumerate(stages):
            if not any(part.requests for part in stage.requests.values()):
                self._base[i] = stage.sources
        done = self._work_done(stages)
        self._keep_pace(now_s, done, {name for name, count in in_flight.items() if count})
        if self._total is None or not any(done.values()):
            return None
        left = self._work_left(stages) if self._asks else self._rows_left(stages)
        self.share = sum(done.values()) / max(1e-9, sum(done.values()) + sum(left.values()))
        if not self._is_measured(stages, in_flight):
            return None
        measured = self._work_left(stages, guess=False) if self._asks else left
        counts = _by_model(stages)
        flying = {name: in_flight.get(name, 0) * all_.work / all_.requests for name, all_ in counts.items()}
        left_s, measured_s = self._seconds(left, flying), self._seconds(measured, flying)
        return None if left_s is None or left_s > 2 * (measured_s or 0.0) else left_s

    def _seconds(self, left: Mapping[str, float], in_flight: Mapping[str, float]) -> float | None:
        """Return how long the work of each model takes, None if no rate is known.

        `in_flight` is the work of the requests in flight. It counts as done at the rate so far: a model whose
        answers take minutes is not slower in the meantime.
        """
        rates, rest = dict[str, float](), dict(left)
        for name, (work, seconds) in self._pace.items():
            if work and seconds:
                waited_s = self._waited_s[name]
                underway = min(work / seconds * waited_s, in_flight.get(name, 0.0))
                rates[name] = (work + underway) / (seconds + waited_s)
                rest[name] = max(0.0, left.get(name, 0.0) - underway)
        if not rates:
            return None
        usual = sum(rates.values()) / len(rates)
        beside = max((rest[name] / rate for name, rate in rates.items()), default=0.0)
        return beside + sum(work / usual for name, work in rest.items() if name not in rates)

    def _work_done(self, stages: Sequence[StageWork]) -> dict[str, float]:
        if not self._asks:
            return {str(i): float(stage.sources) for i, stage in enumerate(stages) if i >= self._first}
        return {name: requests.work for name, requests in _by_model(stages).items()}

    def _keep_pace(self, now_s: float, done: Mapping[str, float], busy: set[str]) -> None:
        """Average the rate of each model from the time when it was first asked to its last answer."""
        seconds = now_s - self._read_s
        for name in busy | {name for name, work in done.items() if work}:
            work, seconds_before = self._pace.setdefault(name, (0.0, 0.0))
            waited_s = self._waited_s.get(name, 0.0) + seconds
            if new := done.get(name, 0.0) - self._done.get(name, 0.0):
                memory = math.exp(-waited_s / max(MEMORY_S, (now_s - self._started_s) / 3))
                self._pace[name] = work * memory + new, seconds_before * memory + waited_s
                waited_s = 0.0
            self._waited_s[name] = waited_s
        self._done, self._read_s = dict(done), now_s

    def _is_measured(self, stages: Sequence[StageWork], in_flight: Mapping[str, int]) -> bool:
        """Return whether each model that was asked has answered as many requests as it has at once: the first
        answers of many are the shortest.
        """
        counts = _by_model(stages)
        return all(requests.requests >= in_flight.get(name, 0) for name, requests in counts.items())

    def _rows_left(self, stages: Sequence[StageWork]) -> dict[str, float]:
        """Return the rows that each stage still has to do, for a pipeline that asks no model."""
        total = self._total or 0
        return {
            str(i): max(0.0, float(total - stage.sources))
            for i, stage in enumerate(stages)
            if i >= self._first
        }

    def _work_left(self, stages: Sequence[StageWork], *, guess: bool = True) -> dict[str, float]:
        """Return the work that each model still has, if rows go on as they did. Without `guess`, stages that
        have no answer yet do not count.
        """
        left: dict[str, float] = {}
        for i in range(max(1, self._first), len(self._plan)):
            requests = stages[i].requests
            if not requests and not guess:
                continue
            work = self._requests_left(i, stages) * self._work_of_request(i, stages)
            parts = {name: part.work for name, part in requests.items()} or dict.fromkeys(
                self._models[i], 1.0
            )
            all_parts = sum(parts.values()) or 1.0
            for name, part in parts.items():
                left[name] = left.get(name, 0.0) + work * part / all_parts
        return left

    def _requests_left(self, i: int, stages: Sequence[StageWork]) -> float:
        """Return the number of requests of a stage about the rows that have not left it, less those that are
        answered.
        """
        total, stage, before = self._total or 0, stages[i], stages[i - 1]
        requests = sum(part.requests for part in stage.requests.values())
        arriving = self._plan[i - 1].rows
        arrive = before.kept / before.sources if before.sources else (arriving or total) / max(1, total)
        most, left = self._plan[i].requests, max(0, total - stage.sources)
        fresh = stage.sources - self._base.get(i, 0)
        of_row = requests / fresh if fresh > 0 else math.inf
        of_row = min(of_row, arrive * most / max(1, arriving or 1) if most is not None else of_row)
        if math.isinf(of_row):
            return 0.0
        ahead = max(0.0, requests - of_row * fresh)
        return max(0.0, of_row * left - ahead)

    def _work_of_request(self, i: int, stages: Sequence[StageWork]) -> float:
        """Return the mean work of a request of a stage; before its first answer, a guess: its answers are as
        far below their bound as those of the other stages.
        """
        part = _sum(stages[i].requests.values())
        if part.requests:
            return part.work / part.requests
        sums = [_sum(stage.requests.values()) for stage in stages]
        pairs = [(others, _bound(plan)) for others, plan in zip(sums, self._plan, strict=True)]
        bounded = [(others, bound) for others, bound in pairs if others.requests and bound]
        most = sum(others.requests * bound for others, bound in bounded)
        bound, plan = _bound(self._plan[i]), self._plan[i]
        if not bound or not most:
            total = _sum(sums)
            return total.work / max(1, total.requests)
        output = bound * sum(others.output_tokens for others, _ in bounded) / most
        return output + READ * (plan.input_tokens or 0) / max(1, plan.requests or 1) + REQUEST


def _by_model(stages: Sequence[StageWork]) -> dict[str, Requests]:
    """Return the answered requests of each model that has answered."""
    names = {name for stage in stages for name, part in stage.requests.items() if part.requests}
    return {name: _sum(s.requests[name] for s in stages if name in s.requests) for name in sorted(names)}


def _sum(parts: Iterable[Requests]) -> Requests:
    counts = list(parts)
    return Requests(*(sum(column) for column in zip(*counts, strict=True))) if counts else Requests(0, 0, 0)


def _bound(plan: Estimate) -> float:
    """Return the most tokens of an answer, 0 without a bound."""
    return plan.output_tokens / plan.requests if plan.output_tokens and plan.requests else 0.0
