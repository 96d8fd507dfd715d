"""train: train a student on the records that reach the stage, in a process of its own."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.measures import measures_of
from distillgen.flow.record_template import RecordTemplate
from distillgen.flow.stage import CheckContext, Chunks, Job, RunContext
from distillgen.flow.whole_set import Spool
from distillgen.inference.spec import Spec
from distillgen.networks.spec import NetworkSpec
from distillgen.plugins import find
from distillgen.project import Project, file_sha256
from distillgen.record import digest
from distillgen.stages._earlier_students import BoundTraining, EarlierStudent, earlier_students, sees_pictures
from distillgen.stages._train_check import TrainCheck, networks_of
from distillgen.stages._train_options import TrainOptions
from distillgen.state_files import remove_folder
from distillgen.training import students
from distillgen.training.arms import DIFFERENT, Arm
from distillgen.training.job import NothingToLearn, RowData, TrainingJob, fingerprint_of, installed_versions
from distillgen.training.objective import Objective
from distillgen.training.rows import PARTS
from distillgen.training.supervise import supervise

log = logging.getLogger("distillgen")


class Train(TrainOptions):
    """Train a student on the records, which pass unchanged.

    The student is in `student/` of the run directory. An interrupted training continues from its last
    checkpoint. A finished training runs again only if the records, the options or the package versions
    change. The stage also takes the options of its objective.

    `arms` names further trainings on the same records, each with the options in which it differs, of the
    stage or of the objective: a value there replaces the whole option. An arm is a stage behind this one,
    with this stage's name and its own: `train-shuffled`, whose student is `student-shuffled`; of a stage
    `second`, `second-shuffled` and `student-second-shuffled`.

    With `each`, the stage trains a student on the records of each value of a field, instead of one on all.
    Each is a stage with the value in its name: `train-geography`, whose student is `student-geography`.
    """

    kind = "train"
    scope = "set"
    reads = "the fields that the objective names, and `split`"
    writes = "the student, in `student/`, or in `student-<name>/` for a stage of another name"
    fetches = True
    optional = frozenset({"when", "each"})

    def bind(self, context: CheckContext) -> BoundTrain:
        """Return the stage with its objective. Raise ConfigError if something is missing."""
        project, earlier = context.project, earlier_students(context)
        if context.loops and context.start in earlier:
            earlier[students.PREVIOUS] = earlier[context.start]
        learning = self._bound_objective(context, earlier)
        self._check_tokens(earlier)
        for bound in context.stages:
            if isinstance(bound, BoundTraining) and bound.stage.student_name == self.student_name:
                raise ConfigError(
                    f"stage '{bound.name}' also makes '{self.student_name}'; rename one of them"
                )
        network = NetworkSpec.of(self.network, project) if self.network else None
        first = "" if network else self._first(context, earlier)
        if first not in earlier and not network:
            students.check(first, project.root, [*earlier])
        needed = {name: earlier[name] for name in self._parts(learning, network, project) if name in earlier}
        for name, student in needed.items():
            if student.demonstrated:
                raise ConfigError(f"'{name}' reads demonstrations as vectors; record its answers in a stage")
        files = self._files(project, learning, first, network)
        arm = self._checked_arm(context, learning)
        TrainCheck(self, context, learning, earlier, network, first).check()
        return BoundTrain(
            self,
            context,
            context.fields,
            files=files,
            learning=learning,
            arm=arm,
            first=first,
            folder=earlier[first].folder if first in earlier else None,
            others=needed,
        )

    def _bound_objective(self, context: CheckContext, earlier: Mapping[str, EarlierStudent]) -> Objective:
        """Return the objective with what it takes from the pipeline. Raise ConfigError."""
        inputs = {name: student.inputs for name, student in earlier.items()}
        learning = self.learning(context.project)
        try:
            learning = learning.bound(context, inputs)
            learning.check(context)
        except ConfigError as error:
            raise ConfigError(f"objective '{self.objective}': {error.message}") from error
        return learning

    def _checked_arm(self, context: CheckContext, learning: Objective) -> Arm:
        """Return what chooses the rows. Raise ConfigError if no record is chosen, or a field is missing."""
        if self.where is not None:
            RecordTemplate(self.where).check(context, "'where'")
        arm = self.arm(learning)
        arm.check(context)
        for name, value in arm.only.items():
            context.need(name, "each")
            values = context.values(name)
            if values is not None and value not in values:
                raise ConfigError(f"no training record has '{name}': '{value}'{did_you_mean(value, values)}")
        return arm

    def _first(self, context: CheckContext, trained: Collection[str]) -> str:
        """Return the student that the training begins with; in rounds, that of the first round."""
        if self.surgery:
            return self.surgery.of
        if isinstance(self.student, dict):
            return students.TINY
        if self.student != students.PREVIOUS:
            return self.student
        if not context.loops:
            remedy = "use it for a training inside rounds"
            raise ConfigError(f"student: {students.PREVIOUS} needs an earlier round; {remedy}")
        if not context.start:
            remedy = "name the student that the first round begins with: rounds: {start: NAME}"
            raise ConfigError(f"student: {students.PREVIOUS} is the student of the round before; {remedy}")
        return students.weights_of(context.start, context.models, trained)

    def _parts(self, learning: Objective, network: NetworkSpec | None, project: Project) -> list[str]:
        """Return the models that teach, or that the student is made of."""
        networks = networks_of(learning, network, project)
        made_of = [name for spec, _ in networks for name in spec.models(project)]
        tokens = [self.tiny.donor] if self.tiny and self.tiny.donor else ()
        changed = [self.only.changed_by] if self.only else ()
        return [*learning.models(), *made_of, *tokens, *changed]

    def _files(
        self, project: Project, learning: Objective, first: str, network: NetworkSpec | None
    ) -> dict[str, Path]:
        """Return the files that options name, the objective's file, and the models that are local."""
        option_files = {name: project.file(name) for name in (self.chat_template, self.accelerate) if name}
        models = [first, *learning.models()] if first else learning.models()
        local_models = {name: path for name in models if (path := students.local(name, project.root))}
        code = find("objectives", self.objective, project).files | learning.files(project)
        if network:
            code |= network.training_files(project)
        return {**code, **option_files, **local_models}

    def _check_tokens(self, earlier: Mapping[str, EarlierStudent]) -> None:
        """Raise ConfigError if no earlier student has the tokens that a tiny student takes."""
        if not self.tiny or not self.tiny.donor:
            return
        writers = [name for name, it in earlier.items() if it.training.learning.gives() == "text"]
        if self.tiny.donor not in writers:
            raise ConfigError(
                f"student: tokens: no earlier stage trains a language model '{self.tiny.donor}'"
                f"{did_you_mean(self.tiny.donor, writers)}"
            )


@dataclass(frozen=True)
class BoundTrain(BoundTraining):
    """The stage with its objective, and with the arm that chooses the rows."""

    stage: Train
    arm: Arm = field(kw_only=True)
    folder: Path | None = field(kw_only=True)
    """The folder of `first`, from the directory of this stage, if an earlier stage trains it."""
    others: Mapping[str, EarlierStudent] = field(kw_only=True)
    """The earlier students that teach, or that the student is made of."""

    def makes(self, directory: Path) -> Mapping[str, Spec]:
        """Return the student and its base, for later stages to ask."""
        base = self._begins_with(directory)
        sees = sees_pictures(
            self.stage, self.first, earlier_students(self.context), self.context.project.root
        )
        return self.stage.leaves(self.first, base, directory, self.context.project, sees=sees)

    def _begins_with(self, directory: Path) -> str:
        """Return the folder or the name of `first`."""
        return os.path.normpath(directory / self.folder) if self.folder else self.first

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Write the rows, train on them unless an equal training has ended, and pass the records on."""
        student = job.context.directory / self.stage.student_name
        work = student.with_name(f"{student.name}.partial")
        with Spool(job) as spool:
            async for chunk in chunks:
                spool.add(chunk)
            training = self._write_job(spool, job, work)
            manifest = student / "manifest.json"
            if fingerprint_of(manifest) != training.fingerprint:
                if fingerprint_of(work / "student" / "manifest.json") != training.fingerprint:
                    await supervise(work, self.name, job.services.notes)
                remove_folder(student)
                (work / "student").rename(student)
            remove_folder(work)
            job.services.measures.update(measures_of(_measured(orjson.loads(manifest.read_bytes()))))
            for chunk in spool.chunks():
                yield chunk

    def _write_job(self, spool: Spool, job: Job, work: Path) -> TrainingJob:
        """Write the rows and `job.json` to the folder `work`, and return the job.

        Files of another training in `work` are removed; the checkpoints of an equal one stay.
        """
        fresh = work.with_name(f"{work.name}.rows")
        fresh.mkdir(exist_ok=True)
        data = self.arm.write(fresh, spool, job.services.ledger, job.context.stages)
        if not data.rows.get("train"):
            shutil.rmtree(fresh)
            raise self._nothing_to_learn(spool, data)
        if data.rows.get(DIFFERENT) == 0:
            message = "stage '%s': no row of the arm '%s' differs from the kept: it is no control"
            log.warning(message, self.name, self.stage.on)
        training = self._training_job(data, job.context)
        if fingerprint_of(work / "job.json") != training.fingerprint:
            remove_folder(work)
            work.mkdir()
            base = Path(training.start) / "base"
            if (
                base.is_dir() and not self.stage.lora
            ):  # `evaluate` asks the tiny student of the first training
                shutil.copytree(base, work / "base")
        for file in fresh.iterdir():
            file.rename(work / file.name)
        fresh.rmdir()
        (work / "job.json").write_text(training.model_dump_json(), encoding="utf-8")
        return training

    def _training_job(self, data: RowData, context: RunContext) -> TrainingJob:
        """Return the job of a training on these rows, with the fingerprint of all that it depends on."""
        stage, (start, models) = self.stage, self._start_and_models(context)
        student = stage.student if isinstance(stage.student, dict) else self.first
        options = stage.model_dump(exclude={"name", "save_every_s"}) | {"student": student}
        if start != self.first:
            options["student"] = _fingerprint(Path(start))
        if stage.surgery:
            options["surgery"] = stage.surgery.model_dump()
        if models:
            options["models"] = {name: _fingerprint(folder) for name, folder in models.items()}
        files = {name: file_sha256(path) for name, path in self.files.items()}
        versions = {"python": ".".join(map(str, sys.version_info[:3])), **installed_versions()}
        return TrainingJob(
            fingerprint=digest([data.sha256, options, files, versions], 64),
            options=stage.options.model_copy(update={"student": student}),
            objective=self.learning.model_dump(),
            stage=stage.model_dump(),
            root=context.project.root,
            start=start,
            models=models,
            to=(context.directory / stage.student_name).resolve(),
            data=data,
            files=files,
            versions=versions,
        )

    def _start_and_models(self, context: RunContext) -> tuple[str, dict[str, Path]]:
        """Return the student that the training begins with in this round, and the folders of the others."""
        directory, name = context.directory.resolve(), self.stage.student_name
        start = self._begins_with(directory)
        models = {
            other: Path(os.path.normpath(directory / student.folder))
            for other, student in self.others.items()
        }
        if context.earlier:
            before = context.earlier[-1].resolve() / name
            start = str(before) if self.stage.student == students.PREVIOUS else start
            models |= {students.PREVIOUS: before} if students.PREVIOUS in models else {}
        return start, models

    def _nothing_to_learn(self, spool: Spool, data: RowData) -> NothingToLearn:
        """Return an error that counts the records that are not learnt from, by the reason."""
        dropped = Counter(
            record.dropped.filter for chunk in spool.chunks() for record in chunk if record.dropped
        )
        reasons = [f"{n} {reason}" for reason, n in data.rows.items() if n and reason not in PARTS]
        reasons += [f"{n} dropped by {name}" for name, n in dropped.most_common()]
        counts = ", ".join(reasons) or "no record came so far"
        return NothingToLearn(f"stage '{self.name}': it has no records to train on: {counts}")


def _fingerprint(student: Path) -> str | None:
    """Return the fingerprint of the training that made a student, or its peer."""
    peer = student.parent.name == students.PEERS
    return fingerprint_of((student.parent.parent if peer else student) / "manifest.json")


def _measured(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a finished training for the report and the stage's line."""
    curve, held_out = manifest["loss_curve"], manifest["held_out"]
    measures = {"steps": manifest["steps"], **({"loss": curve[-1][1]} if curve else {})}
    for name, model in (("held-out loss", "student"), ("before", "base")):
        measures |= {name: held_out[model]["loss"]} if held_out and "loss" in held_out[model] else {}
    counts = manifest["data"]["rows"].items()
    return measures | {reason: count for reason, count in counts if reason not in PARTS}
