"""search: which choices of options serve best; the stages of a list are tried with one after the other.

A trial is a pure function of the records, the choices, the stages and the ledger. A finished trial runs again
only if one of these changes. An interrupted one starts again: the ledger answers the requests that it had
sent, and a training goes on from its last checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import need
from distillgen.flow.bounds import check_cap
from distillgen.flow.stage import CHUNK, BoundStage, CheckContext, Chunks, Estimate, Job
from distillgen.flow.whole_set import Spool
from distillgen.inference.spec import Spec
from distillgen.networks.body import Body
from distillgen.plugins import find
from distillgen.record import Record, dumps
from distillgen.stages._earlier_students import body_of, earlier_students
from distillgen.stages._loop_bounds import TOTALS
from distillgen.stages._proposals import OF_OPTUNA, Choices, combinations, each_alone, size_of
from distillgen.stages._rounds import records_of
from distillgen.stages._search_money import SearchMoney
from distillgen.stages._search_options import USD, SearchOptions
from distillgen.stages._trial_bounds import of_one_record, of_trials
from distillgen.stages._trials import BEST, Trials, first_network
from distillgen.training.score import Score

MOST_PLANNED = 256  # combinations, each of which `plan` looks at


class Search(SearchOptions):
    """Try a list of stages with other options, and keep what the best choice gives.

    A trial is one combination of the choices in `space`. It gets the records that reach the stage, and its
    value is the measure `by` of its stages, named as in the report, such as `evaluate.student.exact`. With a
    score, such as `diswot`, nothing is trained before the choice is made. The records of the best trial
    leave the stage, and later stages ask its student.

    An arm is a search behind this one, and gets the records that this one leaves.

    A search never sees what it is judged by: inside it, `evaluate` asks about validation records, or about a
    file. A trial that fails says why, and the search goes on. `trials.jsonl` holds a row for each trial.
    """

    kind = "search"
    scope = "set"
    remakes = True
    reads = "the records that reach it, as its stages do"
    writes = (
        "what its stages write; the folder `<name>/` with `trials.jsonl`, `search.json` and a folder a trial"
    )
    fetches = True

    def bind(self, context: CheckContext) -> BoundSearch:
        """Bind the stages with each choice; raise ConfigError if a choice does not fit."""
        self._check_strategy()
        scores = self._scores(context)
        variants = []
        for choices in each_alone(self.space):
            try:
                variants.append(variant := self.variant(context, choices))
                _check_scored(variant, scores)
            except ConfigError as error:
                raise ConfigError(f"with {_text_of(choices)}: {error.message}") from error
        first = variants[0]
        self._check_by(first)
        if USD in self.within:
            for stages in variants:
                check_cap(f"within: {{usd: {self.within[USD]:g}}}", of_one_record(stages))
        student_names = {frozenset(self._models_by_name(stages, Path())) for stages in variants}
        if len(student_names) > 1:
            raise ConfigError("space: the choices make students of different names; name the stages alike")
        fields = frozenset.intersection(*(stages[-1].fields for stages in variants))
        inner_models = frozenset().union(*student_names)
        bounds = [bound for stages in variants for bound in stages]
        models = dict.fromkeys(name for b in bounds for name in b.models if name not in inner_models)
        files = {name: path for bound in bounds for name, path in bound.all_files.items()}
        for entry in self.entries():
            files |= find("scores", entry.score, context.project).files
        return BoundSearch(
            self,
            context,
            fields if self.keep else context.fields,
            list(models),
            files,
            stages=first,
            scores_of_trials=scores,
        )

    def _check_strategy(self) -> None:
        if self.strategy in OF_OPTUNA:
            need(f"strategy: {self.strategy}", "optuna")
        if self.strategy == "all" and (size := size_of(self.space)) > self.n:
            raise ConfigError(
                f"strategy: all tries {size} combinations, and n is {self.n}; give n: {size}, or "
                "strategy: tpe"
            )

    def _scores(self, context: CheckContext) -> dict[str, Score]:
        """Return the scores by label."""
        scores = {}
        for entry in self.entries():
            scores[entry.label] = score = entry.of(context.project)
            for name in score.models():
                if name not in context.trained:
                    near = did_you_mean(name, context.trained)
                    raise ConfigError(f"score '{entry.label}': no earlier stage trains '{name}'{near}")
                _check_random(entry.label, body_of(name, earlier_students(context), context.project))
        return scores

    def _check_by(self, stages: Sequence[BoundStage]) -> None:
        """Raise ConfigError if the measure cannot be there."""
        names = [bound.name for bound in stages]
        if self.measure and self.measure.partition(".")[0] not in names:
            near = did_you_mean(self.measure.partition(".")[0], names)
            raise ConfigError(f"by: '{self.measure}' begins with the name of no stage of the search{near}")
        if self.measure.endswith("held-out loss"):
            remedy = "choose by an evaluate with split: validation"
            raise ConfigError(f"by: '{self.measure}' is measured on test records; {remedy}")

    def _models_by_name(self, stages: Sequence[BoundStage], folder: Path) -> dict[str, Spec]:
        models = {name: spec for bound in stages for name, spec in bound.makes(folder).items()}
        return {f"{name}{self.suffix}": spec for name, spec in models.items()}


def _check_scored(stages: Sequence[BoundStage], scores: Iterable[str]) -> None:
    """Raise ConfigError if scores cannot be computed of the student that the first training begins with."""
    network = first_network(stages)
    for label in scores:
        if network is None:
            raise ConfigError(
                f"score '{label}' is of networks: the first training needs a student such as {{mlp: [64]}}, "
                "inputs and label"
            )
        _check_random(label, network[0].module_of(stages[0].context.project))


def _check_random(label: str, body: Body) -> None:
    """Raise ConfigError for a score of a body that does not begin with random weights."""
    if body.reads == "files":
        raise ConfigError(
            f"score '{label}' is of networks with random weights, and this student begins with learnt ones; "
            "choose by a measure of an evaluate"
        )


@dataclass(frozen=True)
class BoundSearch(BoundStage):
    """The search with the stages of its first trial."""

    stage: Search
    stages: tuple[BoundStage, ...] = field(kw_only=True)
    scores_of_trials: Mapping[str, Score] = field(kw_only=True)

    def uses_seed(self) -> bool:
        """Return whether the strategy or a stage does."""
        return self.stage.strategy != "all" or any(bound.uses_seed() for bound in self.stages)

    def names(self) -> list[str]:
        """Return the names of the search and of its stages, which records that these dropped carry."""
        return [self.name, *map(self._outside, self.inner_names())]

    def inner_names(self) -> list[str]:
        """Return the names of the stages of a trial, by which the ledger counts their money."""
        return [name for bound in self.stages for name in bound.names()]

    def _outside(self, name: str) -> str:
        """Return how a stage of the search is called outside: two searches may have stages of one name."""
        return f"{self.name}.{name}"

    def _leaving(self, record: Record, inside: Container[str]) -> Record:
        drop = record.dropped
        if drop is None or drop.stage not in inside:
            return record
        return replace(record, dropped=replace(drop, stage=self._outside(drop.stage)))

    def output_names(self) -> frozenset[str]:
        """Return the fields that its stages write."""
        return super().output_names().union(*(bound.output_names() for bound in self.stages))

    def scores(self) -> set[str]:
        """Return the names of the scores of its stages."""
        return {name for bound in self.stages for name in bound.scores()} if self.stage.keep else set()

    def makes(self, directory: Path) -> Mapping[str, Spec]:
        """Return the models that the best trial leaves."""
        if not self.stage.keep:
            return {}
        return self.stage._models_by_name(self.stages, directory / self.name / BEST)

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return the bounds of all trials, and of their money the cap.

        Of more than `MOST_PLANNED` combinations, a search that asks models has no bound but the cap.
        """
        stage = self.stage
        planned = size_of(stage.space) <= MOST_PLANNED
        trials = []
        for choices in combinations(stage.space) if planned else each_alone(stage.space):
            with suppress(ConfigError):  # its trial fails, and says why
                trials.append(stage.variant(self.context, choices))
        most = stage.n if stage.measure else stage.keep
        bounds = of_trials(trials, most, before, samples)
        if not planned:
            totals: dict[str, Any] = {name: 0 if getattr(bounds, name) == 0 else None for name in TOTALS}
            bounds = replace(bounds, **totals)
        cost, cap = bounds.max_cost_usd, stage.within.get(USD)
        if cap is not None and (cost is None or cost > cap):
            bounds = replace(bounds, max_cost_usd=cap)
        return bounds if stage.keep else replace(bounds, rows=before.rows)

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Carry out the trials that have not ended; then yield the records of the best."""
        with Spool(job) as pool:
            sha = hashlib.sha256()
            async for chunk in chunks:
                pool.add(chunk)
                sha.update(dumps([[record.id, record.dropped is None] for record in chunk]))
            money = SearchMoney(self.stage.within.get(USD), self.inner_names(), job.services)
            scores, sha256 = self.scores_of_trials, sha.hexdigest()
            trials = Trials(self.stage, self.context, scores, money, pool, sha256, job)
            best = await trials.carry_out()
            for chunk in pool.chunks():
                if out := [record for record in chunk if record.dropped or not self.stage.keep]:
                    yield out
            if self.stage.keep:
                inside = self.inner_names()
                leaving = (self._leaving(record, inside) for record in records_of(best))
                while out := [record for _, record in zip(range(CHUNK), leaving, strict=False)]:
                    yield out


def _text_of(choices: Choices) -> str:
    return ", ".join(f"{path}: {dumps(value).decode()}" for path, value in choices.items())
