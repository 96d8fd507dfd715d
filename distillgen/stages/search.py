"""search: which choices of options serve best; the stages of a list are tried with one after the other.

A trial is a pure function of the records, the choices, the stages and the ledger. A finished trial runs again
only if one of these changes. An interrupted one starts again: the ledger answers the requests that it had
sent, and a training goes on from its last checkpoint.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from distillgen.algorithms.rank_correlation import kendall_tau
from distillgen.errors import BudgetStop, ConfigError, DistillgenError, Stopped, did_you_mean
from distillgen.extras import need
from distillgen.flow.bounds import check_cap
from distillgen.flow.measures import Measure, by_title
from distillgen.flow.stage import CHUNK, BoundStage, CheckContext, Chunks, Estimate, Job, Stage, flat
from distillgen.flow.stage_list import bind_stages, read_stages
from distillgen.flow.whole_set import Spool
from distillgen.inference.limits import Budget
from distillgen.inference.spec import Spec
from distillgen.located_yaml import Places
from distillgen.networks.spec import NetworkSpec
from distillgen.plugins import find
from distillgen.project import file_sha256
from distillgen.record import TRAIN, VALIDATION, Record, digest, dumps
from distillgen.stages._loop_bounds import TOTALS
from distillgen.stages._one_round import Round
from distillgen.stages._proposals import (
    OF_OPTUNA,
    Choices,
    Proposals,
    Strategy,
    combinations,
    each_alone,
    size_of,
)
from distillgen.stages._rounds import finished_round, records_of
from distillgen.stages._trial_bounds import of_one_record, of_trials
from distillgen.stages._trials import Trial, ended_trial, with_choices
from distillgen.training.options import TrainingOptions
from distillgen.training.score import Score, ScoreEntry, entry_of

BEST = "best"  # the link to the folder of the best trial
USD = "usd"
MOST_PLANNED = 256  # combinations, each of which `plan` looks at


class _MoneyShort(DistillgenError):
    """The money of the search does not reach for the next request."""


class Search(Stage):
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

    stages: list[dict[str, Any]] = Field(
        min_length=1, description="stages of a trial, as in a pipeline, without a source"
    )
    space: dict[str, list[Any]] = Field(
        min_length=1,
        description="choices by option: {train.learning_rate: [0.001, 0.003]}; the path begins with the name "
        "of a stage, and in a list goes on with a position or the name of an entry",
    )
    by: str | dict[str, dict[str, Any] | None] = Field(
        description="measure that decides, such as evaluate.student.exact, or a score of untrained students: "
        "a file in scores/, with its options if need be"
    )
    best: Literal["highest", "lowest"] = Field("highest", description="the value that is the best")
    within: dict[str, float] = Field(
        {},
        description="most that a trial may have of a score, as {parameters: 20000}; usd: most money of all "
        "trials together",
    )
    compare: list[str | dict[str, dict[str, Any] | None]] = Field(
        [], description="further scores that are recorded with each trial, for comparison"
    )
    strategy: Strategy = Field(
        "all",
        description="how choices are proposed: all combinations; at random; or by optuna: tpe, "
        "tree-structured Parzen estimators, or evolution, the genetic algorithm NSGA-II",
    )
    n: int = Field(64, ge=1, description="largest number of trials")
    keep: Literal[0, 1] = Field(1, description="1: the best trial's records and student; 0: only its figures")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the strategy, and of scores")
    arms: dict[str, dict[str, Any]] = Field(
        {},
        exclude=True,  # an arm is a stage of its inner_names
        description="further searches by name, each with the options in which it differs from this one",
    )

    @field_validator("space")
    @classmethod
    def _with_choices(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for path, choices in value.items():
            if len(choices) < 1 or len({dumps(choice) for choice in choices}) < len(choices):
                raise ValueError(f"space: '{path}' needs choices that differ")
        return value

    @property
    def suffix(self) -> str:
        """How the names of what the search leaves end: in nothing, or in `-` and the stage's name."""
        return "" if self.name == self.kind else f"-{self.name.removeprefix(f'{self.kind}-')}"

    @property
    def measure(self) -> str:
        """The measure that decides; "" if a score does."""
        return self.by if isinstance(self.by, str) and "." in self.by else ""

    def entries(self) -> list[ScoreEntry]:
        """Return the scores that each trial has: the one that decides first, then those of `within`."""
        deciding = [] if self.measure else [self.by]
        entries = [entry_of(value) for value in [*deciding, *self.compare]]
        labels = [entry.label for entry in entries]
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise ConfigError(f"two scores have the name '{twice}'; name one of them: {{name: …}}")
        return entries + [entry_of(name) for name in self.within if name != USD and name not in labels]

    def bind(self, context: CheckContext) -> BoundSearch:
        """Bind the stages with each choice; raise ConfigError if a choice does not fit."""
        self._check_strategy()
        scores = self._scores(context)
        variants = []
        for choices in each_alone(self.space):
            try:
                variants.append(self.variant(context, choices))
            except ConfigError as error:
                raise ConfigError(f"with {_text_of(choices)}: {error.message}") from error
        first = variants[0]
        self._check_by(first, scores)
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

    def variant(self, context: CheckContext, choices: Choices) -> tuple[BoundStage, ...]:
        """Return the stages with choices, bound. Raise ConfigError if they do not fit."""
        stages = with_choices(self.stages, choices)
        inner_names = {
            name
            for stage in read_stages(stages, Places(), context.project)
            for name in stage.makes(Path(), context.project)
        }
        outer_models = {name: spec for name, spec in context.models.items() if name not in inner_names}
        inside = replace(
            context,
            models=outer_models,
            trained=context.trained - inner_names,
            loops=(*context.loops, context),
        )
        bound_stages = bind_stages(stages, Places(), inside, loop=self.name)
        for bound in flat(bound_stages):
            items = bound.stage.evaluation_set(context.project)
            if items and items.file is None and items.part != VALIDATION and not items.about_training:
                raise ConfigError(
                    f"stage '{bound.name}' asks about test records, and the search would choose by them; "
                    "give it split: validation, or 'data', a file of other items"
                )
        return bound_stages

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
        return scores

    def _check_by(self, stages: Sequence[BoundStage], scores: Mapping[str, Score]) -> None:
        """Raise ConfigError if the measure cannot be there, or if the scores have no network."""
        names = [bound.name for bound in stages]
        if self.measure and self.measure.partition(".")[0] not in names:
            near = did_you_mean(self.measure.partition(".")[0], names)
            raise ConfigError(f"by: '{self.measure}' begins with the name of no stage of the search{near}")
        if self.measure.endswith("held-out loss"):
            remedy = "choose by an evaluate with split: validation"
            raise ConfigError(f"by: '{self.measure}' is measured on test records; {remedy}")
        if scores and _student_of(stages) is None:
            raise ConfigError(
                f"score '{next(iter(scores))}' is of networks: the first training needs a student such as "
                "{mlp: [64]}, inputs and label"
            )

    def _models_by_name(self, stages: Sequence[BoundStage], folder: Path) -> dict[str, Spec]:
        models = {name: spec for bound in stages for name, spec in bound.makes(folder).items()}
        return {f"{name}{self.suffix}": spec for name, spec in models.items()}


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
            trials = Trials(self, pool, sha.hexdigest(), job)
            best = await trials.carry_out()
            for chunk in pool.chunks():
                if out := [record for record in chunk if record.dropped or not self.stage.keep]:
                    yield out
            if self.stage.keep:
                inside = self.inner_names()
                leaving = (self._leaving(record, inside) for record in records_of(best))
                while out := [record for _, record in zip(range(CHUNK), leaving, strict=False)]:
                    yield out


class Trials:
    """The trials of a search, as they are carried out."""

    def __init__(self, bound: BoundSearch, pool: Spool, sha256: str, job: Job) -> None:
        self._bound, self._stage, self._pool, self._sha256, self._job = bound, bound.stage, pool, sha256, job
        self._folder = job.context.directory / bound.name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._ended: list[Trial] = []
        self._rows: list[Record] | None = None
        self._lowest = bound.stage.best == "lowest"

    async def carry_out(self) -> Path:
        """Carry out all trials, and the best of those that a score ranks. Return the folder of the best."""
        stage, job = self._stage, self._job
        proposals = Proposals(stage.space, stage.strategy, stage.n, stage.seed, self._lowest)
        for number, choices in enumerate(proposals):
            job.services.notes[self._bound.name] = f"trial {number}"  # as in trials.jsonl
            trial = await self._trial(number, choices)
            proposals.tell(choices, trial.value)
            self._ended.append(trial)
            self._write_rows()
        job.services.notes.pop(self._bound.name, None)
        finished = [trial for trial in self._ended if trial.value is not None]
        if not finished:
            first = next((trial for trial in self._ended if trial.status == "failed"), self._ended[0])
            raise ConfigError(f"stage '{self._bound.name}': no trial has a value: {first.reason}")
        best = (min if self._lowest else max)(finished, key=lambda trial: float(trial.value or 0.0))
        folder = self._place(best.choices)
        if stage.keep and not stage.measure:
            await self._train(folder, self._variant(best.choices))
        self._conclude(best, folder, finished)
        return folder

    def _variant(self, choices: Choices) -> tuple[BoundStage, ...]:
        return self._stage.variant(self._bound.context, choices)

    def _place(self, choices: Choices) -> Path:
        return self._folder / digest(choices, 12)

    async def _trial(self, number: int, choices: Choices) -> Trial:
        """Return the trial of a combination: the one that has ended, or a new one."""
        folder = self._place(choices)
        try:
            stages = self._variant(choices)
        except ConfigError as error:
            return Trial(number, choices, "failed", error.message)
        state = digest([self._state(stages), self._chosen_by()])
        before = ended_trial(folder, state)
        again = self._job.context.retry_failed and before is not None and before.status != "finished"
        if before and not again and not (before.status == "skipped" and self._money_left() != 0.0):
            return replace(before, trial=number)
        start, before_usd, trial = time.monotonic(), self._spending(), Trial(number, choices)
        try:
            await self._judge(trial, stages, folder)
        except _MoneyShort as short:
            trial.status, trial.reason = "skipped", str(short)
        except Stopped:
            raise
        except DistillgenError as error:
            trial.status, trial.reason = "failed", str(error)
        trial.usd = self._spending() - before_usd
        trial.seconds = round(time.monotonic() - start, 3)
        trial.write(folder, state)
        return trial

    async def _judge(self, trial: Trial, stages: Sequence[BoundStage], folder: Path) -> None:
        """Give a trial its scores, and its value unless it is too large. Raise DistillgenError."""
        if self._bound.scores_of_trials:
            trial.scores = await asyncio.to_thread(self._scores, stages)
        for name, most in self._stage.within.items():
            if name != USD and trial.scores[name] > most:
                trial.status, trial.reason = "skipped", f"{name} {trial.scores[name]:g} > {most:g}"
                return
        if not self._stage.measure:
            trial.value = trial.scores[self._stage.entries()[0].label]
            return
        if self._money_left() == 0.0:
            trial.status, trial.reason = "skipped", f"usd: {self._stage.within[USD]:g} are spent"
            return
        measures = await self._train(folder, stages)
        of_test = ("held-out loss", "before")  # a search does not look at test records
        trial.measures = {
            title: value for title, value in by_title(measures).items() if not title.endswith(of_test)
        }
        if self._stage.measure not in trial.measures:
            near = did_you_mean(self._stage.measure, trial.measures)
            raise ConfigError(f"by: the trial has no measure '{self._stage.measure}'{near}")
        trial.value = trial.measures[self._stage.measure]

    def _scores(self, stages: Sequence[BoundStage]) -> dict[str, float]:
        from distillgen.training.untrained import Untrained

        network, inputs, label = _student_of(stages) or (None, [], "")
        assert network is not None
        if self._rows is None:
            live = (record for chunk in self._pool.chunks() for record in chunk if not record.dropped)
            self._rows = [r for r in live if r.part == TRAIN and r.fields.get(label) is not None]
        if not self._rows:
            raise ConfigError(f"no training record has a '{label}'")
        student = Untrained(
            network, inputs, label, self._rows, self._job.context.project, self._models(), self._stage.seed
        )
        scores = {}
        for name, score in self._bound.scores_of_trials.items():
            for part, value in score.rate(student).items():
                scores[f"{name}.{part}" if part else name] = value
        return scores

    def _models(self) -> dict[str, Path]:
        """Return the folders of the earlier students."""
        directory = self._job.context.directory
        return {
            name: Path(spec.model)
            for bound in self._job.context.stages
            for name, spec in bound.makes(directory).items()
        }

    async def _train(self, folder: Path, stages: Sequence[BoundStage]) -> Mapping[Measure, float]:
        """Carry out the stages of a trial in its folder, unless they have ended."""
        state = self._state(stages)
        done = None if self._job.context.retry_failed else finished_round(folder)
        if done is None or done.state != state:
            live = (record for chunk in self._pool.chunks() for record in chunk if not record.dropped)
            context = replace(self._job.context, directory=folder, earlier=(), history=())
            with self._capped():
                one = Round(stages, "", self._bound.context.models)
                done = await one.carry_out(None, live, state, Job(context, self._job.services))
        return done.measures

    def _state(self, stages: Sequence[BoundStage]) -> str:
        """Return a digest of everything that the stages of a trial depend on besides the ledger."""
        job = self._job
        options = [[bound.stage.kind, bound.stage.model_dump()] for bound in stages]
        files = {name: file_sha256(path) for bound in stages for name, path in bound.all_files.items()}
        inside = {name for bound in stages for name in bound.makes(Path())}
        asked_models = {name: None for bound in stages for name in bound.models if name not in inside}
        teachers = [job.services.teachers[name] for name in asked_models]
        models = [[teacher.identity, teacher.model, teacher.spec.sampling_options()] for teacher in teachers]
        return digest([self._sha256, options, files, models, job.context.seed])

    def _chosen_by(self) -> list[Any]:
        """Return what the value of a trial depends on besides its stages."""
        scores = {name: score.model_dump() for name, score in self._bound.scores_of_trials.items()}
        return [self._stage.by, self._stage.within, scores, self._stage.seed]

    def _budget(self) -> Budget | None:
        """Return the budget that the run's teachers share; None if there are none."""
        return next((teacher.services.budget for teacher in self._job.services.teachers.values()), None)

    def _spending(self) -> float:
        """Return the money that the stages of the search have spent in this run, in all its resumes."""
        names = self._bound.inner_names()
        run = next((teacher.services.run for teacher in self._job.services.teachers.values()), None)
        usages = self._job.services.ledger.usage(run)
        return sum(usage.cost_usd for usage in usages if usage.stage.partition("/")[0] in names)

    def _money_left(self) -> float | None:
        """Return the money that the search may still spend; None if only the run has a cap."""
        if USD not in self._stage.within:
            return None
        return max(0.0, self._stage.within[USD] - self._spending())

    @contextmanager
    def _capped(self) -> Iterator[None]:
        """Lower the run's cap to what is left for the search."""
        left, budget = self._money_left(), self._budget()
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
            most = self._stage.within[USD]
            raise _MoneyShort(f"usd: {most:g} may be spent, and the next request could exceed it") from stop
        finally:
            budget.max_cost_usd = before

    def _write_rows(self) -> None:
        rows = [dumps(asdict(trial), sort_keys=False) + b"\n" for trial in self._ended]
        (self._folder / "trials.jsonl").write_bytes(b"".join(rows))

    def _conclude(self, best: Trial, folder: Path, finished: Sequence[Trial]) -> None:
        """Remove stale trials, link the best, and write `search.json` and the measures."""
        places = {self._place(trial.choices) for trial in self._ended}
        for place in self._folder.iterdir():
            if place.is_dir() and not place.is_symlink() and place not in places:
                shutil.rmtree(place)
        with suppress(FileNotFoundError):
            (self._folder / BEST).unlink()
        os.symlink(folder.name, self._folder / BEST)
        taus = {}
        for name in finished[0].scores if self._stage.measure and len(finished) > 2 else ():
            pairs = [(trial.scores[name], float(trial.value or 0.0)) for trial in finished]
            taus[f"tau of {name}"] = kendall_tau(*zip(*pairs, strict=True))
        counts = {
            "trials": len(self._ended),
            **{
                status: sum(trial.status == status for trial in self._ended)
                for status in ("failed", "skipped")
                if any(trial.status == status for trial in self._ended)
            },
        }
        content = {"by": self._stage.measure or next(iter(self._bound.scores_of_trials)), "best": best.trial}
        (self._folder / "search.json").write_bytes(dumps({**content, "lowest": self._lowest, **taus}) + b"\n")
        measures = {**counts, "best value": float(best.value or 0.0), **taus}
        self._job.services.measures.update((Measure(name), value) for name, value in measures.items())


def _student_of(stages: Sequence[BoundStage]) -> tuple[Any, Sequence[str], str] | None:
    """Return the network that the first training begins with, its inputs and its label, if it is one."""
    for bound in stages:
        options = bound.stage.model_extra or {}
        if isinstance(bound.stage, TrainingOptions):
            if bound.stage.network is None or not options.get("inputs"):
                return None
            spec = NetworkSpec.of(bound.stage.network, bound.context.project)
            return spec, options["inputs"], str(options.get("label", "label"))
    return None


def _text_of(choices: Choices) -> str:
    return ", ".join(f"{path}: {dumps(value).decode()}" for path, value in choices.items())
