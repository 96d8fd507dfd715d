"""mlp: layers of neurons, each connected to all of the layer before (ReLU)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, PositiveInt

from distillgen.networks.body import Body, Sizes


class Mlp(Body):
    """A multilayer perceptron over the numbers of all inputs."""

    sizes: list[PositiveInt] = Field(min_length=1, description="neurons of each layer, such as [64, 32]")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the neurons that is dropped at random")

    def layers(self) -> int:
        """Return the number of layers."""
        return len(self.sizes)

    def module(self, sizes: Sizes, networks: Mapping[str, Any]) -> Any:
        """Return the layers."""
        from distillgen.bodies._layers import Layers

        return Layers([sizes.numbers, *self.sizes], self.dropout)
