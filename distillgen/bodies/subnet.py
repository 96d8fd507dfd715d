"""subnet: one transformer of a trained supernet, with its weights (Xu et al. 2022, AutoDistil)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, PositiveInt

from distillgen.bodies._space import Space, Subnet
from distillgen.errors import ConfigError
from distillgen.networks.body import Body, Sizes
from distillgen.project import Project

NAME = "student body 'subnet'"


class SubnetBody(Body):
    """A slice of an earlier student that is a supernet, with its weights; all of them go on learning.

    Of the subnets of these sizes, it is the one with the lowest loss at the end of the supernet's training,
    on the validation records, or without any on the training records: nothing is trained for the choice.
    """

    one_input = True

    student: str = Field(description="the earlier student, a supernet")
    depth: PositiveInt | None = Field(None, description="layers; default: any number")
    width: PositiveInt | None = Field(None, description="numbers of a token; default: any")
    ratio: PositiveInt | None = Field(
        None, description="neurons of a layer's perceptron, for each number of a token; default: any"
    )
    within: PositiveInt | None = Field(
        None, description="most multiplications of a token with the weights of all layers"
    )

    def models(self) -> Sequence[str]:
        """Return the supernet's name."""
        return [self.student]

    def check_models(self, bodies: Mapping[str, Body]) -> None:
        """Raise ConfigError if the student is no supernet, or has no such subnet."""
        space = getattr(bodies[self.student], "space", None)
        if not isinstance(space, Space):
            raise ConfigError(f"{NAME}: '{self.student}' is no supernet; train one with {{supernet: …}}")
        for option in ("depth", "width", "ratio"):
            value, choices = getattr(self, option), getattr(space, option)
            if value is not None and value not in choices:
                raise ConfigError(
                    f"{NAME}: '{self.student}' has no subnet of {option} {value}; choose among "
                    f"{', '.join(map(str, choices))}"
                )
        sizes = [one.multiplications for one in space.subnets() if self._fits(one, capped=False)]
        if self.within is not None and min(sizes) > self.within:
            raise ConfigError(
                f"within: the smallest such subnet of '{self.student}' needs {min(sizes):,} multiplications"
            )

    def _fits(self, subnet: Subnet, *, capped: bool = True) -> bool:
        sizes = zip((self.depth, self.width, self.ratio), subnet, strict=True)
        small = self.within is None or subnet.multiplications <= self.within
        return all(choice in (None, size) for choice, size in sizes) and (small or not capped)

    def tokens(self, project: Project) -> None:
        """Return nothing: only the training knows their number."""

    def projections(self, project: Project) -> Sequence[int]:
        """Return the width, if the options give it."""
        return [self.width or 0]

    def module(self, sizes: Sizes, networks: Mapping[str, Any]) -> Any:
        """Return a copy of the slice."""
        supernet = networks[self.student].body
        return supernet.copy_of(supernet.saved(sizes.folder) if sizes.folder else supernet.best(self._fits))
