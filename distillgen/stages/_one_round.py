"""Carry out one round of a loop."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from distillgen.errors import Stopped
from distillgen.flow.ahead import asks_ahead, with_asks_ahead
from distillgen.flow.condition import run_stage
from distillgen.flow.measures import Measure, Measures
from distillgen.flow.stage import CHUNK, BoundStage, Chunks, Job
from distillgen.inference.spec import Spec
from distillgen.inference.teacher import Teacher
from distillgen.record import Record, dumps
from distillgen.stages._rounds import ROUND, FinishedRound
from distillgen.state_files import new_file
from distillgen.teachers.network import NetworkTeacherSpec
from distillgen.teachers.transformers import TransformersSpec
from distillgen.training import students

KEPT = Measure("kept")
BASE = "base"  # how the names of students before their training begin


def students_of(models: Iterable[str]) -> list[str]:
    """Return the names of models that are not those of a student before its training."""
    return [name for name in models if not name.startswith(BASE)]


def start_of(student: Spec, start: str) -> Spec:
    """Return the entry of the weights `start`, which are asked as the student would be."""
    if isinstance(student, NetworkTeacherSpec):
        return student.model_copy(update={"model": start})
    return TransformersSpec(provider="transformers", model=start)


class Models:
    """The models that the stages of a round ask. A round closes those that it makes itself."""

    def __init__(self, job: Job) -> None:
        self.teachers = dict(job.services.teachers)
        self._job, self._hired = job, list[Teacher]()

    def hire(self, specs: Mapping[str, Spec]) -> None:
        """Take these models, in the place of others of the same names."""
        new = {name: self._job.services.teacher(name, spec) for name, spec in specs.items()}
        self._hired.extend(new.values())
        self.teachers.update(new)

    async def close(self) -> None:
        """Stop and close the models of the round."""
        for teacher in self._hired:
            await teacher.stop(Stopped("the round is over"))
            await teacher.close()


@dataclass(frozen=True)
class Round:
    """A round: what it needs besides its records."""

    stages: Sequence[BoundStage]
    start: str
    """The model that the students are in the first round; "" for their base."""
    models: Mapping[str, Spec]
    """The models of the pipeline, and of the stages before the loop."""

    async def carry_out(
        self, number: int | None, offered: Iterator[Record], state: str, job: Job
    ) -> FinishedRound:
        """Carry out a round in its directory, and write `round.json` last.

        Records of another number, which `replay` added, are left out; with None, all are of the round.
        """
        place = job.context.directory
        place.mkdir(parents=True, exist_ok=True)
        (place / "round.json").unlink(missing_ok=True)
        models, by_stage = Models(job), [Measures() for _ in self.stages]
        chunks = self._chained(_in_chunks(offered), models, by_stage, job)
        sha, kept = hashlib.sha256(), 0
        partial = place / "records.jsonl.partial"
        try:
            with new_file(partial) as out:
                async for chunk in chunks:
                    for record in chunk:
                        if number is None or record.fields.get(ROUND) == number:
                            line = dumps(record.row(), sort_keys=False) + b"\n"
                            out.write(line)
                            sha.update(line)
                            kept += record.dropped is None and not record.held_out
        finally:
            await chunks.aclose()
            await models.close()
        partial.replace(place / "records.jsonl")
        measures: Measures = {KEPT: kept}
        for stage, of_stage in zip(self.stages, by_stage, strict=True):
            measures.update((measure.of_stage(stage.name), value) for measure, value in of_stage.items())
        done = FinishedRound(state, sha.hexdigest(), measures)
        done.write(place)
        return done

    def _chained(self, chunks: Chunks, models: Models, by_stage: Sequence[Measures], job: Job) -> Chunks:
        """Return the stages one behind the other; a stage that asks a model that is not there is left out."""
        absent, place = set[str](), job.context.directory.resolve()
        for bound in self.stages:
            before = self._hire_before(bound, models, job)
            absent |= bound.makes(place).keys() - before
        services = replace(job.services, teachers=models.teachers)
        begins = asks_ahead(self.stages, replace(job, services=services))
        for i, bound in enumerate(self.stages):
            if not absent.intersection(bound.models):
                context = replace(job.context, stages=self.stages[:i])
                services = replace(
                    job.services,
                    teachers=dict(models.teachers),
                    measures=by_stage[i],
                    measures_before=by_stage[:i],
                )
                if begins[i]:
                    chunks = with_asks_ahead(chunks, begins[i])
                chunks = run_stage(bound, chunks, Job(context, services))
            makes = bound.makes(place)
            models.hire(makes)
            absent -= makes.keys()
        return chunks

    def _hire_before(self, bound: BoundStage, models: Models, job: Job) -> set[str]:
        """Take the models of the round before in the place of those that a stage makes; return their names.

        In the first round that is the base model, and for a student the model `start`. What the round itself
        makes is not there yet.
        """
        place = job.context.directory.resolve()  # a model's place is looked for in the project
        if job.context.earlier:
            models.hire(before := bound.makes(job.context.earlier[-1].resolve()))
            return {*before}
        makes, start = bound.makes(place), self.start
        base = [
            spec
            for name, spec in makes.items()
            if name.startswith(BASE) and not Path(spec.model).is_relative_to(place)
        ]
        specs = dict.fromkeys(makes, base[0]) if base else {}
        learning = students_of(makes)
        if start in self.models:
            models.hire({name: spec for name, spec in specs.items() if name not in learning})
            models.teachers |= dict.fromkeys(learning, job.services.teachers[start])
            return {*specs, *learning}
        if start and start != students.TINY and not students.is_gguf(start):
            specs |= {name: start_of(makes[name], start) for name in learning}
        models.hire(specs)
        return {*specs}


async def _in_chunks(records: Iterator[Record]) -> Chunks:
    while chunk := list(islice(records, CHUNK)):
        yield chunk
