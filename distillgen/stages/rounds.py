"""rounds: repeat a list of stages over the same records; a round can use the results of earlier rounds.

The result of a round is a pure function of the pool, the earlier rounds, the stages and the ledger. A
finished round runs again only if one of these changes. An interrupted round starts again, and the
ledger answers the requests that it had sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.measures import Measure, by_title
from distillgen.flow.stage import CHUNK, BoundStage, CheckContext, Chunks, Estimate, Job, Stage
from distillgen.flow.stage_list import bind_stages, read_stages
from distillgen.flow.whole_set import Spool
from distillgen.inference.spec import Spec
from distillgen.located_yaml import Places
from distillgen.project import Project, file_sha256
from distillgen.record import Record, digest, dumps
from distillgen.stages._loop_bounds import LoopBounds
from distillgen.stages._one_round import KEPT, Round, start_of, students_of
from distillgen.stages._rounds import ITEM, ROUND, Loop, Repetition, finished_round, kept_of
from distillgen.state_files import remove_folder, replace_bytes, replace_link
from distillgen.teachers.network import NetworkTeacherSpec
from distillgen.training import students
from distillgen.training.job import NothingToLearn

NO_DEPENDENCY = {"n", "until", "guard", "max_records"}  # options that say how many rounds, not what one does


class Rounds(Stage):
    """Repeat a list of stages.

    Every record that reaches this stage is offered in each round, until a round keeps a record made from
    it. The field `round` holds the number of the round, and `item` the id of the offered record. Held-out
    records are offered in every round and are never counted as kept.

    With `offer: kept`, a record that a round made and kept joins the records that later rounds are offered,
    with its fields and its lineage. A record that reached the stage and only passed a round does not join
    again. Without `repeat`, a kept record thus takes the place of the one that it was made from.

    Stages of a round can ask the student that the previous round trained. In the first round they ask the
    model `start`, or else the base model of the student; if it does not exist yet, the round leaves them
    out. `replay` and `retrieve` read the records that earlier rounds kept. After the loop, the records that
    each round kept leave in order; the records that no round kept follow, with the reason of the last round.

    The loop ends after `n` rounds, when every record is kept, when a round keeps nothing and nothing is
    carried over, when a round leaves a training no records, when `until` is reached, or when a measure of
    `guard` falls. Measures are named as in the report, such as `evaluate.student.numeric`,
    `diversity.vendi` or `kept`. A loop can contain a loop.
    """

    kind = "rounds"
    scope = "set"
    remakes = True
    reads = "the records of its pool"
    writes = (
        "the fields `round` and `item`, and the fields of its stages; the folder `<name>/`, with a folder "
        "for each round"
    )
    fetches = True

    stages: list[dict[str, Any]] = Field(
        min_length=1, description="stages of a round, as in a pipeline, without a source"
    )
    n: int = Field(3, ge=1, description="largest number of rounds")
    repeat: bool = Field(False, description="offer records that a round has kept in later rounds, too")
    offer: Literal["pool", "kept"] = Field(
        "pool",
        description="records that a round is offered: pool, those that reach the stage, or kept, also the "
        "new ones that earlier rounds kept; with kept, `guard` is required",
    )
    max_records: int | None = Field(
        None,
        ge=1,
        description="with `offer: kept`: number of records, with those that reach the stage, at which no "
        "more join; required where the plan has no bound",
    )
    start: str | None = Field(
        None,
        description="model that the student is in the first round, and with which "
        "`train: {student: previous}` begins: a model of the pipeline, a student trained before the loop, or "
        "a model as for `train`",
    )
    carry: list[str] = Field(
        [],
        description="fields that a record takes over from its successor in the previous round; empty in the "
        "first round",
    )
    until: dict[str, float] = Field({}, description="end when each of these measures has at least this value")
    guard: dict[str, float] = Field(
        {}, description="end when one of these measures falls by more than this share below its best value"
    )

    @model_validator(mode="after")
    def _bounded(self) -> Rounds:
        if self.offer == "kept" and not self.guard:
            remedy = "such as guard: {kept: 0.9}, so that a loop that makes nothing new ends"
            raise ValueError(f"'offer: kept' needs a 'guard', {remedy}")
        if self.offer == "pool" and self.max_records is not None:
            raise ValueError("'max_records' has no use without 'offer: kept'")
        return self

    def read(self, project: Project) -> list[Stage]:
        """Return the nested stages with their options checked. Raise ConfigError."""
        return read_stages(self.stages, Places(), project)

    def makes(self, directory: Path, project: Project) -> Mapping[str, Spec]:
        """Return the models that the last round leaves."""
        last = directory / self.name / "last"
        return {
            name: spec for stage in self.read(project) for name, spec in stage.makes(last, project).items()
        }

    def bind(self, context: CheckContext) -> BoundRounds:
        """Bind the nested stages; raise ConfigError if they do not fit together in every round."""
        in_loop = context.loops or any(isinstance(bound.stage, Rounds) for bound in context.stages)
        for name in (ROUND, ITEM):
            if name in context.fields and not in_loop:
                raise ConfigError(
                    f"the records have a field '{name}', which 'rounds' writes; give it another name"
                )
        models = self._models(context.project)
        start = self._start(context, models)
        first = replace(
            context,
            fields=context.fields | {ROUND, ITEM, *self.carry},
            models={**context.models, **models},
            loops=(*context.loops, context),
            trained=context.trained | models.keys(),
            start=self.start or "",
        )
        inner = beginning = bind_stages(self.stages, Places(), first, loop=self.name)
        if start:  # it may lack what the student can do, and may have a price
            models_of_first = {**first.models, **dict.fromkeys(students_of(models), start)}
            try:
                beginning = bind_stages(
                    self.stages, Places(), replace(first, models=models_of_first), loop=self.name
                )
            except ConfigError as error:
                raise ConfigError(f"in the first round, with start: {self.start}: {error.message}") from error
        for name in (*self.until, *self.guard):
            if name != "kept" and name.partition(".")[0] not in [bound.name for bound in inner]:
                raise ConfigError(
                    f"'{name}' is no measure: it begins with the name of a nested stage, or is 'kept'"
                )
        teachers = dict.fromkeys(name for bound in inner for name in bound.models if name not in models)
        files = {name: path for bound in inner for name, path in bound.all_files.items()}
        if start:
            teachers[str(self.start)] = None
        elif self.start and (path := students.local(self.start, context.project.root)):
            files[self.start] = path
        bound = BoundRounds(
            self, context, inner[-1].fields, list(teachers), files, stages=inner, beginning=beginning
        )
        samples = getattr(context.stages[0], "samples", ()) if context.stages else ()
        if not bound.bounds().is_bounded(samples):
            remedy = "give the number of records at which no more join: max_records: NUMBER"
            raise ConfigError(f"'offer: kept': the plan has no bound for the number of records; {remedy}")
        return bound

    def _models(self, project: Project) -> dict[str, Spec]:
        """Return the models that stages of a round make. Raise ConfigError if two make the same."""
        models, makers = dict[str, Spec](), dict[str, str]()
        for stage in self.read(project):
            for name, spec in stage.makes(Path(), project).items():
                if makers.setdefault(name, stage.name) != stage.name:
                    raise ConfigError(
                        f"stages '{makers[name]}' and '{stage.name}' both make a model '{name}'; rename one"
                    )
                models[name] = spec
        return models

    def _start(self, context: CheckContext, models: Mapping[str, Spec]) -> Spec | None:
        """Return the model `start`; None if the pipeline has no such model, but a training can begin with it.
        Raise ConfigError if it cannot be the student of the first round.
        """
        if self.start is None:
            return None
        if not models:
            raise ConfigError("'start' has no use: no stage of the loop trains a student")
        if self.start not in context.models:
            try:
                students.check(self.start, context.project.root)
            except ConfigError as error:
                nearest = did_you_mean(self.start, context.models)
                raise ConfigError(f"start: {error.message}{nearest}") from error
            self._check_weights(context, models)
            return None
        makes = [name for bound in context.stages for name in bound.makes(Path())]
        if self.start in context.trained and self.start not in makes:
            raise ConfigError(f"start: no stage before the loop trains '{self.start}'")
        return context.models[self.start]

    def _check_weights(self, context: CheckContext, models: Mapping[str, Spec]) -> None:
        """Raise ConfigError if the weights `start` cannot be asked as the students are."""
        if self.start == students.TINY or students.is_gguf(str(self.start)):
            return  # no stage asks it
        for name in students_of(models):
            spec = start_of(models[name], str(self.start))
            if not isinstance(spec, NetworkTeacherSpec):
                continue
            try:
                spec.check(context.project.root)
            except ConfigError as error:
                raise ConfigError(f"start: '{name}' in the first round: {error.message}") from error


@dataclass(frozen=True)
class BoundRounds(BoundStage):
    """The loop with the stages of a round."""

    stage: Rounds
    stages: tuple[BoundStage, ...] = field(kw_only=True)
    beginning: tuple[BoundStage, ...] = field(kw_only=True)
    """The same stages, which ask the model `start` in place of the student."""

    def uses_seed(self) -> bool:
        """Return whether a stage of a round does."""
        return any(bound.uses_seed() for bound in self.stages)

    def inner(self) -> Sequence[BoundStage]:
        """Return the stages of a round."""
        return self.stages

    def names(self) -> list[str]:
        """Return the names of the loop and of its stages."""
        return [self.name, *(name for bound in self.stages for name in bound.names())]

    def output_names(self) -> frozenset[str]:
        """Return the fields that its stages write, and those that it adds."""
        return super().output_names().union(*(bound.output_names() for bound in self.stages))

    def score_labels(self) -> dict[str, tuple[str, str]]:
        """Return the labels of the filters of its stages."""
        return {label: place for bound in self.stages for label, place in bound.score_labels().items()}

    def scores(self) -> set[str]:
        """Return the names of the scores of its stages."""
        return {name for bound in self.stages for name in bound.scores()}

    def turns(self) -> Mapping[str, Sequence[list[dict[str, Any]]]]:
        """Return the chat turns that its stages make."""
        return {name: turns for bound in self.stages for name, turns in bound.turns().items()}

    def makes(self, directory: Path) -> Mapping[str, Spec]:
        """Return the models that the last round leaves."""
        last = directory / self.name / "last"
        return {name: spec for bound in self.stages for name, spec in bound.makes(last).items()}

    def bounds(self) -> LoopBounds:
        """Return what bounds the loop."""
        return LoopBounds(self.repetition, self.stage.n, self.beginning, self.stages, self.fields)

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return the bounds of all rounds."""
        return self.bounds().estimate(before, samples)

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Carry out the rounds that are not finished; then yield the records of all rounds."""
        folder, loop = job.context.directory / self.name, Loop(self.repetition)
        with Spool(job) as pool:
            sha = hashlib.sha256()
            async for chunk in chunks:
                pool.add(chunk)
                sha.update(dumps([[record.id, record.dropped is None] for record in chunk]))
            for chunk in pool.chunks():
                loop.outside |= {
                    r.id: {ROUND: r.fields[ROUND], ITEM: r.fields[ITEM]} for r in chunk if ITEM in r.fields
                }
                loop.waiting += sum(not record.dropped and not record.held_out for record in chunk)
                if out := [record for record in chunk if record.dropped]:
                    yield out
            one = Round(self.stages, self.stage.start or "", self.context.models)
            state, why = digest([self._dependencies(job), sha.hexdigest()]), f"after {self.stage.n} rounds"
            for number in range(self.stage.n):
                place = folder / f"{number:02d}"
                done = finished_round(place)
                if job.context.retry_failed or done is None or done.state != state:
                    live = (record for chunk in pool.chunks() for record in chunk if not record.dropped)
                    context = replace(
                        job.context,
                        directory=place,
                        earlier=tuple(loop.directories),
                        history=tuple(loop.history),
                    )
                    offered = loop.offered(live, number)
                    services = replace(job.services, pool=partial(_pool_so_far, pool, loop))
                    try:
                        done = await one.carry_out(number, offered, state, Job(context, services))
                    except NothingToLearn as nothing:
                        if not number:
                            raise
                        why = f"the next round is left out: {nothing.message}"
                        break
                loop.add(place, done.measures)
                state = digest([state, done.sha256, *([len(loop.joined)] if loop.joined else [])])
                if reason := self._ends(loop):
                    why = reason
                    break
        by_number = sorted(folder.glob("[0-9][0-9]*"), key=lambda place: int(place.name))
        for stale in by_number[len(loop.directories) :]:
            remove_folder(stale)
        replace_link(folder / "last", loop.directories[-1].name)
        rounds = [by_title(measures) for measures in loop.history]
        replace_bytes(folder / "rounds.json", dumps({"ended": why, "rounds": rounds}) + b"\n")
        job.services.measures[Measure("rounds")] = len(loop.directories)
        for measure, value in loop.history[-1].items():
            job.services.measures[measure._replace(last_round=True)] = value
        leaving = loop.leaving()
        while out := list(islice(leaving, CHUNK)):
            yield out

    @property
    def repetition(self) -> Repetition:
        """What a round is offered."""
        stage = self.stage
        most = stage.max_records if stage.offer == "kept" else 0
        return Repetition(self.name, stage.repeat, stage.carry, stage.offer == "kept", most)

    def _dependencies(self, job: Job) -> str:
        """Return a digest of everything that a round depends on besides its records and the ledger."""
        files = {name: file_sha256(path) for name, path in self.files.items()}
        teachers = [job.services.teachers[name] for name in self.models]
        models = [[teacher.identity, teacher.model, teacher.spec.sampling_options()] for teacher in teachers]
        return digest([self.stage.model_dump(exclude=NO_DEPENDENCY), files, models, job.context.seed])

    def _ends(self, loop: Loop) -> str:
        """Return the reason to end the loop after its last round; "" if it continues."""
        history = [by_title(measures) for measures in loop.history]
        last = history[-1]
        if self.stage.until and all(
            last.get(name, float("-inf")) >= least for name, least in self.stage.until.items()
        ):
            return "reached " + ", ".join(
                f"{name} {last[name]:g} >= {least:g}" for name, least in self.stage.until.items()
            )
        for name, share in self.stage.guard.items():
            best = max(measures.get(name, float("-inf")) for measures in history)
            if last.get(name, best) < best - share * abs(best):
                return f"{name} fell to {last[name]:g}, more than {share:.0%} below {best:g}"
        if not self.stage.repeat and len(loop.kept) == loop.waiting:  # the joined ones wait, too
            return "every record was kept"
        return "" if loop.history[-1][KEPT] or self.stage.carry else "a round kept nothing"


def _pool_so_far(pool: Spool, loop: Loop) -> Iterator[Record]:
    """Yield the records that reach the loop, without dropped ones, and those that finished rounds kept."""
    yield from (record for chunk in pool.chunks() for record in chunk if not record.dropped)
    for place in loop.directories:
        yield from kept_of(place)
