"""The contract of a body: the part of a network below its heads. Each file in bodies/ holds one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from distillgen.plugins import plugin_class
from distillgen.project import Project

Shape = tuple[int, ...]
FILE: Shape = ()  # in the place of a shape: the input is a reference to a file, and the body reads it
LARGEST = 1e30  # the numbers are computed with in float32, which ends at 3e38


class Sizes(NamedTuple):
    """What a body is built for."""

    inputs: Sequence[Shape]
    """The shape of a row's array, for each input that holds numbers; FILE for a reference to a file."""
    classes: Sequence[str]
    """The names of the classes, in the order of the logits."""
    project: Project = Project(Path())
    """The project, whose files a body may read."""
    folder: Path | None = None
    """The folder with the files that `save_files` of the module wrote; None for a new network."""

    @property
    def numbers(self) -> int:
        """The numbers of a row in all inputs."""
        return sum(math.prod(shape) for shape in self.inputs)

    @property
    def files(self) -> int:
        """The number of inputs that are references to files."""
        return sum(shape == FILE for shape in self.inputs)


class Body(BaseModel):
    """A kind of network, without heads. The attributes are its options; the first one stands at its name.

    `student: {mlp: [64, 32], dropout: 0.1}` is the body `mlp` with its first option and another one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    reads: ClassVar[Literal["arrays", "texts", "files", "graph", "batch"]] = "arrays"
    """What `forward` of the module takes: an array [rows, …] of numbers (one input in its shape, several
    inputs flat, side by side), a list of texts for each row, what its method `read` returns of a reference to
    a file for each row (tensors [1, …] by name), an array and edges [2, edges] of positions in the batch, or
    the batch as it is.
    """
    one_input: ClassVar[bool] = False
    """Whether it reads one input, and no more."""
    packages: ClassVar[tuple[str, ...]] = ()
    """The modules that it needs besides torch."""

    def check(self, project: Project) -> None:
        """Raise ConfigError if the module could not be built."""

    def fetch(self, project: Project) -> None:
        """Fetch the small files of a model on the Hub, so that all that `check` asks is known.

        Raise ConfigError if they cannot be fetched, or the module could not be built.
        """

    def files(self, project: Project) -> dict[str, Path]:
        """Return the files with the project's code that it runs, by name: other code is another body."""
        return {}

    def origins(self, project: Project) -> dict[str, Path]:
        """Return the files with the weights that a new network begins with, by name."""
        return {}

    def models(self) -> Sequence[str]:
        """Return the names of the trained students that it is made of."""
        return ()

    def check_models(self, bodies: Mapping[str, Body]) -> None:
        """Raise ConfigError if it cannot be made of the students with these bodies, which `models` names."""

    def layers(self) -> int:
        """Return the number of layers in `layers` of the module, whose output [rows, width] can be masked."""
        return 0

    def mixes(self, project: Project) -> bool:
        """Return whether the numbers of a row may be changed, as by those of another row of the batch.

        A body over earlier students is asked about itself alone. True if that is unknown.
        """
        return self.reads in ("arrays", "batch")

    def tokens(self, project: Project) -> int | None:
        """Return the number of tokens of a row: features of its parts, as of a picture's patches.

        0 if the module gives none, and None if only the training knows.
        """
        return 0

    def subnets(self) -> int:
        """Return the number of networks that share its weights: more than one learn only as the student."""
        return 1

    def projections(self, project: Project) -> Sequence[int]:
        """Return the widths that the queries, keys and values of its last attention may have; none without.

        A width that only the training knows is 0. Then `forward` of the module returns them after features
        and tokens, [rows, 3, tokens, width].
        """
        return ()

    def heads(self) -> Sequence[str]:
        """Return the names of the heads that the body has itself; without any, heads are put on its features.

        A body with heads returns logits [rows, classes] by head, not features.
        """
        return ()

    def module(self, sizes: Sizes, networks: Mapping[str, Any]) -> Any:
        """Return the torch module. Its `forward` returns features [rows, width]; `width` is an attribute.

        A module with an attribute `token_width` returns a pair: features, and tokens [rows, tokens,
        token_width].
        `networks` holds the trained students that `models` names. A module with a method
        `save_files(folder)` is saved with what that writes to the folder, beside its weights.
        """
        raise NotImplementedError


def body_class(name: str, project: Project) -> type[Body]:
    """Return the body of a name. Raise ConfigError if there is none, or its file is broken."""
    return plugin_class("bodies", name, Body, project)


def shape_of(value: Any) -> Shape:
    """Return the shape of nested lists of numbers; (1,) of a number. Raise ValueError for anything else."""
    try:
        return _shape(value) or (1,)
    except RecursionError as error:
        raise ValueError("its lists are nested too deep") from error


def _shape(value: Any) -> Shape:
    if not isinstance(value, list) or not value:
        return _scalar(value)
    shapes = {_shape(inner) for inner in value}
    if len(shapes) != 1:
        raise ValueError("its lists are not all of one length")
    return (len(value), *shapes.pop())


def _scalar(value: Any) -> Shape:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise ValueError(f"{str(value)[:40]!r} is no number")
    return ()
