"""surer: one weight where the student is surer than its teacher, one elsewhere (Amara et al. 2022, BD-KD).

A row's weight is `high` where the entropy of the teacher's distribution is larger than that of the
student's. BD-KD multiplies the forward divergence by it and the reverse one by high + low less it. The
values 2 and 1 are ours: there is no official code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distillgen.training.part import Weight

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Surer(Weight):
    """`high` where the student is surer than the teacher, else `low`; by the entropy over the classes."""

    needs: ClassVar = {"teacher": "classes"}
    tokens = False
    mixtures = True

    teacher: str = Field(description="whose entropy is compared: a stage, a field, a student, or a peer")
    high: float = Field(2.0, ge=0, description="the weight where the student is surer")
    low: float = Field(1.0, ge=0, description="the weight elsewhere")
    temperature: float = Field(1.0, gt=0, description="both logits are divided by it")

    def rows(self, step: Step, module: Any) -> Any:
        """Return the weight of each row [rows]."""
        import torch

        surer = self._entropy(step.teacher(self.teacher)) > self._entropy(step.teacher("student"))
        return torch.where(surer, self.high, self.low)

    def _entropy(self, logits: Any) -> Any:
        logs = (logits / self.temperature).log_softmax(-1)
        return -(logs.exp() * logs).sum(-1)
