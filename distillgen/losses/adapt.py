"""adapt: the loss after a step towards a teacher's vectors on rows without labels (Zhong et al. 2022).

A batch is of one domain. Its first half supports: θ' = θ − step · ∇θ mean((f_θ(x) − t(x))²), with the
student's features f and the teacher's vectors t. Its other half asks: the cross-entropy of the student with
the weights θ'. The gradient goes through the step, so that the student, its head and a teacher that is
trained along learn to be of use for adapting: a second derivative (MAML). A new domain is adapted to by the
same step: a training with the loss `features: {linear: false}`, `optimizer: sgd` and `max_steps: 1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.training.part import Loss, PartSizes

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Adapt(Loss):
    """Cross-entropy on half of a batch, after the student has stepped towards a teacher on the other half."""

    needs: ClassVar = {"teacher": "vector", "leave_out": "number"}
    labels = True
    grouped = True
    features = True
    tokens = False

    step: float = Field(0.5, gt=0, description="learning rate of the step")
    leave_out: str | None = Field(
        None,
        description="field with the place, from 0, of the expert that learnt from the row: a teacher of body "
        "`aggregate` does not ask it about the row",
    )

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if another network than the student is to adapt, or towards several."""
        if self.of != "student" or isinstance(self.teacher, list):
            raise ConfigError("the student steps towards one teacher: leave out 'of', and give one name")

    def module(self, sizes: PartSizes) -> None:
        """Return nothing. Raise ConfigError if the vectors are not as wide as the student's features."""
        widths = [sizes.widths.get(str(name)) for name in ("student", self.teacher)]
        if widths[0] != widths[1]:
            raise ConfigError(
                f"adapt: the student's features have the width {widths[0]}, and the vectors of "
                f"'{self.teacher}' {widths[1]}"
            )

    def rows(self, step: Step, module: Any) -> Any:
        """Return the mean cross-entropy of the rows that ask; 0 for a batch of one row."""
        import torch
        from torch.nn.functional import cross_entropy

        from distillgen.networks.network import rows_of
        from distillgen.training.step import descended

        half = step.size // 2
        if not half:
            return step.out().features.sum() * 0.0
        with torch.enable_grad():  # also where held-out rows are measured
            weights = step.parameters(detached=False)
            support = step.again(at=weights, batch=self._without_expert(step, rows_of(step.batch, 0, half)))
            weights = descended(weights, self.distance(support), self.step)
        query = step.again(at=weights, batch=rows_of(step.batch, half, step.size))
        labelled = (query.label >= 0).sum().clamp(min=1)
        return cross_entropy(query.logits(self), query.label, reduction="sum") / labelled

    def distance(self, step: Step) -> Any:
        """Return the mean squared distance of the student's features from the teacher's vectors."""
        return ((step.vector("student") - step.vector(str(self.teacher))) ** 2).mean()

    def _without_expert(self, step: Step, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a batch that says which expert is left out of each row."""
        from distillgen.networks.network import LEFT_OUT

        if self.leave_out is None:
            return batch
        places = step.again(batch=batch).vector(self.leave_out)
        return {**batch, LEFT_OUT: places[:, 0].long()}
