"""The contracts of a loss, a weight and a chance: each file in losses/ holds one, found by the file's name.

A loss gives a number for each row. A weight multiplies it. A chance says which rows an epoch consists of.
Losses and weights may have a torch module: its parameters are trained along, its buffers are state, and both
are in every checkpoint. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.located_yaml import Places, validate
from distillgen.networks.spec import NetworkSpec
from distillgen.plugins import plugin_class
from distillgen.project import Project

if TYPE_CHECKING:
    from distillgen.training.step import Step

Signal: TypeAlias = Literal["classes", "vector", "number", "tokens", "layers", "projections"]
"""What a teacher says of a row: a distribution over classes or tokens, a vector, the number in a field, the
vectors of its parts, which only networks give, what its layers say, which only live models give (a language
model its hidden states and attention, a network the numbers of each layer), or the queries, keys and values
of its last attention, which only networks give.
"""


GIVEN_BY: Mapping[Signal, tuple[str, str]] = {
    "vector": ("features", "a network whose heads are put on its features, such as {mlp: [64, 32]}"),
    "layers": ("layers", "a network such as {mlp: [64, 32]}"),
    "tokens": (
        "tokens",
        "a picture model, such as {transformers: {model_type: vit, patch_size: 2}}, or a ViT of the Hub",
    ),
    "projections": ("queries, keys and values", "{supernet: {depth: 2, width: 32}}, or a ViT of the Hub"),
}
"""What a teacher gives for a signal, and the networks that do."""


class PartSizes(NamedTuple):
    """The sizes from which a part builds its module."""

    classes: int
    """The number of classes; of a language model, the number of tokens."""
    widths: Mapping[str, int]
    """By network or teacher, the width of its features or of its vectors, if it has some."""
    token_widths: Mapping[str, int]
    """By network or live teacher, the width of its tokens, if it has some."""
    layer_widths: Mapping[str, Sequence[int]] = {}
    """By network or live teacher, the widths of its layers, if it gives what they say."""


class Part(BaseModel):
    """A loss, a weight of losses, or a chance of rows. The attributes are its options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    needs: ClassVar[Mapping[str, Signal]] = {}
    """The options that name teachers, with the signal that is read of them."""
    edges: ClassVar[bool] = False
    """Whether it reads the edges between rows."""
    validation: ClassVar[bool] = False
    """Whether it draws validation rows."""
    labels: ClassVar[bool] = False
    """Whether it learns from labels, so that networks need `label`."""
    experts: ClassVar[bool] = False
    """Whether it reads how a mixture of experts sends its tokens."""
    features: ClassVar[bool] = False
    """Whether it reads the features of a network, which a body with heads of its own does not give."""
    grouped: ClassVar[bool] = False
    """Whether all rows of a batch must be of one value of the field `group`."""
    changes: ClassVar[bool] = False
    """Whether it changes the numbers of rows, and asks the network that learns about the changed rows."""
    tokens: ClassVar[bool] = True
    """Whether it takes the tokens of a language model; if not, it takes rows with one position."""

    mixtures: ClassVar[bool] = False
    """Whether it takes rows that are mixtures of two, by `mixup`: it reads no label, or `step.labels`."""

    rate: float | None = Field(
        None, gt=0, description="learning rate of the parameters that it has itself; default: the student's"
    )

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if the options do not fit each other or the records."""

    def check_network(self, spec: NetworkSpec, project: Project) -> None:
        """Raise ConfigError if the network that learns, the student or the peer in `of`, does not fit."""
        if self.features and spec.module_of(project).heads():
            raise ConfigError(f"it reads features, and student body '{spec.body}' gives none")

    def check_teacher(self, name: str, teacher: NetworkSpec, student: NetworkSpec, project: Project) -> None:
        """Raise ConfigError if a network that teaches by this name gives no such signal as is read of it.

        `student` is the network that learns from it.
        """
        body, signal = teacher.module_of(project), self.teachers()[name]
        lacking: Mapping[Signal, bool] = {
            "vector": bool(body.heads()),
            "layers": not body.layers(),
            "tokens": body.tokens(project) == 0,
            "projections": not body.projections(project),
        }
        if lacking.get(signal):
            noun, remedy = GIVEN_BY[signal]
            raise ConfigError(
                f"teacher: '{name}' gives no {noun}: student body '{teacher.body}' has none; name {remedy}"
            )

    def check_tokens(self, name: str, teacher: NetworkSpec, student: NetworkSpec, project: Project) -> None:
        """Raise ConfigError if a teacher is known to have more or fewer tokens in a row than the student."""
        ours, theirs = (spec.module_of(project).tokens(project) for spec in (student, teacher))
        if ours is not None and theirs is not None and ours != theirs:
            raise ConfigError(
                f"the student has {ours} tokens a row, and '{name}' {theirs}; give both as many patches"
            )

    def module(self, sizes: PartSizes) -> Any:
        """Return the torch module with its parameters and state; None if it has none."""
        return None

    def fit(self, step: Step, module: Any) -> None:
        """Set the module once, before the first step; the batch of `step` holds all training rows."""

    def teachers(self) -> Mapping[str, Signal]:
        """Return the teachers that the options name, with the signal that is read of each."""
        signals: dict[str, Signal] = {}
        for option, signal in self.needs.items():
            value = getattr(self, option)
            for name in value if isinstance(value, list) else [value] if value is not None else []:
                signals[name] = signal
        return signals


class Loss(Part):
    """A loss of each row."""

    needs: ClassVar[Mapping[str, Signal]] = {"teacher": "classes"}
    teaching: ClassVar[bool] = True
    """Whether it learns from a teacher, so that `teacher` is required."""

    of: str = Field("student", description="the network that learns by it: student, or the name of a peer")
    head: str | None = Field(None, description="head of that network; default: its first head")
    teacher: str | list[str] | None = Field(
        None,
        description="who teaches: a stage that recorded answers, a field, an earlier student, or a peer; a "
        "list gives one loss for each, which a weight can weigh",
    )
    weight: float | str = Field(
        1.0,
        description="number, or arithmetic over the names of weights, `progress` (0 to 1) and `epoch`, such "
        "as 0.1 * 0.5 ** (epoch // 30)",
    )

    def rows(self, step: Step, module: Any) -> Any:
        """Return the loss of each row [rows]; for a list of teachers [teachers, rows]; or one number.

        `step.per_row` makes it of values by position.
        """
        raise NotImplementedError


class Weight(Part):
    """A weight of each row, which losses name."""

    def rows(self, step: Step, module: Any) -> Any:
        """Return the weight of each row [rows], or [teachers, rows]."""
        raise NotImplementedError

    def teachers_weighed(self) -> int | None:
        """Return the number of teachers, if it has one weight for each teacher of a loss."""
        return None

    def learns(self, step: Step, module: Any) -> Any:
        """Return the loss by which the module learns, a number; None if it does not learn now.

        It is added to the loss of the step, and its gradient reaches the module only. It may depend on what
        the networks say at copies of their weights (`step.again`).
        """
        return None


class Chance(Part):
    """The chance of each row to be drawn, asked anew before each epoch."""

    def measure(self, step: Step) -> Any:
        """Return what the chances of some rows depend on: [rows], or [rows, numbers].

        The networks are in evaluation mode, and no gradient is kept.
        """
        raise NotImplementedError

    def chances(self, measured: Any, generator: Any) -> Any:
        """Return the chance of each training row [rows], relative to the others, from what was measured."""
        raise NotImplementedError


class PartEntry(BaseModel):
    """A part as a pipeline lists it: its name and its options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    part: str
    options: dict[str, Any] = Field(default_factory=dict)

    def resolved(self, project: Project) -> Part:
        """Return the part with its options. Raise ConfigError if the name or an option is wrong."""
        declaration = plugin_class("losses", self.part, Part, project)
        return validate(declaration, self.options, owner=f"loss '{self.part}'", places=Places())


def _entry(value: Any) -> Any:
    """Return the entry of `name`, or of `name: {option: value}`."""
    value = {value: None} if isinstance(value, str) else value
    if isinstance(value, dict) and set(value) == {"part", "options"}:
        return value
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError(f"a loss, a weight or a chance is a name, or a name with options, not {value!r}")
    ((name, options),) = value.items()
    if not isinstance(options, dict | None):
        raise ValueError(f"the options of '{name}' are a mapping, not {options!r}")
    return {"part": name, "options": options or {}}


Entry: TypeAlias = Annotated[
    PartEntry, BeforeValidator(_entry, json_schema_input_type=str | dict[str, Any]), "losses"
]
"""A loss, a weight or a chance as a pipeline lists it: a name, or a name with its options."""


def losses_of(entries: Sequence[PartEntry], project: Project) -> list[Loss]:
    """Return the losses of a list. Raise ConfigError for another part among them."""
    return [_of_kind(Loss, entry, project) for entry in entries]


def weights_of(entries: Mapping[str, PartEntry], project: Project) -> dict[str, Weight]:
    """Return the weights by name. Raise ConfigError for another part among them."""
    return {name: _of_kind(Weight, entry, project) for name, entry in entries.items()}


def chance_of(entry: PartEntry | None, project: Project) -> Chance | None:
    """Return the chance of the rows, if one is given. Raise ConfigError for another part."""
    return None if entry is None else _of_kind(Chance, entry, project)


PLACES: Mapping[type[Part], str] = {
    Loss: "is a loss: list it under 'losses'",
    Weight: "is a weight: list it under 'weights', with a name",
    Chance: "is a chance: give it as 'draw'",
}

_Kind = TypeVar("_Kind", bound=Part)


def _of_kind(kind: type[_Kind], entry: PartEntry, project: Project) -> _Kind:
    """Return a part. Raise ConfigError if it is of another kind."""
    part = entry.resolved(project)
    if not isinstance(part, kind):
        place = next(place for other, place in PLACES.items() if isinstance(part, other))
        raise ConfigError(f"'{entry.part}' {place}")
    return part
