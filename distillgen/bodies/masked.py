"""masked: a trained student whose layers are masked (Li et al. 2025, MST-Distill, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, NonNegativeInt

from distillgen.errors import ConfigError
from distillgen.networks.body import Body, Sizes


class Masked(Body):
    """An earlier student, frozen, with a mask on one of its layers; each layer of the list gives a head.

    The head `0` is what the student says if the output of its layer 0 is multiplied by a mask between 0 and
    1, which two small layers compute from that output. Only the masks learn. The authors' mask has an
    attention over heads between its two layers.
    """

    reads = "batch"

    student: str = Field(description="the earlier student, or a peer of it")
    layers_: list[NonNegativeInt] = Field(
        [0], alias="layers", min_length=1, description="layers with a mask, from 0; one head for each"
    )

    def models(self) -> Sequence[str]:
        """Return the student's name."""
        return [self.student]

    def heads(self) -> Sequence[str]:
        """Return the numbers of the layers."""
        return [str(layer) for layer in self.layers_]

    def check_models(self, bodies: Mapping[str, Body]) -> None:
        """Raise ConfigError if the student has no such layer."""
        body = bodies[self.student]
        if body.reads == "graph" or not body.layers():
            raise ConfigError(
                f"student body 'masked': '{self.student}' has no layers to mask; mask an mlp or a bag"
            )
        for layer in self.layers_:
            if layer >= body.layers():
                raise ConfigError(
                    f"student body 'masked': '{self.student}' has no layer {layer}: its layers are 0 to "
                    f"{body.layers() - 1}"
                )

    def module(self, sizes: Sizes, networks: Mapping[str, Any]) -> Any:
        """Return the student with its masks."""
        from distillgen.bodies._masked import MaskedNetwork

        return MaskedNetwork(networks[self.student], self.layers_)
