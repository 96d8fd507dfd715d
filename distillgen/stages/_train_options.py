"""The options of the stage `train`, and the names of what it makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator

from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.stage import Stage
from distillgen.inference.spec import Spec
from distillgen.located_yaml import Places, validate
from distillgen.project import Project
from distillgen.record import text_of
from distillgen.teachers.network import NetworkTeacherSpec
from distillgen.teachers.transformers import TransformersSpec
from distillgen.training import students
from distillgen.training.arms import Arm
from distillgen.training.objective import Objective, objective_class
from distillgen.training.options import TrainingOptions


class TrainOptions(TrainingOptions, Stage):
    """The options of `train`: those of the training process, and those that choose the rows."""

    model_config = ConfigDict(extra="allow", frozen=True)

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
                names = sorted({*TrainOptions.model_fields, *objective.model_fields})
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
