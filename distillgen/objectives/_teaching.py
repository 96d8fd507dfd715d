"""The options of objective distil: losses, weights and teachers, resolved and checked before the training."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import Field

from distillgen.algorithms.arithmetic import Arithmetic
from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.stage import CheckContext
from distillgen.networks.spec import NetworkSpec
from distillgen.option_types import FieldName
from distillgen.plugins import find
from distillgen.project import Project
from distillgen.record import SPLIT
from distillgen.training import students
from distillgen.training.blend import Blend
from distillgen.training.dialogue import Dialogue
from distillgen.training.mixup import Mixup
from distillgen.training.part import Entry, Loss, Part, chance_of, losses_of, weights_of
from distillgen.training.part import Signal as SignalKind
from distillgen.training.sources import NOUNS, RECORD, Source

STUDENT = "student"
VALIDATION = "give the source validation: 0.1, or rows with split: validation"
VARIABLES = frozenset({"progress", "epoch"})  # in the arithmetic of a weight, besides the weights


class Teaching(Dialogue):
    """Learns by losses and weights, from teachers by name."""

    inputs: list[FieldName] | None = Field(
        None,
        min_length=1,
        description="fields that a network reads: numbers, lists of them, texts, or references to arrays and "
        "pictures",
    )
    label: FieldName | None = Field(
        None, description="field with the class; null in a record without a label. Default: no labels"
    )
    node: FieldName = Field("node", description="field with the id of a row, to which edges lead")
    neighbours: FieldName = Field("neighbours", description="field with the ids of a row's neighbours")
    group: FieldName | None = Field(
        None,
        description="field, such as a domain, that has one value in all rows of a batch; a value with fewer "
        "training rows than a batch has is left out",
    )
    losses: list[Entry] = Field(min_length=1, description="losses: names in losses/, each with its options")
    weights: dict[str, Entry] = Field(
        default_factory=dict, description="weights by name, which the losses' `weight` may use"
    )
    draw: Entry | None = Field(
        None,
        description="draw as many rows anew before each epoch, by chances: {confident: {teacher: NAME}}; "
        "default: each row once",
    )
    teachers: dict[str, Source] = Field(
        default_factory=dict,
        description="teachers by name; the name of a stage, a field or an earlier student needs no entry",
    )
    shuffle: list[str] | None = Field(
        None,
        description="the teachers whose words `on: shuffled` gives to other rows; default: all but peers, "
        "and the edges",
    )
    mixup: Mixup | None = Field(
        None,
        description="mix rows of each batch, before anybody is asked about them: {share: 0.1, beta: 1}; "
        "teachers are earlier students and peers",
    )
    blend: Blend | None = Field(
        None,
        description="average the student's weights: {start: 0.3, average: 0.95} keeps three tenths of those "
        "that it began with, and takes a moving average of those of the training",
    )
    transductive: bool = Field(
        False, description="learn from held-out records, too, without their labels: for graphs"
    )
    learn_validation: bool = Field(
        False, description="learn from the validation records, too: a fair rival of weights that use them"
    )

    def bound(self, context: CheckContext, earlier: Mapping[str, Sequence[str] | None]) -> Self:
        """Return the objective with an entry in `teachers` for every name that a loss or weight uses.

        `earlier` holds the fields that each student of an earlier stage reads; None for a language model.
        Raise ConfigError.
        """
        teachers = {name: self._read(source, context, earlier) for name, source in self.teachers.items()}
        for _, part in self._parts(context):
            for name, signal in part.teachers().items():
                if name == STUDENT:
                    continue
                if name not in teachers:
                    source = self._source(name, signal, context, earlier)
                    teachers[name] = self._read(source, context, earlier)
                reads = sorted({*teachers[name].reads, signal})
                teachers[name] = teachers[name].model_copy(update={"reads": reads})
        return self.model_copy(update={"teachers": teachers})

    def _source(
        self, name: str, signal: SignalKind, context: CheckContext, earlier: Collection[str]
    ) -> Source:
        """Return the source of a teacher that has no entry: a stage, an earlier student, or a field."""
        if signal == "number":
            return Source(field=name)
        model, _, head = name.partition(".")
        stages = [s.name for s in context.stages if s.records_logprobs() or s.stage.records_embeddings()]
        if name in stages:
            return Source(stage=name)
        if model in earlier:
            return Source(model=model, head=head or None)
        if name in context.fields:
            return Source(field=name)
        if self.inputs is None and students.is_weights(name, context.project.root):
            return Source(model=name)
        if _of_earlier_run(context):  # it kept what its stages recorded, and not their names
            return Source(stage=name)
        choices = [*stages, *earlier, *context.fields]
        if any(stage.name == name for stage in context.stages):
            raise ConfigError(
                f"teacher: the stage '{name}' records no log-probabilities and no embedding; set logprobs: 5 "
                "on it, its model or its prompt"
            )
        raise ConfigError(
            f"teacher: '{name}' is no stage, no field and no earlier student{did_you_mean(name, choices)}"
        )

    def _read(
        self, source: Source, context: CheckContext, earlier: Mapping[str, Sequence[str] | None]
    ) -> Source:
        """Return a source with the fields that its network reads. Raise ConfigError if there is none."""
        if source.peer is not None:
            return source.model_copy(update={"inputs": source.peer.get("inputs") or self.inputs})
        if source.model is None:
            return source
        if source.model not in earlier:
            if source.model == students.PREVIOUS:
                raise ConfigError(
                    f"teachers: '{students.PREVIOUS}' is the student of the round before: use it inside "
                    "rounds that start with an earlier student"
                )
            if self.inputs is None and students.is_weights(source.model, context.project.root):
                return source
            choices = did_you_mean(source.model, [*earlier])
            remedy = (
                "" if self.inputs else "; or give a model's folder, or owner/name on the Hugging Face Hub"
            )
            raise ConfigError(f"teachers: no earlier stage trains '{source.model}'{choices}{remedy}")
        inputs = earlier[source.model]
        if (inputs is None) != (self.inputs is None):
            kinds = ("a network", "a language model")
            raise ConfigError(
                f"the teacher '{source.model}' is {kinds[inputs is None]}, and the student is "
                f"{kinds[self.inputs is None]}: record what the teacher says in a stage"
            )
        return source.model_copy(update={"inputs": inputs})

    def names_classes(self) -> bool:
        """Return whether there are labels, or a teacher with classes that is not trained along."""
        teachers = [source for source in self.teachers.values() if source.peer is None]
        return self.label is not None or any(source.model or "classes" in source.reads for source in teachers)

    def network_inputs(self, peer: str = "") -> list[str] | None:
        """Return the fields that its student, or a peer, reads; None for a language model."""
        return self.peers()[peer].inputs if peer else self.inputs

    def _parts(self, context: CheckContext) -> Iterator[tuple[str, Part]]:
        """Yield the losses and the chance by the names of their files, and the weights by their names."""
        names = (entry.part for entry in self.losses)
        yield from zip(names, losses_of(self.losses, context.project), strict=True)
        yield from weights_of(self.weights, context.project).items()
        if self.draw is not None and (chance := chance_of(self.draw, context.project)):
            yield self.draw.part, chance

    def peers(self) -> dict[str, Source]:
        """Return the networks that are trained along, by name."""
        return {name: source for name, source in self.teachers.items() if source.peer is not None}

    def models(self) -> Sequence[str]:
        """Return the models that teach, and the earlier students that peers are made of."""
        return [source.model for source in self.teachers.values() if source.model]

    def files(self, project: Project) -> dict[str, Path]:
        """Return the files of the project's losses and of its peers' bodies."""
        files: dict[str, Path] = {}
        for entry in (*self.losses, *self.weights.values(), *([self.draw] if self.draw else [])):
            files |= find("losses", entry.part, project).files
        for source in self.peers().values():
            files |= NetworkSpec.of(source.peer or {}, project).training_files(project)
        return files

    def recorded(self) -> dict[str, Source]:
        """Return the teachers whose words are columns of the rows."""
        return {name: s for name, s in self.teachers.items() if s.stage is not None or s.field is not None}

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if a field, a teacher, a head or a weight is missing, or does not fit."""
        if self.inputs is None:
            super().check(context)
            self._check_language()
        for name in self._fields():
            context.need(name, "'inputs'")
        if self.label is not None:
            context.need(self.label, "'label'")
        if self.group is not None:
            context.need(self.group, "'group'")
        names = {STUDENT, *self.peers()}
        for name, part in self._parts(context):
            try:
                self._check_part(name, part, names, context)
            except ConfigError as error:
                raise ConfigError(f"'{name}': {error.message}") from error
        if self.mixup is not None and self.recorded():
            raise ConfigError(
                f"mixup: what '{next(iter(self.recorded()))}' said was recorded, and of no mixture; name an "
                "earlier student or a peer as the teacher"
            )
        for name in self.shuffle or ():
            if name not in self.teachers or name in self.peers():
                choices = did_you_mean(name, self.teachers.keys() - self.peers().keys())
                raise ConfigError(f"shuffle: '{name}' is no teacher here, or is trained along{choices}")
        for name in self.weights:
            if name in VARIABLES or not name.isidentifier():
                raise ConfigError(f"weights: '{name}' is no name for a weight: take letters, digits and '_'")
        for name, source in self.peers().items():
            NetworkSpec.of(source.peer or {}, context.project)
            if name == STUDENT:
                raise ConfigError("teachers: 'student' is the student itself; rename the peer")

    def _check_part(self, name: str, part: Part, networks: set[str], context: CheckContext) -> None:
        part.check(context)
        if self.mixup is not None and not part.mixtures:
            raise ConfigError("it takes no mixtures of two rows; leave out 'mixup'")
        if isinstance(part, Loss):
            if part.of not in networks:
                raise ConfigError(f"of: no network '{part.of}' learns here{did_you_mean(part.of, networks)}")
            if part.teaching and not part.teacher:
                raise ConfigError("it learns from a teacher: give teacher: NAME")
            self._check_formula(part, context)
        if part.grouped and self.group is None:
            raise ConfigError("it takes batches of one domain: name the field of the domain with group: …")
        if part.labels and self.inputs is not None and self.label is None:
            raise ConfigError("it learns from labels: name their field with label: …")
        if self.inputs is None:
            self._check_language_part(part)
        for name, signal in part.teachers().items():
            self._check_signal(name, signal, context)
        if part.edges:
            for field in (self.node, self.neighbours):
                context.need(field, "edges between rows")
        if part.validation and SPLIT not in context.fields:
            raise ConfigError(f"it learns from validation records, and there are none; {VALIDATION}")

    def _check_language(self) -> None:
        """Raise ConfigError for what only networks have, if the student is a language model."""
        if len(self.recorded()) > 1:
            raise ConfigError("a language model learns from one recorded teacher; others must be models")
        for name, source in self.teachers.items():
            if source.peer is not None or source.head is not None or source.field is not None:
                remedy = "give a stage with logprobs, or a language model"
                raise ConfigError(f"teachers: '{name}' does not give distributions over tokens; {remedy}")
        for option in ("transductive", "learn_validation", "mixup", "draw", "blend", "group"):
            if getattr(self, option):
                raise ConfigError(f"'{option}' is for networks, which have 'inputs'; leave it out")

    def _check_language_part(self, part: Part) -> None:
        if not part.tokens:
            raise ConfigError("it takes one class a row, and the student writes texts")
        if part.edges or part.validation or "vector" in part.teachers().values():
            raise ConfigError("it is for networks, which have 'inputs', and the student writes texts")
        if isinstance(part, Loss) and part.head is not None:
            raise ConfigError("head: a language model has no named heads; leave it out")

    def _check_formula(self, loss: Loss, context: CheckContext) -> None:
        """Raise ConfigError if the weight of a loss is no arithmetic over weights that fit its teachers."""
        formula = loss.weight
        if not isinstance(formula, str):
            return
        try:
            names = Arithmetic(formula).names
        except ValueError as error:
            raise ConfigError(f"weight: {error}") from error
        for name in sorted(names - VARIABLES - self.weights.keys()):
            choices = did_you_mean(name, [*self.weights, *VARIABLES])
            raise ConfigError(f"weight: '{formula}' names '{name}', which is no weight{choices}")
        taught_by = len(loss.teacher) if isinstance(loss.teacher, list) else 1
        for name, weight in weights_of(self.weights, context.project).items():
            number = weight.teachers_weighed()
            if name in names and number not in (None, taught_by):
                raise ConfigError(f"weight: '{name}' weighs {number} teachers, and the loss has {taught_by}")

    def _check_signal(self, name: str, signal: SignalKind, context: CheckContext) -> None:
        """Raise ConfigError if a stage that is a teacher does not record the signal."""
        source = self.teachers.get(name)
        if signal == "number" and (source is None or source.field is None):
            raise ConfigError(f"'{name}' is a teacher, too: copy the field to another name")
        if signal == "number":
            context.need(name, "a weight")
        live = source is None or source.model is not None or source.peer is not None
        if signal in ("tokens", "layers", "projections") and not live:
            signals = NOUNS[signal].removeprefix("no ")
            remedy = "name an earlier student or a peer"
            raise ConfigError(f"teacher: '{name}' was recorded, and {signals} are not; {remedy}")
        if source is None or source.stage is None:
            return
        stage = next((stage for stage in context.stages if stage.name == source.stage), None)
        if stage is None and _of_earlier_run(context):
            return
        if stage is None:
            raise ConfigError(f"teachers: there is no earlier stage '{source.stage}'")
        if signal == "classes" and not stage.records_logprobs():
            raise ConfigError(
                f"teacher: the stage '{stage.name}' records no log-probabilities; set logprobs: 5 on it, its "
                "model or its prompt"
            )
        if signal == "vector" and not stage.stage.records_embeddings():
            raise ConfigError(f"teacher: the stage '{stage.name}' records no vectors; name a stage embed")

    def _fields(self) -> list[str]:
        """Return the fields that the networks read, once each."""
        of_networks = [source.inputs or [] for source in self.teachers.values()]
        return [*dict.fromkeys(name for names in [self.inputs or [], *of_networks] for name in names)]

    def check_network(
        self, spec: NetworkSpec, context: CheckContext, earlier: Mapping[str, NetworkSpec]
    ) -> None:
        """Raise ConfigError if the losses do not fit the networks that learn, or those that teach."""
        if self.inputs is None:
            raise ConfigError("a network reads fields of numbers or texts: name them with inputs: [...]")
        if self.draw is not None and self.group is not None:
            raise ConfigError("'draw' and 'group' both choose the rows of a batch; leave out one of them")
        peers = {name: NetworkSpec.of(s.peer or {}, context.project) for name, s in self.peers().items()}
        networks = {STUDENT: spec, **peers}
        for name in spec.inputs or ():
            if name not in self.inputs:
                choices = did_you_mean(name, self.inputs)
                raise ConfigError(f"student: it reads '{name}', which is not among 'inputs'{choices}")
        heads = {name: network.head_names(context.project) for name, network in networks.items()}
        for name, network in networks.items():
            body = network.module_of(context.project)
            undecided = any(
                isinstance(value, list) for r in network.read.values() for value in (r.share, r.temperature)
            )
            if name == STUDENT and undecided and SPLIT not in context.fields:
                raise ConfigError(
                    f"read: values are chosen on validation records, and there are none; {VALIDATION}"
                )
            if body.reads == "graph":
                for field in (self.node, self.neighbours):
                    context.need(field, f"student body '{network.body}'")
            if name != STUDENT and network.shared:
                raise ConfigError(
                    f"teachers: the peer '{name}' begins with random weights, and this network shares the "
                    "classifier of an earlier student; make it the student of a stage"
                )
            if name != STUDENT and body.subnets() > 1:
                raise ConfigError(
                    f"teachers: the peer '{name}' has several sizes; give it one, or make it the student"
                )
        for loss in losses_of(self.losses, context.project):
            if loss.head is not None and loss.head not in heads[loss.of]:
                choices = did_you_mean(loss.head, heads[loss.of])
                raise ConfigError(f"head: '{loss.of}' has no head '{loss.head}'{choices}")
        live = {name: s.model for name, s in self.teachers.items() if s.model in earlier}
        teachers = {**networks, **{name: earlier[str(model)] for name, model in live.items()}}
        self._check_inputs(teachers, context.project)
        for name, source in self.teachers.items():
            heads_of = teachers[name].head_names(context.project) if name in teachers else ()
            if source.head is not None and heads_of and source.head not in heads_of:
                choices = did_you_mean(source.head, heads_of)
                raise ConfigError(f"teachers: '{source.model or name}' has no head '{source.head}'{choices}")
        if self.mixup is not None:
            for network in teachers.values():
                check_mixes(network, earlier, context.project, "mixup")
        for name, part in self._parts(context):
            network = networks[part.of if isinstance(part, Loss) else STUDENT]
            try:
                part.check_network(network, context.project)
                if part.changes:
                    check_mixes(network, earlier, context.project, "it changes the numbers of rows")
                for teacher in part.teachers().keys() & teachers.keys():
                    part.check_teacher(teacher, teachers[teacher], network, context.project)
            except ConfigError as error:
                raise ConfigError(f"'{name}': {error.message}") from error

    def _check_inputs(self, networks: Mapping[str, NetworkSpec], project: Project) -> None:
        """Raise ConfigError if a field is a file for one network, and numbers for another."""
        files: dict[str, bool] = {}
        for name, network in networks.items():
            inputs = self.inputs if name == STUDENT else self.teachers[name].inputs
            reads = network.module_of(project).reads
            for field in network.inputs or inputs or ():
                if files.setdefault(field, reads == "files") != (reads == "files"):
                    raise ConfigError(
                        f"'{field}' is a file for one network, and numbers for another, '{name}'; {RECORD}"
                    )

    def check_student(self, student: students.Outline, context: CheckContext) -> None:
        """Raise ConfigError if the student is no model that writes texts, and no inputs are named."""
        if self.inputs is not None:
            remedy = (
                "give one, such as student: {mlp: [64, 32]}, or {pretrained: owner/name} for pictures or "
                "sounds, or leave out 'inputs' for a language model"
            )
            raise ConfigError(f"fields as inputs are read by a network; {remedy}")
        super().check_student(student, context)
        for name, part in self._parts(context):
            if "layers" in part.teachers().values() and not student.packs:
                raise ConfigError(f"'{name}': it compares layers of attention; give a student that has them")
            if part.experts and student.family and not student.experts:
                remedy = "give student: {of: NAME, experts: 4, top: 2}, or leave the loss out"
                raise ConfigError(f"'{name}': the student has no experts; {remedy}")
        if student.template == students.CHAT and student.vocabulary is None:
            for name in self.models():
                if name not in student.tokens:
                    raise ConfigError(
                        f"a tiny student has other tokens than '{name}'; let it take those of an earlier "
                        f"student: {{tiny: {{tokens: {name}}}}}"
                    )


def check_mixes(
    spec: NetworkSpec, earlier: Mapping[str, NetworkSpec], project: Project, subject: str
) -> None:
    """Raise ConfigError if the numbers of rows cannot be changed for a network, or for one in it."""
    body = spec.module_of(project)
    if not body.mixes(project):
        kind = {"files": "sounds", "graph": "a graph"}.get(body.reads, body.reads)
        remedy = "leave it out, or give a body that reads numbers or pictures"
        raise ConfigError(
            f"{subject}: student body '{spec.body}' reads {kind}, and no numbers that mix; {remedy}"
        )
    for name in body.models():
        if name in earlier:
            check_mixes(earlier[name], earlier, project, subject)


def _of_earlier_run(context: CheckContext) -> bool:
    """Return whether the records come from an earlier run, with what its stages recorded."""
    return any(stage.stage.kind == "source" and stage.records_logprobs() for stage in context.stages)
