"""taid: a target between student and teacher, which moves towards the teacher (Shing et al. 2025, TAID).

The target is p_t = softmax((1 − t)·student + t·teacher) of logits, and the loss −Σ p_t log q. After each
step, δ = (L_before − L) / L_before, m ← βm + (1 − β)δ, and t ← min(end, max(line, t + α·σ(m)·(1 − t))),
where the line rises from start to end over the training. L is the cross-entropy, as in the authors' code;
the paper's L is the divergence. As there, the first step only sets L_before. With the authors' α = 0.0005,
t follows the line unless the training has thousands of steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from distillgen.training.part import Loss, PartSizes

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Taid(Loss):
    """Cross-entropy to a mixture of the student's and the teacher's logits, in which the teacher's share
    rises.
    """

    mixtures = True

    start: float = Field(0.4, ge=0, le=1, description="the teacher's share in the first step")
    end: float = Field(1.0, ge=0, le=1, description="the teacher's largest share")
    adaptive: bool = Field(True, description="rise faster while the loss falls; if not, along the line")
    pace: float = Field(5e-4, ge=0, description="α: how much faster the share may rise in a step")
    momentum: float = Field(0.99, ge=0, lt=1, description="β: the weight of earlier changes of the loss")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.end < self.start:
            raise ValueError("the teacher's share rises: 'end' is at least 'start'")
        return self

    def module(self, sizes: PartSizes) -> Any:
        """Return the state: the teacher's share, the mean relative fall of the loss, and the last loss."""
        import torch

        state = torch.nn.Module()
        for name, value in {"share": self.start, "fall": 0.0, "before": -1.0}.items():
            state.register_buffer(name, torch.tensor(value))
        return state

    def rows(self, step: Step, module: Any) -> Any:
        """Return the loss of each row, in nats: [rows], or [teachers, rows]."""
        share = module.share.clone()
        values = []
        for student, teacher in step.pairs(self):
            target = ((1 - share) * student.detach() + share * teacher).softmax(-1)
            values.append(step.per_row(-(target * student.log_softmax(-1)).sum(-1), self.of))
        if step.learning:
            self._advance(
                module, step.mean(sum(value.mean() for value in values) / len(values)), step.progress
            )
        return step.over_teachers(self, values)

    def _advance(self, module: Any, loss: Any, progress: float) -> None:
        """Set the teacher's share in the next step. `loss` is the mean over the rows of all processes."""
        import torch

        line = torch.full_like(module.share, self.start + (self.end - self.start) * progress)
        if not self.adaptive:
            module.share.copy_(line)
        elif module.before >= 0:
            fall = (module.before - loss) / (module.before + 1e-15)
            module.fall.mul_(self.momentum).add_((1 - self.momentum) * fall)
            faster = module.share + self.pace * module.fall.sigmoid() * (1 - module.share)
            module.share.copy_(torch.maximum(line, faster).clamp(max=self.end))
        module.before.copy_(loss)
