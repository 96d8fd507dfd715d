"""train: train a student on the records that reach the stage, in a process of its own."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import ConfigDict, Field, field_validator

from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import need
from distillgen.flow.measures import measures_of
from distillgen.flow.stage import BoundStage, CheckContext, Chunks, Job, Stage, Text
from distillgen.flow.whole_set import Spool
from distillgen.inference.spec import Spec
from distillgen.located_yaml import Places, validate
from distillgen.networks.body import Body
from distillgen.networks.spec import NetworkSpec
from distillgen.plugins import find
from distillgen.project import Project, file_sha256
from distillgen.record import digest, text_of
from distillgen.teachers.network import NetworkTeacherSpec
from distillgen.teachers.transformers import TransformersSpec
from distillgen.training import students
from distillgen.training.arms import DIFFERENT, Arm
from distillgen.training.job import (
    NEEDED,
    NothingToLearn,
    RowData,
    TrainingJob,
    fingerprint_of,
    installed_versions,
)
from distillgen.training.objective import Objective, objective_class
from distillgen.training.options import Experts, TrainingOptions
from distillgen.training.rows import PARTS
from distillgen.training.supervise import supervise
from distillgen.training.surgery import outline_after

log = logging.getLogger("distillgen")


class Train(TrainingOptions, Stage):
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

    model_config = ConfigDict(extra="allow", frozen=True)
    kind = "train"
    scope = "set"
    reads = "the fields that the objective names, and `split`"
    writes = "the student, in `student/`, or in `student-<name>/` for a stage of another name"
    fetches = True
    optional = frozenset({"when", "each"})

    on: Literal["kept", "raw", "random", "shuffled"] = Field(
        "kept",
        description="records to learn from: kept, or a control arm of the same size: raw (the first of "
        "the records that are kept or that a filter dropped), random (a random choice of these) or shuffled "
        "(the kept records, each with the answer of another)",
    )
    where: str | None = Field(
        None,
        description="template; the student skips records for which the result is empty, false, no, 0 or null",
    )
    held_out: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the source's items that are only evaluated, with all their rows",
    )
    each: str | dict[str, list[str | int | float | bool]] | None = Field(
        None,
        description="field, such as a domain, that has the same value in all records of a student: "
        "each: domain, where the source has the field; or with the values: {domain: [geography, history]}",
    )
    arms: dict[str, dict[str, Any]] = Field(
        {},
        exclude=True,  # an arm is a stage of its own, and changes nothing in this one
        description="further trainings by name, each with the options in which it differs from this one: "
        "arms: {shuffled: {on: shuffled}} also trains student-shuffled",
    )

    @field_validator("each")
    @classmethod
    def _one_field(cls, value: Any) -> Any:
        if isinstance(value, dict) and (len(value) != 1 or not [*value.values()][0]):
            raise ValueError("each takes one field and its values: each: {domain: [geography, history]}")
        return value

    def learning(self, project: Project) -> Objective:
        """Return the objective with its options. Raise ConfigError if the name or an option is wrong."""
        objective, options = objective_class(self.objective, project), self.model_extra or {}
        for option in options:
            if option not in objective.model_fields:
                names = sorted({*Train.model_fields, *objective.model_fields})
                raise ConfigError(
                    f"objective '{self.objective}' has no option '{option}'{did_you_mean(option, names)}"
                )
        return validate(objective, options, owner=f"objective '{self.objective}'", places=Places())

    @property
    def options(self) -> TrainingOptions:
        """The options that the process reads."""
        return TrainingOptions(**{name: getattr(self, name) for name in TrainingOptions.model_fields})

    @property
    def student_name(self) -> str:
        """The name under which later stages ask the student, and its folder in the run directory."""
        return f"{students.STUDENT}{self._suffix}"

    @property
    def base_name(self) -> str:
        """The name under which later stages ask the student as it was before the training."""
        return f"base{self._suffix}"

    @property
    def _suffix(self) -> str:
        """How the names of what the stage makes end: in nothing for `train`, in `-shuffled` for its arm
        `train-shuffled` and for a stage `shuffled`.
        """
        return "" if self.name == self.kind else f"-{self.name.removeprefix(f'{self.kind}-')}"

    def arm(self, learning: Objective) -> Arm:
        """Return what chooses the rows."""
        listed_values = self.each if isinstance(self.each, dict) else {}
        only = {name: text_of(values[0]) for name, values in listed_values.items()}
        return Arm(self.on, self.where, self.held_out, self.seed, learning, only)

    def makes(self, directory: Path, project: Project) -> dict[str, Spec]:
        """Return the student, its peers and its base, for later stages to ask; the bound stage knows where a
        base is.
        """
        first = self.surgery.of if self.surgery else self.student
        if isinstance(first, dict):
            return self.leaves(students.TINY if self.tiny else "", "", directory, project, sees=None)
        base = str(directory / first) if students.is_trained(first) else first
        return self.leaves(first, base, directory, project, sees=None)

    def leaves(
        self, first: str, base: str, directory: Path, project: Project, *, sees: bool | None
    ) -> dict[str, Spec]:
        """Return the student, its peers and its base, for later stages to ask. `first` is the student before
        any training, and `base` the model to ask in its place; it has no classes, no scores and no distiller.
        `sees` says whether they take pictures; None if that is unknown.
        """
        learning, folder = self.learning(project), directory / self.student_name
        gives, peers = learning.gives(), learning.peers()
        models = {self.student_name: str(folder)}
        models |= {f"{self.student_name}-{peer}": str(folder / students.PEERS / peer) for peer in peers}
        if not students.is_gguf(first) and gives not in ("classes", "scores", "demonstrated"):
            # a GGUF file is not asked before it is converted
            models[self.base_name] = str(folder / "base") if first == students.TINY else base
        if gives in ("text", "demonstrated"):
            reads = {"demonstrations": gives == "demonstrated"}
            return {
                name: TransformersSpec(provider="transformers", model=model, images=sees, **reads)
                for name, model in models.items()
            }
        return {
            name: NetworkTeacherSpec(provider="network", model=model, gives=gives)
            for name, model in models.items()
        }

    def products(self, directory: Path) -> list[Path]:
        """Return the student's manifest, which is written last."""
        return [directory / self.student_name / "manifest.json"]

    def bind(self, context: CheckContext) -> BoundTrain:
        """Return the stage with its objective. Raise ConfigError if something is missing."""
        project, trained = context.project, _trainings(context)
        if context.loops and context.start in trained:
            trained[students.PREVIOUS] = trained[context.start]
        earlier = {name: training.inputs for name, training in trained.items()}
        learning = self.learning(project)
        try:
            learning = learning.bound(context, earlier)
            learning.check(context)
        except ConfigError as error:
            raise ConfigError(f"objective '{self.objective}': {error.message}") from error
        self._check_tokens(trained)
        for bound in context.stages:
            if isinstance(bound, BoundTrain) and bound.stage.student_name == self.student_name:
                raise ConfigError(
                    f"stage '{bound.name}' also makes '{self.student_name}'; rename one of them"
                )
        network = NetworkSpec.of(self.network, project) if self.network else None
        first = "" if network else self._first(context, trained)
        if first not in trained and not network:
            students.check(first, project.root, [*trained])
        needed = {name: trained[name] for name in self._parts(learning, network, project) if name in trained}
        for name, training in needed.items():
            if training.demonstrated:
                raise ConfigError(f"'{name}' reads demonstrations as vectors; record its answers in a stage")
        files = self._files(project, learning, first, network)
        if self.where is not None:
            Text(self.where).check(context, "'where'")
        arm = self.arm(learning)
        arm.check(context)
        for name, value in arm.only.items():
            context.need(name, "each")
            values = context.values(name)
            if values is not None and value not in values:
                raise ConfigError(f"no training record has '{name}': '{value}'{did_you_mean(value, values)}")
        if self.batch_size == "all":
            if learning.network_inputs() is None:
                raise ConfigError("batch_size: all is for networks; give a number of rows")
        elif self.batch_size < learning.smallest_batch:
            least = f"batch_size: {learning.smallest_batch} or more"
            raise ConfigError(f"objective '{self.objective}' compares the rows of a batch: give {least}")
        self._check_lora(learning)
        self._check_only(learning, first, trained)
        self._check_packages(project, learning, first, network)
        if network:
            self._check_network(context, learning, network, trained)
        else:
            self._check_student(context, learning, first, trained)
        return BoundTrain(
            self,
            context,
            context.fields,
            files=files,
            learning=learning,
            arm=arm,
            first=first,
            folder=trained[first].folder if first in trained else None,
            others=needed,
        )

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
        networks = _networks(learning, network, project)
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

    def _check_tokens(self, trained: Mapping[str, _Training]) -> None:
        """Raise ConfigError if no earlier student has the tokens that a tiny student takes."""
        if not self.tiny or not self.tiny.donor:
            return
        writers = [name for name, training in trained.items() if training.bound.learning.gives() == "text"]
        if self.tiny.donor not in writers:
            raise ConfigError(
                f"student: tokens: no earlier stage trains a language model '{self.tiny.donor}'"
                f"{did_you_mean(self.tiny.donor, writers)}"
            )

    def _check_lora(self, learning: Objective) -> None:
        if not self.lora:
            return
        if self.surgery:
            new = "experts" if isinstance(self.surgery, Experts) else "models"
            raise ConfigError(f"'lora' trains no new {new}: leave it out, and train an adapter afterwards")
        if not learning.adapters:
            raise ConfigError(f"objective '{self.objective}' trains all weights: leave out 'lora'")
        learning.check_adapter()
        if not self.lora.bits:
            return
        if not any(path for kind in ("nvidia[0-9]*", "kfd", "dxg") for path in Path("/dev").glob(kind)):
            remedy = "leave out bits, or train on a machine with one"
            raise ConfigError(
                f"lora: bits: {self.lora.bits} (QLoRA) needs a GPU, and this machine has none; {remedy}"
            )
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError("lora: bits: 4 (QLoRA) needs bitsandbytes: pip install bitsandbytes")

    def _check_only(self, learning: Objective, first: str, trained: Mapping[str, _Training]) -> None:
        """Raise ConfigError if `only` names no training of the same student, or if all weights change."""
        if not self.only:
            return
        changed = self.only.changed_by
        if changed not in trained:
            raise ConfigError(f"only: no earlier stage trains '{changed}'{did_you_mean(changed, trained)}")
        other = trained[changed].bound
        starts = (self.student, other.stage.student)
        if students.PREVIOUS in starts or any(isinstance(start, dict) for start in starts):
            raise ConfigError("only: it goes back to a student that is there; name one: student: student-x")
        if other.first != first:
            remedy = "begin both with one student"
            raise ConfigError(
                f"only: '{changed}' began with '{other.first}', and this with '{first}'; {remedy}"
            )
        if learning.gives() != "text" or other.learning.gives() != "text":
            raise ConfigError("only: it is for language models; leave it out")
        if self.lora or other.stage.lora:
            raise ConfigError("only: an adapter leaves all weights as they are; leave out 'lora', or 'only'")
        if self.weight_decay:
            raise ConfigError("only: weights that may not change would decay; leave out 'weight_decay'")

    def _check_network(
        self,
        context: CheckContext,
        learning: Objective,
        network: NetworkSpec,
        trained: Mapping[str, _Training],
    ) -> None:
        """Raise ConfigError if the objective cannot train the network, or an option is not for networks."""
        try:
            learning.check_network(network, context)
        except ConfigError as error:
            raise ConfigError(f"objective '{self.objective}': {error.message}") from error
        for spec, inputs in _networks(learning, network, context.project):
            body, bodies = spec.module_of(context.project), {}
            for name in body.models():
                if name not in trained:
                    choices = did_you_mean(name, trained)
                    raise ConfigError(f"student: no earlier stage trains '{name}'{choices}")
                bodies[name] = _body_of(name, trained, context.project)
                self._check_inputs(learning, inputs, name, trained)
            body.check_models(bodies)
            if spec.shared:
                self._check_shared(spec.shared[1], trained, context.project)
        for name in learning.models():
            if name in trained and _body_of(name, trained, context.project).reads == "graph":
                raise ConfigError(
                    f"teachers: '{name}' knows nodes by their ids; ask it in a stage generate with logprobs, "
                    "and name that stage as the teacher"
                )
        for option in ("lora", "chat_template", "revision", "gradient_checkpointing"):
            if getattr(self, option):
                raise ConfigError(f"'{option}' is for language models; leave it out")

    def _check_shared(self, name: str, trained: Mapping[str, _Training], project: Project) -> None:
        """Raise ConfigError if no student can take the classifier of an earlier one."""
        if name not in trained:
            raise ConfigError(f"heads: no earlier stage trains '{name}'{did_you_mean(name, trained)}")
        body, spec = _body_of(name, trained, project), _spec_of(name, trained, project)
        if body.heads() or len(spec.heads) > 1 or any(head.groups > 1 for head in spec.heads.values()):
            raise ConfigError(f"heads: '{name}' has not one linear layer over its features, to be shared")

    def _check_inputs(
        self, learning: Objective, inputs: Sequence[str] | None, name: str, trained: Mapping[str, _Training]
    ) -> None:
        """Raise ConfigError if an earlier student reads a field that is no input of the training."""
        fields = inputs or learning.network_inputs() or ()
        for field_name in trained[name].inputs or ():
            if field_name not in fields:
                raise ConfigError(f"'{name}' reads the field '{field_name}': name it under inputs")

    def _check_packages(
        self, project: Project, learning: Objective, student: str, network: NetworkSpec | None
    ) -> None:
        packages = [*NEEDED, *learning.packages, *(["peft"] if self.lora else [])]
        if network:
            need(f"objective '{self.objective}'", *packages, *network.module_of(project).packages)
            return
        if students.is_gguf(student):
            packages.append("gguf")
        folder = students.local(student, project.root)
        if folder and (folder / "adapter_config.json").is_file():
            packages.append("peft")
        need(f"objective '{self.objective}'", *packages)

    def _check_student(
        self, context: CheckContext, learning: Objective, student: str, trained: Mapping[str, _Training]
    ) -> None:
        """Raise ConfigError if the objective cannot train the student."""
        name, first, template, chain = student, self, "", list[str]()
        surgeries = [self.surgery]
        demonstrated = student in trained and trained[student].demonstrated
        while student in trained:  # go back to the model that the first training begins with
            chain.append(student)
            before = trained[student].bound
            if trained[student].inputs is not None and self.surgery:
                raise ConfigError(f"student: of: '{student}' is a network; name a language model")
            if trained[student].inputs is not None:
                network = _spec_of(student, trained, context.project)
                self._check_network(context, learning, network, trained)
                self._check_inputs(learning, None, student, trained)
                return
            continued = before.stage.objective == self.objective and not before.stage.lora
            if before.learning.gives() != "text" and not continued:
                raise ConfigError(
                    f"'{student}' was trained by '{before.stage.objective}', and cannot go on with this"
                )
            template = template or first.chat_template or ""
            surgeries.append(before.stage.surgery)
            first, student, trained = before.stage, before.first, _trainings(before.context)
        root, tiny = context.project.root, first.tiny
        outline = students.outline(student, root, first.revision, fetch=context.fetch, tiny=tiny)
        tokens = [tiny.donor] if tiny and tiny.donor else ()
        outline = outline_after(name, outline, [surgery for surgery in reversed(surgeries) if surgery], tiny)
        lineage, earlier = frozenset([*chain, *tokens]), _trainings(context)
        akin = (other for other in earlier if not lineage.isdisjoint(_origins(other, earlier)))
        outline = replace(outline, tokens=lineage.union(akin))
        outline = replace(outline, distiller=outline.distiller or demonstrated)
        template_file = template or first.chat_template
        if template_file:
            text = context.project.file(template_file).read_text(encoding="utf-8")
            outline = replace(outline, template=text, read=True)
        elif first is not self:  # a training on texts removes the template
            outline = replace(outline, read=False)
        try:
            learning.check_student(outline, context)
        except ConfigError as error:
            raise ConfigError(f"objective '{self.objective}', student '{name}': {error.message}") from error
        if self.lora and outline.layers and not self.lora.fits(outline.layers):
            ends = ", ".join(sorted({layer.rpartition(".")[2] for layer in outline.layers}))
            raise ConfigError(f"lora: 'target' names no layer of '{name}'; it has {ends}")
        if self.chat_template and not learning.chats(context):
            raise ConfigError(
                f"chat_template: objective '{self.objective}' learns no chat turns here, but texts; "
                "leave it out"
            )


@dataclass(frozen=True)
class BoundTrain(BoundStage):
    """The stage with its objective, and with the arm that chooses the rows."""

    stage: Train
    learning: Objective = field(kw_only=True)
    arm: Arm = field(kw_only=True)
    first: str = field(kw_only=True)
    """The student that the training begins with; in rounds, that of the first round."""
    folder: Path | None = field(kw_only=True)
    """The folder of `first`, from the directory of this stage, if an earlier stage trains it."""
    others: Mapping[str, _Training] = field(kw_only=True)
    """The earlier students that teach, or that the student is made of."""

    def makes(self, directory: Path) -> Mapping[str, Spec]:
        """Return the student and its base, for later stages to ask."""
        base = self._begins_with(directory)
        sees = _sees(self.stage, self.first, _trainings(self.context), self.context.project.root)
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
            training = self._declared(spool, job, work)
            manifest = student / "manifest.json"
            if fingerprint_of(manifest) != training.fingerprint:
                await supervise(work, self.name, job.services.notes)
                shutil.rmtree(student, ignore_errors=True)
                (work / "student").rename(student)
            shutil.rmtree(work)
            job.services.measures.update(measures_of(_measured(orjson.loads(manifest.read_bytes()))))
            for chunk in spool.chunks():
                yield chunk

    def _declared(self, spool: Spool, job: Job, work: Path) -> TrainingJob:
        """Write the rows and `job.json` to the folder `work`, and return the job.

        Files of another training in `work` are removed; the checkpoints of an equal one stay.
        """
        stage, fresh = self.stage, work.with_name(f"{work.name}.rows")
        fresh.mkdir(exist_ok=True)
        data = self.arm.write(fresh, spool, job.services.ledger, job.context.stages)
        if not data.rows.get("train"):
            shutil.rmtree(fresh)
            raise self._nothing_to_learn(spool, data)
        if data.rows.get(DIFFERENT) == 0:
            message = "stage '%s': no row of the arm '%s' differs from the kept: it is no control"
            log.warning(message, self.name, stage.on)
        directory = job.context.directory.resolve()
        start = self._begins_with(directory)
        models = {
            name: Path(os.path.normpath(directory / training.folder))
            for name, training in self.others.items()
        }
        if job.context.earlier:
            before = job.context.earlier[-1].resolve() / stage.student_name
            start = str(before) if stage.student == students.PREVIOUS else start
            models |= {students.PREVIOUS: before} if students.PREVIOUS in models else {}
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
        training = TrainingJob(
            fingerprint=digest([data.sha256, options, files, versions], 64),
            options=stage.options.model_copy(update={"student": student}),
            objective=self.learning.model_dump(),
            stage=stage.model_dump(),
            root=job.context.project.root,
            start=start,
            models=models,
            to=(job.context.directory / stage.student_name).resolve(),
            data=data,
            files=files,
            versions=versions,
        )
        if fingerprint_of(work / "job.json") != training.fingerprint:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            base = Path(start) / "base"
            if base.is_dir() and not stage.lora:  # `evaluate` asks the tiny student of the first training
                shutil.copytree(base, work / "base")
        for file in fresh.iterdir():
            file.rename(work / file.name)
        fresh.rmdir()
        (work / "job.json").write_text(training.model_dump_json(), encoding="utf-8")
        return training

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


class _Training(NamedTuple):
    """An earlier stage that trains, and the folder of its student from the directory of the stage at hand."""

    bound: BoundTrain
    folder: Path
    peer: str = ""
    """The name of the peer, if the student is one."""

    @property
    def demonstrated(self) -> bool:
        """Whether the student reads demonstrations as vectors."""
        return self.bound.learning.gives() == "demonstrated"

    @property
    def inputs(self) -> list[str] | None:
        """The fields that the student reads; None for a language model."""
        return self.bound.learning.network_inputs(self.peer)


def _networks(
    learning: Objective, student: NetworkSpec | None, project: Project
) -> list[tuple[NetworkSpec, Sequence[str] | None]]:
    """Return the student, if it is a network as a mapping, and the peers, each with the fields it reads."""
    peers = [(NetworkSpec.of(peer.peer or {}, project), peer.inputs) for peer in learning.peers().values()]
    return [*([(student, student.inputs)] if student else []), *peers]


def _spec_of(name: str, trained: Mapping[str, _Training], project: Project) -> NetworkSpec:
    """Return the network that an earlier student or peer is."""
    bound, _, peer = trained[name]
    if peer:
        return NetworkSpec.of(bound.learning.peers()[peer].peer or {}, project)
    if isinstance(bound.stage.student, dict):
        return NetworkSpec.of(bound.stage.student, project)
    return _spec_of(bound.first, _trainings(bound.context), project)


def _origins(name: str, trained: Mapping[str, _Training]) -> Iterator[str]:
    """Yield an earlier student, and those from which it has its tokens."""
    while name in trained:
        yield name
        bound = trained[name].bound
        donor = bound.stage.tiny.donor if bound.stage.tiny else None
        name, trained = donor or bound.first, _trainings(bound.context)


def _sees(stage: Train, first: str, trained: Mapping[str, _Training], root: Path) -> bool | None:
    """Return whether the language model that a stage trains takes pictures; None if that is unknown."""
    while first in trained:
        bound = trained[first].bound
        stage, first, trained = bound.stage, bound.first, _trainings(bound.context)
    return students.outline(first, root, tiny=stage.tiny).sees if first else False


def _body_of(name: str, trained: Mapping[str, _Training], project: Project) -> Body:
    """Return the body of an earlier student or peer. Raise ConfigError if it is no network."""
    if trained[name].inputs is None:
        raise ConfigError(f"'{name}' is no network")
    return _spec_of(name, trained, project).module_of(project)


def _trainings(context: CheckContext) -> dict[str, _Training]:
    """Return the earlier stages that train, also those in earlier loops, by the name of their student."""

    def within(bound: BoundStage, directory: Path) -> Iterator[tuple[str, _Training]]:
        if isinstance(bound, BoundTrain):
            name = bound.stage.student_name
            yield name, _Training(bound, directory / name)
            for peer in bound.learning.peers():
                yield f"{name}-{peer}", _Training(bound, directory / name / students.PEERS / peer, peer)
        for inner in bound.inner():  # the student of a loop is that of its last round
            yield from within(inner, directory / bound.name / "last")

    return {
        name: training
        for place, bound in enumerate(context.stages)
        for name, training in within(bound, Path(*[".."] * 2 * context.loops_behind(place)))
    }


def _measured(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a finished training for the report and the stage's line."""
    curve, held_out = manifest["loss_curve"], manifest["held_out"]
    measures = {"steps": manifest["steps"], **({"loss": curve[-1][1]} if curve else {})}
    for name, model in (("held-out loss", "student"), ("before", "base")):
        measures |= {name: held_out[model]["loss"]} if held_out and "loss" in held_out[model] else {}
    counts = manifest["data"]["rows"].items()
    return measures | {reason: count for reason, count in counts if reason not in PARTS}
