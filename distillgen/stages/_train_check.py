"""Whether a training is possible: its objective, its student and its options fit each other."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import need
from distillgen.flow.stage import CheckContext
from distillgen.networks.spec import NetworkSpec
from distillgen.project import Project
from distillgen.stages._earlier_students import (
    EarlierStudent,
    body_of,
    earlier_students,
    lineage,
    network_of,
    token_donors,
)
from distillgen.stages._train_options import TrainOptions
from distillgen.training import students
from distillgen.training.job import NEEDED
from distillgen.training.objective import Objective
from distillgen.training.options import Experts
from distillgen.training.surgery import outline_after


@dataclass(frozen=True)
class TrainCheck:
    """A training before it is bound. Each check raises ConfigError if the training is not possible."""

    stage: TrainOptions
    context: CheckContext
    learning: Objective
    earlier: Mapping[str, EarlierStudent]
    """The students of earlier trainings, and in rounds `previous`, by name."""
    network: NetworkSpec | None
    """The student, if it is a network as a mapping."""
    first: str
    """The student that the training begins with; "" for a network."""

    def check(self) -> None:
        """Check the options that depend on the objective and the student, the packages, and the student."""
        self._check_batch()
        self._check_lora()
        self._check_only()
        self._check_packages()
        if self.network:
            self._check_network(self.network)
        else:
            self._check_student()

    def _check_batch(self) -> None:
        if self.stage.batch_size == "all":
            if self.learning.network_inputs() is None:
                raise ConfigError("batch_size: all is for networks; give a number of rows")
        elif self.stage.batch_size < self.learning.smallest_batch:
            least = f"batch_size: {self.learning.smallest_batch} or more"
            raise ConfigError(
                f"objective '{self.stage.objective}' compares the rows of a batch: give {least}"
            )

    def _check_lora(self) -> None:
        lora, surgery = self.stage.lora, self.stage.surgery
        if not lora:
            return
        if surgery:
            new = "experts" if isinstance(surgery, Experts) else "models"
            raise ConfigError(f"'lora' trains no new {new}: leave it out, and train an adapter afterwards")
        if not self.learning.adapters:
            raise ConfigError(f"objective '{self.stage.objective}' trains all weights: leave out 'lora'")
        self.learning.check_adapter()
        if not lora.bits:
            return
        if not any(path for kind in ("nvidia[0-9]*", "kfd", "dxg") for path in Path("/dev").glob(kind)):
            remedy = "leave out bits, or train on a machine with one"
            raise ConfigError(
                f"lora: bits: {lora.bits} (QLoRA) needs a GPU, and this machine has none; {remedy}"
            )
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError("lora: bits: 4 (QLoRA) needs bitsandbytes: pip install bitsandbytes")

    def _check_only(self) -> None:
        """Raise ConfigError if `only` names no training of the same student, or if all weights change."""
        if not self.stage.only:
            return
        changed = self.stage.only.changed_by
        if changed not in self.earlier:
            near = did_you_mean(changed, self.earlier)
            raise ConfigError(f"only: no earlier stage trains '{changed}'{near}")
        other = self.earlier[changed].training
        starts = (self.stage.student, other.stage.student)
        if students.PREVIOUS in starts or any(isinstance(start, dict) for start in starts):
            raise ConfigError("only: it goes back to a student that is there; name one: student: student-x")
        if other.first != self.first:
            remedy = "begin both with one student"
            raise ConfigError(
                f"only: '{changed}' began with '{other.first}', and this with '{self.first}'; {remedy}"
            )
        if self.learning.gives() != "text" or other.learning.gives() != "text":
            raise ConfigError("only: it is for language models; leave it out")
        if self.stage.lora or other.stage.lora:
            raise ConfigError("only: an adapter leaves all weights as they are; leave out 'lora', or 'only'")
        if self.stage.weight_decay:
            raise ConfigError("only: weights that may not change would decay; leave out 'weight_decay'")

    def _check_packages(self) -> None:
        subject, project = f"objective '{self.stage.objective}'", self.context.project
        packages = [*NEEDED, *self.learning.packages, *(["peft"] if self.stage.lora else [])]
        if self.network:
            need(subject, *packages, *self.network.module_of(project).packages)
            return
        if students.is_gguf(self.first):
            packages.append("gguf")
        folder = students.local(self.first, project.root)
        if folder and (folder / "adapter_config.json").is_file():
            packages.append("peft")
        need(subject, *packages)

    def _check_network(self, network: NetworkSpec) -> None:
        """Raise ConfigError if the objective cannot train the network, or an option is not for networks."""
        project = self.context.project
        networks = [*networks_of(self.learning, network, project)]
        if self.context.fetch:
            for spec, _ in networks:
                spec.module_of(project).fetch(project)
        earlier = self._networks(
            [*self.learning.models(), *(n for spec, _ in networks for n in spec.models(project))]
        )
        try:
            self.learning.check_network(network, self.context, earlier)
        except ConfigError as error:
            raise ConfigError(f"objective '{self.stage.objective}': {error.message}") from error
        for spec, inputs in networks:
            body, bodies = spec.module_of(project), {}
            fields = inputs or self.learning.network_inputs() or ()
            if body.one_input and len(fields) > 1:
                raise ConfigError(
                    f"student body '{spec.body}' reads one input, and not {', '.join(fields)}: name one with "
                    "`inputs` beside it"
                )
            for name in body.models():
                if name not in self.earlier:
                    near = did_you_mean(name, self.earlier)
                    raise ConfigError(f"student: no earlier stage trains '{name}'{near}")
                bodies[name] = body_of(name, self.earlier, project)
                self._check_inputs(inputs, name)
            body.check_models(bodies)
            if spec.shared:
                self._check_shared(spec.shared[1])
        for name in self.learning.models():
            if name in self.earlier and body_of(name, self.earlier, project).reads == "graph":
                raise ConfigError(
                    f"teachers: '{name}' knows nodes by their ids; ask it in a stage generate with logprobs, "
                    "and name that stage as the teacher"
                )
        for option in ("lora", "chat_template", "revision", "gradient_checkpointing"):
            if getattr(self.stage, option):
                raise ConfigError(f"'{option}' is for language models; leave it out")
        if self.network and not network.shared and not self.learning.names_classes():
            remedy = "name the field of the labels with label: …, or a teacher that gives classes"
            raise ConfigError(f"objective '{self.stage.objective}': there is no class to learn; {remedy}")

    def _networks(self, names: Iterable[str]) -> dict[str, NetworkSpec]:
        """Return the networks of earlier students, and those that they are made of, by name."""
        networks: dict[str, NetworkSpec] = {}
        for name in names:
            if name in self.earlier and self.earlier[name].inputs is not None:
                spec = networks[name] = network_of(name, self.earlier, self.context.project)
                networks |= self._networks(spec.models(self.context.project))
        return networks

    def _check_shared(self, name: str) -> None:
        """Raise ConfigError if no student can take the classifier of an earlier one."""
        project = self.context.project
        if name not in self.earlier:
            raise ConfigError(f"heads: no earlier stage trains '{name}'{did_you_mean(name, self.earlier)}")
        body, spec = body_of(name, self.earlier, project), network_of(name, self.earlier, project)
        if body.heads() or len(spec.heads) > 1 or any(head.groups > 1 for head in spec.heads.values()):
            raise ConfigError(f"heads: '{name}' has not one linear layer over its features, to be shared")

    def _check_inputs(self, inputs: Sequence[str] | None, name: str) -> None:
        """Raise ConfigError if an earlier student reads a field that is no input of the training."""
        fields = inputs or self.learning.network_inputs() or ()
        for field_name in self.earlier[name].inputs or ():
            if field_name not in fields:
                raise ConfigError(f"'{name}' reads the field '{field_name}': name it under inputs")

    def _check_student(self) -> None:
        """Raise ConfigError if the objective cannot train the student that the training begins with."""
        stage, trainings = self.stage, [*lineage(self.first, self.earlier)]
        for name, student in trainings:
            if student.inputs is not None:
                if stage.surgery:
                    raise ConfigError(f"student: of: '{name}' is a network; name a language model")
                spec = network_of(name, self.earlier, self.context.project)
                self._check_network(spec.model_copy(update={"inputs": spec.inputs or student.inputs}))
                self._check_inputs(None, name)
                return
            before = student.training
            continues = before.stage.objective == stage.objective and not before.stage.lora
            if before.learning.gives() != "text" and not continues:
                raise ConfigError(
                    f"'{name}' was trained by '{before.stage.objective}', and cannot go on with this"
                )
        outline = self._outline(trainings)
        try:
            self.learning.check_student(outline, self.context)
        except ConfigError as error:
            raise ConfigError(
                f"objective '{stage.objective}', student '{self.first}': {error.message}"
            ) from error
        if stage.lora and outline.layers and not stage.lora.fits(outline.layers):
            ends = ", ".join(sorted({layer.rpartition(".")[2] for layer in outline.layers}))
            raise ConfigError(f"lora: 'target' names no layer of '{self.first}'; it has {ends}")
        if stage.chat_template and not self.learning.chats(self.context):
            raise ConfigError(
                f"chat_template: objective '{stage.objective}' learns no chat turns here, but texts; "
                "leave it out"
            )

    def _outline(self, trainings: Sequence[tuple[str, EarlierStudent]]) -> students.Outline:
        """Return the outline of the student as the training begins: that of a model before any training, with
        what the earlier trainings, of which the last stands first, have changed.
        """
        context, stages = self.context, [self.stage, *(student.training.stage for _, student in trainings)]
        model, oldest = trainings[-1][1].training.first if trainings else self.first, stages[-1]
        root, tiny = context.project.root, oldest.tiny
        outline = students.outline(model, root, oldest.revision, fetch=context.fetch, tiny=tiny)
        surgeries = [stage.surgery for stage in reversed(stages) if stage.surgery]
        outline = outline_after(self.first, outline, surgeries, tiny)
        donors = [tiny.donor] if tiny and tiny.donor else []
        names, earlier = frozenset([*(name for name, _ in trainings), *donors]), earlier_students(context)
        akin = (other for other in earlier if not names.isdisjoint(token_donors(other, earlier)))
        distiller = outline.distiller or bool(trainings) and trainings[0][1].demonstrated
        outline = replace(outline, tokens=names.union(akin), distiller=distiller)
        if template := next((stage.chat_template for stage in stages if stage.chat_template), None):
            text = context.project.file(template).read_text(encoding="utf-8")
            return replace(outline, template=text)
        return replace(outline, read=False) if trainings else outline  # texts remove the template


def networks_of(
    learning: Objective, student: NetworkSpec | None, project: Project
) -> Iterator[tuple[NetworkSpec, Sequence[str] | None]]:
    """Yield the student, if it is a network as a mapping, and the peers, each with the fields it reads."""
    if student:
        yield student, student.inputs
    for peer in learning.peers().values():
        yield NetworkSpec.of(peer.peer or {}, project), peer.inputs
