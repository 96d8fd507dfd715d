"""plackett_luce: the teacher's ranking of the classes, with the label first (Bassam et al. 2025, PLD).

π is the label, then the other classes from the teacher's likeliest to its least likely. The loss is Σ_k α_k
[−s_π(k) + log Σ_{l ≥ k} exp s_π(l)] with α = softmax(teacher / temperature). It needs no cross-entropy
beside it: with all weight on the label it is the cross-entropy, with equal weights (a high temperature)
ListMLE. Classes to which a teacher gives the same probability, such as those that it did not name, are
tied: each of them is compared with all that do not rank above it (Breslow 1974). The paper has no ties.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from distillgen.training.part import Loss

if TYPE_CHECKING:
    from distillgen.training.step import Step


class PlackettLuce(Loss):
    """Weighted negative log-likelihood of the teacher's ranking; a row without a label has none put first."""

    tokens = False

    temperature: float = Field(1.0, gt=0, description="the teacher's logits are divided by it in the weights")

    def rows(self, step: Step, module: Any) -> Any:
        """Return the loss of each row, in nats: [rows], or [teachers, rows]."""
        scores, label = step.logits(self), step.label
        values = [self._value(scores, step.teacher(name).detach(), label) for name in self.teachers()]
        return step.over_teachers(self, values)

    def _value(self, scores: Any, teacher: Any, label: Any) -> Any:
        """Return the loss [rows] of scores and a teacher's logits [rows, classes]."""
        import torch

        weights = (teacher / self.temperature).softmax(-1)
        labels = torch.arange(teacher.shape[-1], device=label.device) == label[:, None]
        ranked, order = teacher.masked_fill(labels, torch.inf).sort(-1, descending=True)
        scores, weights = scores.gather(-1, order), weights.gather(-1, order)
        following = scores.flip(-1).logcumsumexp(-1).flip(-1)
        changes = torch.cat([ranked[:, :1] > -torch.inf, ranked[:, 1:] < ranked[:, :-1]], -1)
        places = torch.arange(ranked.shape[-1], device=label.device).expand_as(order)
        first_of_tied = places.masked_fill(~changes, 0).cummax(-1)[0]
        return (weights * (following.gather(-1, first_of_tied) - scores)).sum(-1)
