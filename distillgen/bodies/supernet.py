"""supernet: transformers of many sizes that share their weights (Xu et al. 2022, AutoDistil)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from distillgen.bodies._space import Space
from distillgen.errors import ConfigError
from distillgen.networks.body import Body, Sizes
from distillgen.project import Project

NAME = "student body 'supernet'"


class Supernet(Body):
    """A transformer over a picture's patches, of which narrower and shallower ones are slices.

    Each step trains the largest, the smallest and some others, on the mean of their losses. Asked, it is the
    largest. A later stage takes one of the others as `{subnet: student-super, depth: 1, width: 8}`. With one
    size, it is a transformer like any other.
    """

    one_input = True

    space: Space = Field(description="the sizes: {depth: [1, 2, 3], width: [8, 16, 32], ratio: [1, 2]}")
    heads_: PositiveInt = Field(4, alias="attention_heads", description="heads of the attention")
    patch: PositiveInt = Field(2, description="height and width of a patch, in pixels")
    shape: Annotated[list[PositiveInt], Field(min_length=2, max_length=3)] | None = Field(
        None, description="shape of the picture, if the rows hold it as one flat list, such as [8, 8]"
    )
    others: NonNegativeInt = Field(2, description="subnets that a step trains besides the ends, at random")

    def check(self, project: Project) -> None:
        """Raise ConfigError if the heads do not divide the widths, or patches do not fill the picture."""
        for width in self.space.width:
            if width % self.heads_:
                raise ConfigError(f"{NAME}: {self.heads_} heads do not divide the width {width}")
        if self.shape:
            self._check_patches(self.shape)

    def _check_patches(self, shape: Sequence[int]) -> None:
        if shape[-1] % self.patch or shape[-2] % self.patch:
            raise ConfigError(f"{NAME}: patches of {self.patch} do not fill a picture of {shape}")

    def subnets(self) -> int:
        """Return the number of sizes."""
        return len(self.space.subnets())

    def tokens(self, project: Project) -> int | None:
        """Return the number of patches, if the options give the shape."""
        if self.shape is None:
            return None
        return self.shape[-2] // self.patch * (self.shape[-1] // self.patch)

    def projections(self, project: Project) -> Sequence[int]:
        """Return the widths."""
        return self.space.width

    def module(self, sizes: Sizes, networks: Mapping[str, Any]) -> Any:
        """Return the transformer. Raise ConfigError if the input is no picture of whole patches."""
        from distillgen.bodies._picture_transformer import PictureTransformer

        shape = self.shape or [*sizes.inputs[0]]
        if len(sizes.inputs) != 1 or len(shape) not in (2, 3):
            raise ConfigError(
                f"{NAME} reads one picture: [height, width] or [channels, height, width]; give its shape"
            )
        if sizes.numbers != Sizes([tuple(shape)], ()).numbers:
            raise ConfigError(f"{NAME}: {sizes.numbers} numbers are no picture of {shape}")
        self._check_patches(shape)
        return PictureTransformer(shape, self.patch, self.heads_, self.space.subnets(), self.others)
