"""disagreement: more weight where student and teacher are far apart (Tang et al. 2023, KD3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distillgen.training.part import Weight

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Disagreement(Weight):
    """The logistic function of the distance between the logits of student and teacher: 0.5 to 1."""

    needs: ClassVar = {"teacher": "classes"}
    tokens = False
    mixtures = True

    teacher: str = Field(
        description="whose logits are compared: an earlier student, a peer, a stage, a field"
    )

    def rows(self, step: Step, module: Any) -> Any:
        """Return the weight of each row [rows]; no gradient flows through it."""
        distance = step.teacher("student") - step.teacher(self.teacher)
        return distance.norm(dim=-1).sigmoid().detach()
