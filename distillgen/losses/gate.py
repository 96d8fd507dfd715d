"""gate: which of several teachers a row learns from (Li et al. 2025, MST-Distill).

A linear layer over the student's features and a softmax give g [rows, teachers]. The weights of a loss with
a list of teachers are g, so that the gate learns to send a row to the teacher that is nearest to the
student. The gate's own loss keeps all teachers in use: balance · KL(uniform ‖ mean of g over the rows) /
teachers. In the release, the weights are 1 for the teacher with the largest g and 0 for the others, so that
the gate learns from its own loss alone, and not from what a teacher is good for: `soft: false`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.training.part import PartSizes, Weight

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Gate(Weight):
    """The share of each teacher in what a row learns, chosen by a layer over the student's features."""

    features = True
    tokens = False
    mixtures = True

    over: int = Field(ge=2, description="the number of teachers of the losses that it weighs")
    soft: bool = Field(True, description="shares that sum to 1; if not, only the first teacher counts")
    balance: float = Field(0.1, ge=0, description="weight of the loss that keeps all teachers in use")

    def teachers_weighed(self) -> int:
        """Return `over`."""
        return self.over

    def module(self, sizes: PartSizes) -> Any:
        """Return the layer. Raise ConfigError for a student without features."""
        from torch import nn

        if "student" not in sizes.widths:
            raise ConfigError("gate: it reads the student's features, and its body gives none")
        return nn.Linear(sizes.widths["student"], self.over)

    def rows(self, step: Step, module: Any) -> Any:
        """Return the weights [teachers, rows]."""
        from torch.nn.functional import one_hot

        shares = self._shares(step, module)
        return (shares if self.soft else one_hot(shares.argmax(-1), self.over).to(shares.dtype)).T

    def learns(self, step: Step, module: Any) -> Any:
        """Return the loss that keeps all teachers in use."""
        mean = self._shares(step, module).mean(0)
        return -self.balance * (mean * self.over).log().mean() / self.over

    def _shares(self, step: Step, module: Any) -> Any:
        return module(step.vector("student").detach()).softmax(-1)
