"""sure: of several teachers, more weight to the one that is surer of a row (Zhang et al. 2024, MulKI).

The shares of a row are the softmax, over the teachers, of each one's largest probability. The equations of
the paper were not at hand: this is a reconstruction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distillgen.training.part import Weight

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Sure(Weight):
    """The share of each teacher in a row, by how sure it is of its likeliest class."""

    needs: ClassVar = {"of": "classes"}
    tokens = False
    mixtures = True

    of: list[str] = Field(min_length=2, description="the teachers, in the order of the losses' lists")
    temperature: float = Field(
        1.0, gt=0, description="the probabilities are divided by it before the softmax"
    )

    def teachers_weighed(self) -> int:
        """Return the number of teachers."""
        return len(self.of)

    def rows(self, step: Step, module: Any) -> Any:
        """Return the shares [teachers, rows]; no gradient flows through them."""
        import torch

        surest = [step.teacher(name).softmax(-1).amax(-1) for name in self.of]
        return (torch.stack(surest) / self.temperature).softmax(0).detach()
