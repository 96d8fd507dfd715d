"""rounds: repeat a list of stages over the same records; a round can use the results of earlier rounds.

The result of a round is a pure function of the pool, the earlier rounds, the stages and the ledger. A
finished round runs again only if one of these changes. An interrupted round starts again, and the
ledger answers the requests that it had sent.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import Field

from distillgen.errors import ConfigError, Stopped
from distillgen.flow.measures import Measure, Measures, by_title
from distillgen.flow.stage import CHUNK, BoundStage, CheckContext, Chunks, Estimate, Job, Stage
from distillgen.flow.stage_list import bind_stages, read_stages
from distillgen.flow.whole_set import Spool
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import Teacher
from distillgen.located_yaml import Places
from distillgen.project import Project, file_sha256
from distillgen.record import Record, digest, dumps
from distillgen.stages._rounds import ITEM, ROUND, FinishedRound, Loop, finished_round

KEPT = Measure("kept")
TOTALS = ("requests", "input_tokens", "output_tokens", "max_cost_usd")


class Rounds(Stage):
    """Repeat a list of stages.

    Every record that reaches this stage is offered in each round, until a round keeps a record made from
    it. The field `round` holds the number of the round, and `item` the id of the offered record. Held-out
    records are offered in every round and are never counted as kept.

    Stages of a round can ask the student that the previous round trained. In the first round they ask the
    base model of the student; if it does not exist yet, the round leaves them out. `replay` and `retrieve`
    read the records that earlier rounds kept. After the loop, the records that each round kept leave in
    order; the records that no round kept follow, with the reason of the last round.

    The loop ends after `n` rounds, when every record is kept, when a round keeps nothing and nothing is
    carried over, when `until` is reached, or when a measure of `guard` falls. Measures are named as in
    the report, such as `evaluate.student.numeric`, `diversity.vendi` or `kept`. A loop can contain
    a loop.
    """

    kind = "rounds"
    scope = "set"
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
    carry: list[str] = Field(
        [],
        description="fields that a record takes over from its successor in the previous round; empty in the "
        "first round",
    )
    until: dict[str, float] = Field({}, description="end when each of these measures has at least this value")
    guard: dict[str, float] = Field(
        {}, description="end when one of these measures falls by more than this share below its best value"
    )

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
        models = {
            name: spec
            for stage in self.read(context.project)
            for name, spec in stage.makes(Path(), context.project).items()
        }
        first = replace(
            context,
            fields=context.fields | {ROUND, ITEM, *self.carry},
            models={**context.models, **models},
            loops=(*context.loops, context),
            trained=context.trained | models.keys(),
        )
        inner = bind_stages(self.stages, Places(), first, loop=self.name)
        for name in (*self.until, *self.guard):
            if name != "kept" and name.partition(".")[0] not in [bound.name for bound in inner]:
                raise ConfigError(
                    f"'{name}' is no measure: it begins with the name of a nested stage, or is 'kept'"
                )
        return BoundRounds(
            self,
            context,
            inner[-1].fields,
            list(dict.fromkeys(name for bound in inner for name in bound.models)),
            {name: path for bound in inner for name, path in bound.all_files.items()},
            stages=inner,
        )


@dataclass(frozen=True)
class BoundRounds(BoundStage):
    """The loop with the stages of a round."""

    stage: Rounds
    stages: tuple[BoundStage, ...] = field(kw_only=True)

    def inner(self) -> Sequence[BoundStage]:
        """Return the stages of a round."""
        return self.stages

    def names(self) -> list[str]:
        """Return the names of the loop and of its stages."""
        return [self.name, *(name for bound in self.stages for name in bound.names())]

    def score_labels(self) -> dict[str, tuple[str, str]]:
        """Return the labels of the filters of its stages."""
        return {label: place for bound in self.stages for label, place in bound.score_labels().items()}

    def makes(self, directory: Path) -> Mapping[str, Spec]:
        """Return the models that the last round leaves."""
        last = directory / self.name / "last"
        return {name: spec for bound in self.stages for name, spec in bound.makes(last).items()}

    def estimate(self, before: Estimate, samples: Sequence[Record]) -> Estimate:
        """Return the bounds of one round, times the number of rounds."""
        last, spared, totals = before, 0, dict.fromkeys(TOTALS, 0)
        for bound in self.stages:
            last = bound.estimate(last, samples)
            totals = {name: _sum(totals[name], getattr(last, name)) for name in TOTALS}
            spared += last.spared
        every = {name: None if value is None else value * self.stage.n for name, value in totals.items()}
        rows = last.rows  # each record is kept once, unless it is offered again
        if rows is not None and (self.stage.repeat or spared):
            rows *= self.stage.n
        return replace(last, rows=rows, spared=self._spared(before, spared), **every)

    def _spared(self, before: Estimate, of_a_round: int) -> int:
        """Return how many records cause no request: without `repeat`, the loop asks about each record at most
        once.
        """
        if not of_a_round or before.rows is None:
            return 0
        n = self.stage.n
        return of_a_round * n if self.stage.repeat else max(0, before.rows - (before.rows - of_a_round) * n)

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Carry out the rounds that are not finished; then yield the records of all rounds."""
        folder, loop = job.context.directory / self.name, Loop()
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
            state, why = digest([self._dependencies(job), sha.hexdigest()]), f"after {self.stage.n} rounds"
            for number in range(self.stage.n):
                place = folder / f"{number:02d}"
                done = finished_round(place)
                if job.context.retry_failed or done is None or done.state != state:
                    live = (record for chunk in pool.chunks() for record in chunk if not record.dropped)
                    due = (r for r in live if self.stage.repeat or r.held_out or r.id not in loop.kept)
                    offered = (
                        self._offered(record, number, loop.carried.get(record.id, {})) for record in due
                    )
                    context = replace(
                        job.context,
                        directory=place,
                        earlier=tuple(loop.directories),
                        history=tuple(loop.history),
                    )
                    done = await self._round(number, offered, state, replace(job, context=context))
                state = digest([state, done.sha256])
                loop.add(place, done.measures, self.stage.carry)
                if reason := self._ends(loop):
                    why = reason
                    break
        for stale in sorted(folder.glob("[0-9][0-9]*"))[len(loop.directories) :]:
            shutil.rmtree(stale)
        with suppress(FileNotFoundError):
            (folder / "last").unlink()
        os.symlink(loop.directories[-1].name, folder / "last")
        rounds = [by_title(measures) for measures in loop.history]
        (folder / "rounds.json").write_bytes(dumps({"ended": why, "rounds": rounds}) + b"\n")
        job.services.measures[Measure("rounds")] = len(loop.directories)
        for measure, value in loop.history[-1].items():
            job.services.measures[measure._replace(last_round=True)] = value
        leaving = loop.leaving()
        while out := list(islice(leaving, CHUNK)):
            yield out

    def _dependencies(self, job: Job) -> str:
        """Return a digest of everything that a round depends on besides its records and the ledger."""
        files = {name: file_sha256(path) for name, path in self.files.items()}
        trained = self.makes(Path())
        teachers = [job.services.teachers[name] for name in self.models if name not in trained]
        models = [[teacher.identity, teacher.model, teacher.spec.sampling_options()] for teacher in teachers]
        return digest(
            [self.stage.model_dump(exclude={"n", "until", "guard"}), files, models, job.context.seed]
        )

    def _offered(self, record: Record, number: int, carried: Mapping[str, Any]) -> Record:
        """Return a record of the pool as a record of a round, with a new id, so that each round has its own
        draws.
        """
        fields = {
            **dict.fromkeys(self.stage.carry, ""),
            **record.fields,
            **carried,
            ROUND: number,
            ITEM: record.id,
        }
        return replace(record, id=digest([record.id, self.name, number]), fields=fields, parents=(record.id,))

    async def _round(self, number: int, offered: Iterator[Record], state: str, job: Job) -> FinishedRound:
        """Carry out one round in its directory, and write `round.json` last."""
        place = job.context.directory
        place.mkdir(parents=True, exist_ok=True)
        (place / "round.json").unlink(missing_ok=True)
        teachers, hired = dict(job.services.teachers), list[Teacher]()

        def hire(specs: Mapping[str, Spec]) -> None:
            hired.extend(job.services.teacher(name, spec) for name, spec in specs.items())
            teachers.update((teacher.name, teacher) for teacher in hired)

        chunks: Chunks = _in_chunks(offered)
        absent = set[str]()
        for bound in self.stages:
            makes = bound.makes(place)
            before = bound.makes(job.context.earlier[-1]) if job.context.earlier else _untrained(makes, place)
            hire(before)
            absent |= makes.keys() - before.keys()
        by_stage: list[Measures] = [{} for _ in self.stages]
        for i, bound in enumerate(self.stages):
            if not absent.intersection(bound.models):
                context = replace(job.context, stages=self.stages[:i])
                services = replace(
                    job.services, teachers=dict(teachers), measures=by_stage[i], measures_before=by_stage[:i]
                )
                chunks = bound.run(chunks, Job(context, services))
            hire(bound.makes(place))
            absent -= bound.makes(place).keys()
        sha, kept = hashlib.sha256(), 0
        partial = place / "records.jsonl.partial"
        try:
            with partial.open("wb") as out:
                async for chunk in chunks:
                    for record in chunk:
                        if record.fields.get(ROUND) == number:  # not a record that `replay` added
                            line = dumps(record.row(), sort_keys=False) + b"\n"
                            out.write(line)
                            sha.update(line)
                            kept += record.dropped is None and not record.held_out
        finally:
            await chunks.aclose()
            for teacher in hired:
                await teacher.stop(Stopped("the round is over"))
                await teacher.close()
        partial.replace(place / "records.jsonl")
        measures: Measures = {KEPT: kept}
        for stage, of_stage in zip(self.stages, by_stage, strict=True):
            measures.update((measure.of_stage(stage.name), value) for measure, value in of_stage.items())
        done = FinishedRound(state, sha.hexdigest(), measures)
        done.write(place)
        return done

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
        if not self.stage.repeat and len(loop.kept) == loop.waiting:
            return "every record was kept"
        return "" if loop.history[-1][KEPT] or self.stage.carry else "a round kept nothing"


async def _in_chunks(records: Iterator[Record]) -> Chunks:
    while chunk := list(islice(records, CHUNK)):
        yield chunk


def _untrained(trained: Mapping[str, Spec], place: Path) -> dict[str, Spec]:
    """Return, for the first round, the base model in place of each student; {} if the round itself makes the
    base model.
    """
    base = [
        spec
        for name, spec in trained.items()
        if name.startswith("base") and not Path(spec.model).is_relative_to(place)
    ]
    return {name: base[0] for name in trained} if base else {}


def _sum(total: Any, value: Any) -> Any:
    return None if total is None or value is None else total + value
