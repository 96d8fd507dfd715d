"""cross_entropy: the labels of the rows, or the tokens of the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from distillgen.training.part import Loss

if TYPE_CHECKING:
    from distillgen.training.step import Step


class CrossEntropy(Loss):
    """Negative log-probability of the label, in nats; a mean over the rows that have a label."""

    needs: ClassVar = {}
    teaching = False
    labels = True

    def rows(self, step: Step, module: Any) -> Any:
        """Return the loss of each row [rows]; 0 for a row without a label."""
        from torch.nn.functional import cross_entropy

        logits, label = step.logits(self), step.label
        present = (label >= 0).float()
        losses = step.per_row(cross_entropy(logits, label.clamp(min=0), reduction="none") * present, self.of)
        labelled = (step.per_row(present, self.of) > 0).sum().clamp(min=1)
        return losses * (step.size / labelled)
