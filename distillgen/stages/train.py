"""train: a student learns from the records that reach this stage, in a process of its own."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import ConfigDict, Field

from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import need
from distillgen.flow.measures import measures_of
from distillgen.flow.stage import CheckContext, Chunks, Job, Stage, Text
from distillgen.flow.whole_set import Spool
from distillgen.inference.spec import Spec
from distillgen.located_yaml import Places, validate
from distillgen.plugins import find
from distillgen.project import Project, file_sha256
from distillgen.record import digest
from distillgen.teachers.transformers import TransformersSpec
from distillgen.training import students
from distillgen.training.arms import DIFFERENT, Arm
from distillgen.training.job import NEEDED, RowData, TrainingJob, fingerprint_of, installed_versions
from distillgen.training.objective import Objective, objective_class
from distillgen.training.options import TrainingOptions
from distillgen.training.rows import PARTS
from distillgen.training.supervise import supervise

log = logging.getLogger("distillgen")


class Train(TrainingOptions, Stage):
    """Train a student on the records, which pass unchanged.

    The student is in `student/` of the run directory. A training that was stopped or killed continues
    from its last checkpoint. A finished training is not repeated while records, options and package
    versions are the same. The options of the objective stand beside those of the stage.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    kind = "train"
    reads = "the fields that the objective names, and `split`"
    writes = "the student, in `student/`, or in `student-<name>/` for a stage of another name"
    fetches = True

    warm_start: bool = Field(
        False,
        description="inside rounds: begin with the student of the round before; the first round begins "
        "with `student`",
    )
    on: Literal["kept", "raw", "random", "shuffled"] = Field(
        "kept",
        description="records to learn from: kept, or a control arm of the same size: raw (the first of "
        "the kept and of those that filters dropped), random (any of these) or shuffled (the "
        "kept, each with the answer of another)",
    )
    where: str | None = Field(
        None,
        description="template; only records for which it gives something else than nothing, false, no, 0 "
        "or null are learnt from",
    )
    held_out: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the source's items that are only evaluated, with all their rows",
    )

    def learning(self, project: Project) -> Objective:
        """The objective with its options. Raises ConfigError."""
        found, given = objective_class(self.objective, project), self.model_extra or {}
        for option in given:
            if option not in found.model_fields:
                known = sorted({*Train.model_fields, *found.model_fields})
                raise ConfigError(
                    f"objective '{self.objective}' has no option '{option}'{did_you_mean(option, known)}"
                )
        return validate(found, given, what=f"objective '{self.objective}'", places=Places())

    @property
    def options(self) -> TrainingOptions:
        """The options that the process reads."""
        return TrainingOptions(**{name: getattr(self, name) for name in TrainingOptions.model_fields})

    def arm(self, project: Project) -> Arm:
        """What is learnt from, and what is held out."""
        return Arm(self.on, self.where, self.held_out, self.seed, self.learning(project))

    def folder(self, directory: Path) -> Path:
        """Where the student goes in a run directory."""
        return directory / ("student" if self.name == self.kind else f"student-{self.name}")

    def start(self, directory: Path, earlier: Sequence[Path] = ()) -> str:
        """What the student begins as: that of an earlier stage is a folder in the run directory, that of the round before,
        with `warm_start`, one in the last of the `earlier` directories.
        """
        if self.warm_start and earlier:
            return str(self.folder(earlier[-1].resolve()))
        return str(directory / self.student) if students.OF_STAGE.fullmatch(self.student) else self.student

    def files(self, project: Project) -> dict[str, Path]:
        """Student and teacher where they are local ones, and the files that options name."""
        named = {name: project.file(name) for name in (self.chat_template, self.accelerate) if name}
        models = [self.student, *self.learning(project).models()]
        local = {name: path for name in models if (path := students.local(name, project.root))}
        return {**find("objectives", self.objective, project).files, **named, **local}

    def makes(self, directory: Path, project: Project) -> dict[str, Spec]:
        """The student, and what it is made from, where they write texts."""
        if not self.learning(project).writes:
            return {}
        folder = self.folder(directory)
        models = {folder.name: str(folder)}
        if not students.is_gguf(self.student):  # which is converted before it can be asked
            base = str(folder / "base") if self.student == students.TINY else self.start(directory)
            models[folder.name.replace("student", "base", 1)] = base
        return {
            name: TransformersSpec(provider="transformers", model=model) for name, model in models.items()
        }

    def products(self, directory: Path) -> list[Path]:
        """The student's manifest, which is written last."""
        return [self.folder(directory) / "manifest.json"]

    def check(self, context: CheckContext) -> frozenset[str]:
        """Objective, options, fields, student and packages are there, and QLoRA has its GPU."""
        learning = self.learning(context.project)
        try:
            learning.check(context)
        except ConfigError as error:
            raise ConfigError(f"objective '{self.objective}': {error.message}") from error
        trained = [stage.folder(Path()).name for stage in _trainings(context)]
        if self.student not in trained:
            students.check(self.student, context.project.root, trained)
        self.files(context.project)
        if self.where is not None:
            Text(self.where).check(context, "'where'")
        self.arm(context.project).check(context)
        if self.warm_start and not context.loops:
            raise ConfigError("warm_start: there is no round before: it is for a training inside rounds")
        if self.lora and not learning.adapters:
            raise ConfigError(f"objective '{self.objective}' trains all weights: leave out 'lora'")
        if self.lora:
            learning.check_adapter()
        if self.lora and self.lora.bits:
            if not any(path for kind in ("nvidia[0-9]*", "kfd", "dxg") for path in Path("/dev").glob(kind)):
                remedy = "leave out bits, or train on a machine with one"
                raise ConfigError(
                    f"lora: bits: {self.lora.bits} (QLoRA) needs a GPU, and this machine has none; {remedy}"
                )
            if importlib.util.find_spec("bitsandbytes") is None:
                raise ConfigError("lora: bits: 4 (QLoRA) needs bitsandbytes: pip install bitsandbytes")
        needed = [*NEEDED, *learning.packages, *(["peft"] if self.lora else [])]
        if students.is_gguf(self.student):
            needed.append("gguf")
        folder = students.local(self.student, context.project.root)
        if folder and (folder / "adapter_config.json").is_file():
            needed.append("peft")
        need(f"objective '{self.objective}'", *needed)
        self._check_student(context, learning)
        return context.fields

    def _check_student(self, context: CheckContext, learning: Objective) -> None:
        """The objective can train such a student, and its chat template takes such turns. Raises ConfigError."""
        first, template = self, ""
        while students.OF_STAGE.fullmatch(
            first.student
        ):  # what it begins as, of what the stage before it began as, …
            before = [stage for stage in _trainings(context) if stage.folder(Path()).name == first.student]
            if not before[0].learning(context.project).writes and (
                before[0].objective != self.objective or before[0].lora
            ):
                raise ConfigError(
                    f"'{first.student}' was trained by '{before[0].objective}', and cannot go on with this"
                )
            first, template = before[0], template or first.chat_template or ""
        known = students.outline(first.student, context.project.root, first.revision, fetch=context.fetch)
        named = template or first.chat_template
        if named:
            known = replace(
                known, template=context.project.file(named).read_text(encoding="utf-8"), read=True
            )
        elif first is not self:  # trained on texts, it has no template any more
            known = replace(known, read=False)
        try:
            learning.check_student(known, context)
        except ConfigError as error:
            raise ConfigError(
                f"objective '{self.objective}', student '{self.student}': {error.message}"
            ) from error
        if self.lora and known.layers and not self.lora.fits(known.layers):
            raise ConfigError(
                f"lora: 'target' names no layer of '{self.student}'; it has {_ends(known.layers)}"
            )
        if self.chat_template and not learning.chats(context):
            raise ConfigError(
                f"chat_template: objective '{self.objective}' learns no chat turns here, but texts; leave it out"
            )

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Write the rows, train on them unless an equal training has ended, and pass the records on."""
        student = self.folder(job.directory)
        work = student.with_name(f"{student.name}.partial")
        with Spool(job) as spool:
            async for chunk in chunks:
                spool.add(chunk)
            training = self._declared(spool, job, work)
            manifest = student / "manifest.json"
            if fingerprint_of(manifest) != training.fingerprint:
                await supervise(work, self.name, job.notes)
                shutil.rmtree(student, ignore_errors=True)
                (work / "student").rename(student)
            shutil.rmtree(work)
            job.measures.update(measures_of(_measured(orjson.loads(manifest.read_bytes()))))
            for chunk in spool.chunks():
                yield chunk

    def _declared(self, spool: Spool, job: Job, work: Path) -> TrainingJob:
        """Write the rows and `job.json` to the folder `work`, and return the job.

        What another training has left in `work` is removed; the checkpoints of an equal one stay.
        """
        fresh = work.with_name(f"{work.name}.rows")
        fresh.mkdir(exist_ok=True)
        data = self.arm(job.project).write(fresh, spool, job.ledger, job.stages)
        if not data.rows.get("train"):
            shutil.rmtree(fresh)
            raise self._nothing_to_learn(spool, data)
        if data.rows.get(DIFFERENT) == 0:
            message = "stage '%s': no row of the arm '%s' differs from the kept: it is no control"
            log.warning(message, self.name, self.on)
        options = self.model_dump(exclude={"name", "save_every_s"})
        start = self.start(job.directory.resolve(), job.earlier)
        if start != self.student:
            options["student"] = fingerprint_of(Path(start) / "manifest.json")
            if not options["student"]:
                remedy = "inside rounds a student begins as one that the same round trains"
                raise ConfigError(f"stage '{self.name}': there is no student in {start}; {remedy}")
        files = {name: file_sha256(path) for name, path in self.files(job.project).items()}
        versions = {"python": ".".join(map(str, sys.version_info[:3])), **installed_versions()}
        training = TrainingJob(
            fingerprint=digest([data.sha256, options, files, versions], 64),
            options=self.options,
            objective=self.learning(job.project).model_dump(),
            stage=self.model_dump(),
            root=job.project.root,
            start=start,
            to=self.folder(job.directory).resolve(),
            data=data,
            files=files,
            versions=versions,
        )
        if fingerprint_of(work / "job.json") != training.fingerprint:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            base = Path(start) / "base"
            if base.is_dir() and not self.lora:  # `evaluate` compares with what a tiny student was at first
                shutil.copytree(base, work / "base")
        for file in fresh.iterdir():
            file.rename(work / file.name)
        fresh.rmdir()
        (work / "job.json").write_text(training.model_dump_json(), encoding="utf-8")
        return training

    def _nothing_to_learn(self, spool: Spool, data: RowData) -> ConfigError:
        """Return an error that counts the records that are not learnt from, by the reason."""
        dropped = Counter(
            record.dropped.filter for chunk in spool.chunks() for record in chunk if record.dropped
        )
        reasons = [f"{n} {reason}" for reason, n in data.rows.items() if n and reason not in PARTS]
        reasons += [f"{n} dropped by {name}" for name, n in dropped.most_common()]
        counts = ", ".join(reasons) or "no record came so far"
        return ConfigError(f"stage '{self.name}': there is nothing to train on: {counts}")


def _trainings(context: CheckContext) -> list[Train]:
    """Return the stages before this one that train."""
    return [bound.stage for bound in context.stages if isinstance(bound.stage, Train)]


def _ends(layers: Iterable[str]) -> str:
    """The last parts of layers' names, each once."""
    return ", ".join(sorted({layer.rpartition(".")[2] for layer in layers}))


def _measured(manifest: Mapping[str, Any]) -> dict[str, float]:
    """What the report and the stage's line tell of a finished training."""
    loss, held_out = manifest["loss_curve"], manifest["held_out"]
    told = {"steps": manifest["steps"], **({"loss": loss[-1][1]} if loss else {})}
    for name, model in (("held-out loss", "student"), ("before", "base")):
        told |= {name: held_out[model]["loss"]} if held_out and "loss" in held_out[model] else {}
    return told | {why: count for why, count in manifest["data"]["rows"].items() if why not in PARTS}
