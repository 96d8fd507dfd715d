"""balance: experts that are used alike (Fedus et al. 2021, equations 4 to 6; Shu et al. 2024, LLaVA-MoD).

For N experts, f the share of the tokens' places that go to each, and P the mean probability that the router
gives it, over the tokens of all layers: N · sum of f · P. It is 1 if all experts are used alike, and at most
N divided by the number of experts of a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from distillgen.errors import ConfigError
from distillgen.networks.spec import NetworkSpec
from distillgen.project import Project
from distillgen.training.part import Loss

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Balance(Loss):
    """How unevenly a mixture of experts sends its tokens; 1 is even. The paper's weight is 0.01."""

    needs: ClassVar = {}
    teaching = False
    experts = True

    def check_network(self, spec: NetworkSpec, project: Project) -> None:
        """Raise ConfigError: networks have no experts."""
        raise ConfigError("a network has no experts; it is for a student {of: NAME, experts: 4, top: 2}")

    def rows(self, step: Step, module: Any) -> Any:
        """Return one number for the batch."""
        balance = step.out(self.of).balance
        if balance is None:
            raise ConfigError("balance: the student has no experts; leave the loss out")
        return balance
