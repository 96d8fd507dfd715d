"""mlp: layers of neurons, each connected to all of the layer before (ReLU)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from distillgen.networks.body import Body, Sizes


class Mlp(Body):
    """A multilayer perceptron over the numbers of all inputs."""

    sizes: list[int] = Field(min_length=1, description="neurons of each layer, such as [64, 32]")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the neurons that is dropped at random")

    def module(self, sizes: Sizes, networks: Mapping[str, Any]) -> Any:
        """Return the layers."""
        from distillgen.bodies._layers import Layers

        return Layers([sizes.numbers, *self.sizes], self.dropout)
