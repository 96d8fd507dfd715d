"""train: a student learns from the records that reach this stage, in a process of its own."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import ConfigDict, Field, model_validator

from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import need
from distillgen.flow.measures import measures_of
from distillgen.flow.stage import Checking, Chunks, Job, Stage, Text
from distillgen.flow.whole_set import Spool
from distillgen.inference.teacher import Spec
from distillgen.located_yaml import Places, validate
from distillgen.plugins import find
from distillgen.project import Project, file_sha256
from distillgen.record import digest, dumps
from distillgen.state_files import Damaged, load_state
from distillgen.teachers.transformers import TransformersSpec
from distillgen.training import students
from distillgen.training.arms import DIFFERENT, Arm
from distillgen.training.objective import PARTS, Objective, objective_class
from distillgen.training.options import Lora
from distillgen.training.supervise import supervise

log = logging.getLogger("distillgen")

ALWAYS = ("torch", "transformers", "datasets", "accelerate")
VERSIONED = ("distillgen", *ALWAYS, "trl", "peft", "tokenizers", "sentence-transformers")


class Train(Stage):
    """Train a student into `student/` of the run directory; the records pass unchanged.

    The training is resumed where it was killed or stopped, from its last checkpoint, and not repeated where records, options
    and package versions are the same. Options of the objective stand beside these.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    kind = "train"
    reads = "the fields that the objective names, and `split`"
    writes = "the student, in `student/`, or in `student-<name>/` for a stage of another name"
    fetches = True

    objective: str = Field("sft", description="how it learns: a file in objectives/, without its ending")
    student: str = Field(
        description="a model's folder, a .gguf file, owner/name on the Hugging Face Hub, tiny, or what an earlier stage trained"
    )
    revision: str | None = Field(None, description="the branch, tag or commit of a student on the Hub")
    warm_start: bool = Field(
        False,
        description="inside rounds: begin as what the round before has trained; the first begins as `student`",
    )
    lora: Lora | None = Field(
        None, description="train an adapter: {r: 16}; with bits: 4 as QLoRA; default: all weights"
    )
    epochs: float = Field(3.0, gt=0, description="how often every row is seen")
    max_steps: int | None = Field(
        None, ge=1, description="updates of the weights after which it ends, whatever the epochs"
    )
    batch_size: int = Field(8, ge=1, description="rows that a process computes at a time")
    accumulate: int = Field(1, ge=1, description="batches that one update of the weights is made of")
    learning_rate: float | None = Field(
        None, gt=0, description="default: the objective's own; ten times that with lora"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="how the learning rate falls"
    )
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, description="decay of the weights, as AdamW applies it")
    max_length: int = Field(1024, ge=8, description="tokens of a row; what is longer is cut at its end")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        None, description="default: float32; for lora on a GPU bfloat16"
    )
    gradient_checkpointing: bool = Field(False, description="less memory, a fifth more time")
    chat_template: str | None = Field(
        None, description="a Jinja file, instead of the student's own chat template"
    )
    on: Literal["kept", "raw", "random", "shuffled"] = Field(
        "kept",
        description="or a control arm of as many rows: raw (the first of the kept and of what filters "
        "dropped), random (any of these), or shuffled (the kept with each other's answers)",
    )
    where: str | None = Field(
        None,
        description="a template: only records for which it says yes (not nothing, false, no or 0) are learnt from",
    )
    held_out: float = Field(
        0.1, ge=0, lt=1, description="share of the source's items, with all their rows, only evaluated"
    )
    seed: int = Field(0, ge=0, description="of the split, new weights, dropout and the order of rows")
    save_every_s: float = Field(120.0, ge=0, description="seconds between checkpoints: what a kill can lose")
    processes: int | None = Field(None, ge=1, description="processes that train together; default: one a GPU")
    accelerate: str | None = Field(
        None, description="a configuration file of accelerate's launcher, instead of processes"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Train:
        if self.processes and self.accelerate:
            raise ValueError(
                "give either 'processes' or 'accelerate': the launcher's file says how many processes"
            )
        return self

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
        models = [self.student, str((self.model_extra or {}).get("teacher") or self.student)]
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

    def check(self, given: Checking) -> frozenset[str]:
        """Objective, options, fields, student and packages are there, and QLoRA has its GPU."""
        learning = self.learning(given.project)
        try:
            learning.check(given)
        except ConfigError as error:
            raise ConfigError(f"objective '{self.objective}': {error.message}") from error
        trained = [stage.folder(Path()).name for stage in given.stages if isinstance(stage, Train)]
        if self.student not in trained:
            students.check(self.student, given.project.root, trained)
        self.files(given.project)
        if self.where is not None:
            Text(self.where).check(given, "'where'")
        self.arm(given.project).check(given)
        if self.warm_start and not given.loops:
            raise ConfigError("warm_start: there is no round before: it is for a training inside rounds")
        if self.lora and not learning.adapters:
            raise ConfigError(f"objective '{self.objective}' trains all weights: leave out 'lora'")
        if self.lora and (self.model_extra or {}).get("head_only"):
            raise ConfigError(
                "head_only leaves the encoder as it is, which lora is to change: leave one of them out"
            )
        if self.lora and self.lora.bits:
            if not any(path for kind in ("nvidia[0-9]*", "kfd", "dxg") for path in Path("/dev").glob(kind)):
                remedy = "leave out bits, or train on a machine with one"
                raise ConfigError(
                    f"lora: bits: {self.lora.bits} (QLoRA) needs a GPU, and this machine has none; {remedy}"
                )
            if importlib.util.find_spec("bitsandbytes") is None:
                raise ConfigError("lora: bits: 4 (QLoRA) needs bitsandbytes: pip install bitsandbytes")
        needed = [*ALWAYS, *learning.packages, *(["peft"] if self.lora else [])]
        if students.is_gguf(self.student):
            needed.append("gguf")
        folder = students.local(self.student, given.project.root)
        if folder and (folder / "adapter_config.json").is_file():
            needed.append("peft")
        need(f"objective '{self.objective}'", *needed)
        self._check_student(given, learning)
        return given.fields

    def _check_student(self, given: Checking, learning: Objective) -> None:
        """The objective can train such a student, and its chat template takes such turns. Raises ConfigError."""
        first, template = self, ""
        while students.OF_STAGE.fullmatch(
            first.student
        ):  # what it begins as, of what the stage before it began as, …
            before = [
                s for s in given.stages if isinstance(s, Train) and s.folder(Path()).name == first.student
            ]
            if not before[0].learning(given.project).writes and (
                before[0].objective != self.objective or before[0].lora
            ):
                raise ConfigError(
                    f"'{first.student}' was trained by '{before[0].objective}', and cannot go on with this"
                )
            first, template = before[0], template or first.chat_template or ""
        known = students.outline(first.student, given.project.root, first.revision, fetch=given.fetch)
        named = template or first.chat_template
        if named:
            known = replace(known, template=given.project.file(named).read_text(encoding="utf-8"), read=True)
        elif first is not self:  # trained on texts, it has no template any more
            known = replace(known, read=False)
        try:
            learning.check_student(known, given)
        except ConfigError as error:
            raise ConfigError(
                f"objective '{self.objective}', student '{self.student}': {error.message}"
            ) from error
        if self.lora and known.layers and not self.lora.fits(known.layers):
            raise ConfigError(
                f"lora: 'target' names no layer of '{self.student}'; it has {_ends(known.layers)}"
            )
        if self.chat_template and not learning.chats(given):
            raise ConfigError(
                f"chat_template: objective '{self.objective}' learns no chat turns here, but texts; leave it out"
            )

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Write down what there is to learn, train on it, and pass the records on."""
        student = self.folder(job.directory)
        work = student.with_name(f"{student.name}.partial")
        with Spool(job) as spool:
            told = await self._written(chunks, job, spool, work)
            manifest = student / "manifest.json"
            if _fingerprint(manifest) != told["fingerprint"]:
                await supervise(work, self.name, job.notes)
                shutil.rmtree(student, ignore_errors=True)
                (work / "student").rename(student)
            shutil.rmtree(work)
            job.measures.update(measures_of(_measured(orjson.loads(manifest.read_bytes()))))
            for chunk in spool.chunks():
                yield chunk

    async def _written(self, chunks: Chunks, job: Job, spool: Spool, work: Path) -> dict[str, Any]:
        """Write the rows of all live records, and tell what the training is to know. Checkpoints of another one are removed."""
        sha, counts = hashlib.sha256(), Counter[str]()
        async for chunk in chunks:
            spool.add(chunk)
        fresh = work.with_name(f"{work.name}.rows")
        fresh.mkdir(exist_ok=True)
        with (fresh / "train.jsonl").open("wb") as train, (fresh / "held_out.jsonl").open("wb") as held_out:
            files = dict(zip(PARTS, (train, held_out), strict=True))
            for part, line in self.arm(job.project).rows(spool, job, counts):
                counts[part] += 1
                files[part].write(line)
                sha.update(part.encode() + line)
        if not counts["train"]:
            shutil.rmtree(fresh)
            lost = Counter(
                record.dropped.filter for chunk in spool.chunks() for record in chunk if record.dropped
            )
            reasons = [f"{n} {why}" for why, n in counts.items() if n and why not in PARTS]
            reasons += [f"{n} dropped by {name}" for name, n in lost.most_common()]
            what = ", ".join(reasons) or "no record came so far"
            raise ConfigError(f"stage '{self.name}': there is nothing to train on: {what}")
        if counts.get(DIFFERENT) == 0:
            log.warning(
                "stage '%s': no row of the arm '%s' differs from the kept: it is no control",
                self.name,
                self.on,
            )
        how = self.model_dump(exclude={"name", "save_every_s"})
        start = self.start(job.directory.resolve(), job.earlier)
        if start != self.student:
            how["student"] = _fingerprint(Path(start) / "manifest.json")
            if not how["student"]:
                remedy = "inside rounds a student begins as one that the same round trains"
                raise ConfigError(f"stage '{self.name}': there is no student in {start}; {remedy}")
        own = {name: file_sha256(path) for name, path in self.files(job.project).items()}
        versions = {"python": ".".join(map(str, sys.version_info[:3])), **_versions()}
        told = {
            "fingerprint": digest([sha.hexdigest(), how, own, versions], 64),
            "stage": self.model_dump(),
            "versions": versions,
            "root": str(job.project.root),
            "data": {"sha256": sha.hexdigest(), "rows": dict(counts)},
            "files": own,
            "start": start,
            "to": str(self.folder(job.directory).resolve()),
        }
        if _fingerprint(work / "job.json") != told["fingerprint"]:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            if (
                base := Path(start) / "base"
            ).is_dir() and not self.lora:  # what a tiny student began as, for `evaluate`
                shutil.copytree(base, work / "base")
        for file in fresh.iterdir():
            file.rename(work / file.name)
        fresh.rmdir()
        (work / "job.json").write_bytes(dumps(told))
        return told


def _ends(layers: Iterable[str]) -> str:
    """The last parts of layers' names, each once."""
    return ", ".join(sorted({layer.rpartition(".")[2] for layer in layers}))


def _fingerprint(file: Path) -> str | None:
    """Of the training that a job or a manifest tells of."""
    with suppress(FileNotFoundError, Damaged):
        return str(load_state(file, "fingerprint")["fingerprint"])
    return None


def _versions() -> dict[str, str]:
    versions = {}
    for name in VERSIONED:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _measured(manifest: Mapping[str, Any]) -> dict[str, float]:
    """What the report and the stage's line tell of a finished training."""
    loss, held_out = manifest["loss_curve"], manifest["held_out"]
    told = {"steps": manifest["steps"], **({"loss": loss[-1][1]} if loss else {})}
    for name, model in (("held-out loss", "student"), ("before", "base")):
        told |= {name: held_out[model]["loss"]} if held_out and "loss" in held_out[model] else {}
    return told | {why: count for why, count in manifest["data"]["rows"].items() if why not in PARTS}
