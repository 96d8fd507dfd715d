"""aggregate: earlier students as experts, whose features become one vector (Zhong et al. 2022, Meta-DMoE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, PositiveInt

from distillgen.errors import ConfigError
from distillgen.networks.body import Body, Sizes

NAME = "student body 'aggregate'"


class Aggregate(Body):
    """Earlier students, frozen, whose features pass through a layer of attention; the mean is the output.

    Only the attention learns. An expert that the loss `adapt` leaves out of a row is not seen in it.
    """

    reads = "batch"

    experts: list[str] = Field(min_length=2, description="the earlier students, or peers of them")
    attention: PositiveInt = Field(4, description="heads of the attention; their number divides the width")

    def models(self) -> Sequence[str]:
        """Return the names of the experts."""
        return self.experts

    def check_models(self, bodies: Mapping[str, Body]) -> None:
        """Raise ConfigError if an expert has no features, or reads files."""
        for name in self.experts:
            if bodies[name].heads() or bodies[name].reads == "graph":
                raise ConfigError(f"{NAME}: '{name}' gives no features of a row alone; take another student")
            if bodies[name].reads == "files":
                raise ConfigError(f"{NAME}: '{name}' reads files; take students that read numbers or texts")

    def module(self, sizes: Sizes, networks: Mapping[str, Any]) -> Any:
        """Return the experts with the attention. Raise ConfigError if their features do not fit."""
        from distillgen.bodies._aggregate import Aggregated

        experts = [networks[name] for name in self.experts]
        widths = {network.width for network in experts}
        if len(widths) != 1:
            raise ConfigError(f"{NAME}: the experts' features have the widths {sorted(widths)}, not one")
        (width,) = widths
        if width % self.attention:
            raise ConfigError(f"{NAME}: {self.attention} heads do not divide the experts' width of {width}")
        return Aggregated(experts, width, self.attention)
