"""A student as a mapping of a pipeline: `{mlp: [64, 32], heads: [gold, soft], read: {gold: 1, soft: 1}}`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from distillgen.errors import ConfigError
from distillgen.located_yaml import Places, validate
from distillgen.networks.body import Body, body_class
from distillgen.plugins import find
from distillgen.project import Project

CONFIG = "network.json"  # the file that tells a network's folder
DISTILLER = "distiller.json"  # the file that tells a distiller, beside a language model
CLASS = "class"  # the name of the head of a network that lists none
FORM = "a body with its options, such as {mlp: [64, 32]}, and beside it heads, read, inputs"
Grid = float | list[float]


class Head(BaseModel):
    """One linear layer over the features, with a logit for each class."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    groups: int = Field(
        1, ge=1, description="logits for each class: subclasses, whose probabilities add up to their class's"
    )
    of: str | None = Field(
        None,
        description="an earlier student, whose layer it is, frozen; a projector, which learns, takes the "
        "body's features to those that the layer reads. It is then the only head",
    )


class Reading(BaseModel):
    """The share of a head in the prediction, and the temperature of its softmax.

    A list holds values to choose from: those with the highest accuracy on the validation rows are taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: Grid = Field(1.0, description="share of the head; the shares are divided by their sum")
    temperature: Grid = Field(1.0, description="the head's logits are divided by it")

    @model_validator(mode="after")
    def _usable(self) -> Self:
        shares, temperatures = grid(self.share), grid(self.temperature)
        if not shares or not temperatures:
            raise ValueError("give a value, or a list of values to choose from")
        if min(shares) < 0 or min(temperatures) <= 0:
            raise ValueError("a share is at least 0, and a temperature more than 0")
        return self


def is_network(folder: Path | str) -> bool:
    """Return whether a folder holds a network."""
    return folder != "" and (Path(folder) / CONFIG).is_file()


def has_distiller(folder: Path | None) -> bool:
    """Return whether a folder holds a language model that reads demonstrations as vectors."""
    return folder is not None and (folder / DISTILLER).is_file()


def grid(values: Grid) -> list[float]:
    """Return the values to choose from."""
    return values if isinstance(values, list) else [values]


def _by_name(value: Any) -> Any:
    """Return heads by their names; a list holds names alone."""
    return {name: {} for name in value} if isinstance(value, list) else value


def _readings(value: Any) -> Any:
    """Return how heads are read; a number, or a list of numbers, is a share."""
    if not isinstance(value, dict):
        return value
    return {
        name: {"share": entry} if isinstance(entry, int | float | list) else entry
        for name, entry in value.items()
    }


class NetworkSpec(BaseModel):
    """A network: its body with options, its heads, how one prediction is read from them, and its inputs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body: str
    options: dict[str, Any] = Field(default_factory=dict)
    heads: Annotated[dict[str, Head], BeforeValidator(_by_name)] = Field(default_factory=dict)
    read: Annotated[dict[str, Reading], BeforeValidator(_readings)] = Field(default_factory=dict)
    inputs: list[str] | None = None
    """The fields that it reads, if they are not those of the training."""

    @classmethod
    def of(cls, value: Mapping[str, Any], project: Project) -> NetworkSpec:
        """Return the network that a mapping declares. Raise ConfigError for a wrong body or option."""
        names = [name for name in value if name not in ("heads", "read", "inputs")]
        if not names:
            raise ConfigError(f"a student is a name or {FORM}; '{dict(value)}' names no body")
        name, *others = names
        declaration = body_class(name, project)
        first = next(iter(declaration.model_fields), None)
        options = {option: value[option] for option in others}
        if value[name] is not None and first is not None:
            options[first] = value[name]
        validate(declaration, options, owner=f"student body '{name}'", places=Places())
        network = {option: value[option] for option in ("heads", "read", "inputs") if option in value}
        entries = {"body": name, "options": options, **network}
        spec = validate(cls, entries, owner="student", places=Places())
        spec._check(project)
        return spec

    def _check(self, project: Project) -> None:
        body = self.module_of(project)
        body.check(project)
        if body.heads() and self.heads:
            raise ConfigError(f"student body '{self.body}' has heads itself; leave out 'heads'")
        if self.shared and (len(self.heads) > 1 or self.heads[self.shared[0]].groups > 1):
            raise ConfigError("heads: a head with 'of' is the only one, and has no 'groups'")
        for name in self.read:
            if name not in self.head_names(project):
                raise ConfigError(f"read: the student has no head '{name}'")
        if self.read and not any(max(grid(reading.share)) for reading in self.read.values()):
            raise ConfigError("read: the shares of all heads are 0")

    def module_of(self, project: Project) -> Body:
        """Return the body with its options."""
        return body_class(self.body, project).model_validate(self.options)

    @property
    def shared(self) -> tuple[str, str] | None:
        """The head that is an earlier student's, and that student."""
        return next(((name, head.of) for name, head in self.heads.items() if head.of), None)

    def models(self, project: Project) -> list[str]:
        """Return the names of the earlier students that a new network is made of."""
        return [*self.module_of(project).models(), *([self.shared[1]] if self.shared else [])]

    def files(self, project: Project) -> dict[str, Path]:
        """Return the files with the project's code that the body runs, by name."""
        return {**find("bodies", self.body, project).files, **self.module_of(project).files(project)}

    def training_files(self, project: Project) -> dict[str, Path]:
        """Return these files, and those with the weights that a new network begins with."""
        return {**self.files(project), **self.module_of(project).origins(project)}

    def head_names(self, project: Project) -> list[str]:
        """Return the names of the heads, in order."""
        return [*self.module_of(project).heads()] or [*self.heads] or [CLASS]


def files_of(config: Mapping[str, Any], project: Project) -> dict[str, Path]:
    """Return the files with the project's code that a saved network runs, by name."""
    files = NetworkSpec.model_validate(config["spec"]).files(project)
    for name, inner in config["networks"].items():
        files |= {f"{name}: {file}": path for file, path in files_of(inner, project).items()}
    return files
