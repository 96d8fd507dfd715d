"""The subnets of a supernet, as its options list them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt


class Subnet(NamedTuple):
    """A transformer among others of a supernet."""

    depth: int
    """Layers."""
    width: int
    """Numbers of a token."""
    ratio: int
    """Neurons of a layer's perceptron, for each number of a token."""

    @property
    def multiplications(self) -> int:
        """Those of one token with the weights of all layers."""
        return self.depth * self.width**2 * (4 + 2 * self.ratio)


def _choices(values: list[int]) -> list[int]:
    return sorted({*values})


Choices = Annotated[
    list[PositiveInt],
    BeforeValidator(lambda value: [value] if isinstance(value, int) else value),
    Field(min_length=1),
    AfterValidator(_choices),
]


class Space(BaseModel):
    """The choices of depth, width and ratio; every combination is a subnet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    depth: Choices = Field(description="numbers of layers")
    width: Choices = Field(description="numbers of a token")
    ratio: Choices = Field([2], description="neurons of a layer's perceptron, for each number of a token")

    def subnets(self) -> Sequence[Subnet]:
        """Return all subnets, the smallest first and the largest last."""
        return [Subnet(*values) for values in itertools.product(self.depth, self.width, self.ratio)]
