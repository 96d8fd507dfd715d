"""What a run would still ask, at most and likely, and how long that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distillgen.flow.stage import Estimate
from distillgen.inference.ledger import Ledger
from distillgen.inference.limits import FIRST
from distillgen.inference.places import Place, is_there, resolved
from distillgen.pipeline.load import Done, Pipeline
from distillgen.runs.resume import done, ledger_place, stored_state
from distillgen.runs.state import Options
from distillgen.runs.time_left import Requests
from distillgen.runs.unanswered import remaining


@dataclass(frozen=True)
class Likely:
    """What a stage is likely to ask: a guess from earlier answers."""

    requests: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


@dataclass(frozen=True)
class StageForesight:
    """What a stage still asks."""

    bound: Estimate
    """The most that it can ask, less what is done."""
    done: float
    """The share of its work that is done, or in the ledger."""
    met: float | None
    """The share of the records so far for which its condition held, if it has one."""
    likely: Likely | None
    """None without earlier answers of the stage."""


@dataclass(frozen=True)
class Foresight:
    """What a run still asks by its stages, and how long that is likely to take."""

    stages: tuple[StageForesight, ...]
    seconds: float | None
    """None without the pace of an earlier run or preview."""


def foresee(
    pipeline: Pipeline, directory: Path, limit: int | None = None, ledger: Place | None = None
) -> Foresight:
    """Return what a run in `directory` would still ask; with another `ledger` than that of the run there, it
    asks for what this one lacks. Nothing is asked, and nothing is written.
    """
    all_bounds = [estimate for _, estimate in pipeline.plan(limit)]
    usual = ledger_place(pipeline, directory, Options())
    ledger = ledger or usual
    finished = done(pipeline, directory, limit) if resolved(ledger) == resolved(usual) else []
    bounds = [estimate for _, estimate in pipeline.plan(limit, finished)]
    for i, rest in enumerate(remaining(pipeline, ledger, all_bounds, limit)):
        if rest.requests is not None and rest.requests < (bounds[i].requests or 0):
            bounds[i] = replace(rest, rows=bounds[i].rows)
    guesses = likely(pipeline, directory, ledger, bounds)
    stages = list[StageForesight]()
    for i, (bound, most, guess) in enumerate(zip(bounds, all_bounds, guesses, strict=True)):
        part = finished[i] if i < len(finished) else Done(0.0, None)
        share = 1 - bound.requests / most.requests if most.requests and bound.requests is not None else 0.0
        stages.append(StageForesight(bound, max(part.share, share), part.met, guess))
    return Foresight(tuple(stages), seconds(pipeline, directory, guesses))


def likely(
    pipeline: Pipeline, directory: Path, ledger: Place, plan: Sequence[Estimate]
) -> list[Likely | None]:
    """Return what each stage is likely to ask within the bounds in `plan`; None without earlier answers.

    It goes by the mean answer of the stage's models in the ledger, and by the records that reached it before.
    """
    answers = Ledger(ledger, read_only=True) if is_there(ledger) else None
    usage = answers.usage() if answers else []
    if answers:
        answers.close_now()
    arrival = _arrival(directory, plan)
    guesses: list[Likely | None] = []
    for i, (bound, estimate) in enumerate(zip(pipeline.bound_stages, plan, strict=True)):
        if estimate.requests == 0:
            guesses.append(Likely(0, 0, 0, 0.0))
            continue
        uses = [u for u in usage if u.stage.partition("/")[0] == bound.name and u.model in bound.models]
        requests = sum(u.requests for u in uses)
        if not requests or estimate.requests is None:
            guesses.append(None)
            continue
        count = estimate.requests * arrival[i]
        asks_text = bound.stage.asks_text
        cost_usd = sum(
            (spec if asks_text else spec.asked_online).cost_usd(
                u.input_tokens, u.cached_tokens, u.output_tokens, u.cache_write_tokens
            )
            for u in uses
            if (spec := pipeline.models.get(u.model)) and spec.price  # a student of the run has none
        )
        guesses.append(
            Likely(
                round(count),
                round(sum(u.input_tokens for u in uses) * count / requests),
                round(sum(u.output_tokens for u in uses) * count / requests),
                cost_usd * count / requests,
            )
        )
    return guesses


def _arrival(directory: Path, plan: Sequence[Estimate]) -> list[float]:
    """Return, for each stage, the share of the records that the plan expects which arrived in the run or in
    its preview; 1 where nothing is known.
    """
    states = map(stored_state, _places(directory))
    stages: Sequence[Mapping[str, Any]] = next((state["stages"] for state in states if state["stages"]), ())
    shares = [1.0] * len(plan)
    for i, (stage, estimate) in enumerate(zip(stages, plan, strict=False)):
        expected = (estimate.rows or 0) / (plan[0].rows or 1)
        if stage["sources"] and expected and i + 1 < len(plan):
            shares[i + 1] = min(1.0, stage["kept"] / stage["sources"] / expected)
    return shares


def seconds(pipeline: Pipeline, directory: Path, guesses: Sequence[Likely | None]) -> float | None:
    """Return how long the likely requests take at the pace of the run or of its preview; None without one.

    A pace with fewer requests than the models take at once is raised to what they take.
    """
    if any(guess is None for guess in guesses):
        return None
    stages = [guess for guess in guesses if guess]
    names = ("requests", "input_tokens", "output_tokens")
    total = Requests(*(sum(getattr(guess, name) for guess in stages) for name in names))
    if not total.requests:
        return 0.0
    names_of_models = {
        name for bound in pipeline.bound_stages for name in bound.models if name in pipeline.models
    }
    at_once = min((pipeline.models[name].max_concurrency or FIRST for name in names_of_models), default=FIRST)
    slowest_s = max(
        (60 * total.requests / rpm for name in names_of_models if (rpm := pipeline.models[name].rpm)),
        default=0.0,
    )
    for place in _places(directory):
        state = stored_state(place)
        now = state.get("asked_now", {})
        if now.get("requests"):
            work = Requests(now["requests"], now["input_tokens"], now["output_tokens"]).work
            wider = min(at_once, total.requests) / min(at_once, now["requests"])
            return float(max(slowest_s, state["seconds"] * total.work / work / max(1.0, wider)))
    return None


def _places(directory: Path) -> list[Path]:
    """Return the directories whose runs tell of the pipeline: the run, then its preview."""
    return [directory, directory / "preview"]
