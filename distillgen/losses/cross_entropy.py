"""cross_entropy: the labels of the rows, or the tokens of the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distillgen.training.part import Loss

if TYPE_CHECKING:
    from distillgen.training.step import Step


class CrossEntropy(Loss):
    """Negative log-probability of the label, in nats; a mean over the rows that have a label.

    A mixture of two rows learns both labels by their shares.
    """

    needs: ClassVar = {}
    teaching = False
    labels = True
    mixtures = True

    standardise: bool = Field(
        False,
        description="divide the logits of each position by their standard deviation first; with two classes "
        "nothing would be left to learn",
    )

    def rows(self, step: Step, module: Any) -> Any:
        """Return the loss of each row [rows]; 0 for a row without a label."""
        from torch.nn.functional import cross_entropy

        logits = step.logits(self)
        if self.standardise:
            from distillgen.losses._standardised import standardised

            logits = standardised(logits)
        losses: Any = 0.0
        labelled: Any = 0.0
        for label, share in step.labels:
            present = (label >= 0).float()
            values = cross_entropy(logits, label.clamp(min=0), reduction="none") * present
            losses = losses + share * step.per_row(values, self.of)
            labelled = labelled + (share * (step.per_row(present, self.of) > 0)).sum()
        return losses * (step.size / labelled.clamp(min=1))
