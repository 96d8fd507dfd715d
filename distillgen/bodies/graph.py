"""graph: graph convolutions over rows and their neighbours (Kipf and Welling 2017; Hamilton et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, PositiveInt

from distillgen.networks.body import Body, Sizes


class Graph(Body):
    """Layers that mix the numbers of each row with those of its neighbours, which the record names.

    `gcn` takes the sum over a node and its neighbours, each divided by the root of the product of both
    degrees. `sage` takes the node, and the mean of its neighbours apart. Each size is one step in the graph.
    """

    reads = "graph"

    kind: Literal["gcn", "sage"] = Field(description="graph convolution: gcn, or sage with the mean")
    sizes: list[PositiveInt] = Field([64, 64], min_length=1, description="neurons of each layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the neurons that is dropped at random")

    def module(self, sizes: Sizes, networks: Mapping[str, Any]) -> Any:
        """Return the layers."""
        from distillgen.bodies._graph import KINDS, Convolutions

        return Convolutions(KINDS[self.kind], [sizes.numbers, *self.sizes], self.dropout)
