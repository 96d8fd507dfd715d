"""divergence: the student's distribution against a teacher's (Hinton et al. 2015, section 2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from distillgen.training.part import Loss

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Divergence(Loss):
    """Kullback-Leibler or Jensen-Shannon divergence over all outcomes, or the recorded ones and a tail."""

    mixtures = True

    kind: Literal["forward", "reverse", "jensen_shannon"] = Field(
        "forward",
        description="forward: KL from teacher to student; reverse: KL from student to teacher; or "
        "Jensen-Shannon",
    )
    temperature: float = Field(1.0, gt=0, description="both logits are divided by it")
    squared: bool = Field(
        True, description="multiply by the temperature's square, so that gradients keep their size"
    )
    standardise: bool = Field(
        False, description="divide the logits of each position by their standard deviation first"
    )
    through: bool = Field(
        False, description="let the gradient reach a peer that teaches, so that it moves towards the student"
    )

    def rows(self, step: Step, module: Any) -> Any:
        """Return the divergence of each row, in nats: [rows], or [teachers, rows]."""
        values = [step.per_row(self._positions(*pair), self.of) for pair in step.pairs(self)]
        return step.over_teachers(self, values)

    def _positions(self, student: Any, teacher: Any) -> Any:
        """Return the divergence [positions] of logits [positions, outcomes]."""
        if self.standardise:
            from distillgen.losses._standardised import standardised

            student, teacher = standardised(student), standardised(teacher)
        q = (student / self.temperature).log_softmax(-1)
        p = (teacher / self.temperature).log_softmax(-1)
        scale = self.temperature**2 if self.squared else 1.0
        if self.kind == "forward":
            return scale * _kl(p, q)
        if self.kind == "reverse":
            return scale * _kl(q, p)
        middle = p.logaddexp(q) - math.log(2)
        return scale * (_kl(p, middle) + _kl(q, middle)) / 2


def _kl(p: Any, q: Any) -> Any:
    return (p.exp() * (p - q)).sum(-1)
