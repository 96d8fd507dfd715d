"""information: what the student's features tell of a teacher's vectors (He et al. 2021, Distiller, MI-α).

The loss is the negative of a lower bound of their mutual information (Poole et al. 2019, I_α). With the score
f(x, y) of the features x of a row and the vector y of a row, and a baseline b(y), both small networks that
are trained along, the part of row j is

    1 + log(e^f(x_j, y_j) / n(y_j)) − mean over i ≠ j of e^f(x_i, y_j) / n(y_j),
    n(y) = α · (mean over the rows i of e^f(x_i, y)) + (1 − α) · e^b(y),

where the last mean leaves row j out, in its n too. α = 1 is InfoNCE: steady, and never above the logarithm of
the number of rows. α = 0 has no such limit, and varies more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt

from distillgen.losses._layer_mapping import FeatureLoss
from distillgen.training.part import PartSizes

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Information(FeatureLoss):
    """Minus a lower bound, in nats, of the mutual information of features and a teacher's vectors."""

    alpha: float = Field(0.9, ge=0, le=1, description="1: InfoNCE; towards 0: less biased, more variable")
    neurons: PositiveInt = Field(
        64, description="neurons of the layers that score a pair, and of the baseline"
    )

    def module(self, sizes: PartSizes) -> Any:
        """Return the critic of each pair that is compared. Raise ConfigError where nothing is."""
        from torch import nn

        widths = self.pair_widths(sizes)
        return nn.ModuleList(self._critic(*pair) for pair in widths)

    def _critic(self, student: int, teacher: int) -> Any:
        from torch.nn import Linear, ModuleDict, ReLU, Sequential

        size = self.neurons
        return ModuleDict(
            {
                "student": Linear(student, size),
                "teacher": Linear(teacher, size),
                "score": Sequential(ReLU(), Linear(size, size), ReLU(), Linear(size, 1)),
                "baseline": Sequential(Linear(teacher, size), ReLU(), Linear(size, 1)),
            }
        )

    def rows(self, step: Step, module: Any) -> Any:
        """Return minus the part of each row: [rows], or [teachers, rows]; 0 where no other row is there."""
        critics = iter(module)
        return self.over_pairs(step, lambda *pair: self._part(next(critics), *pair))

    def _part(self, critic: Any, features: Any, vectors: Any) -> Any:
        scored = critic["student"](features)[:, None] + critic["teacher"](vectors)
        baseline = critic["baseline"](vectors).squeeze(-1)
        return -bound(critic["score"](scored).squeeze(-1), baseline, self.alpha)


def bound(scores: Any, baseline: Any, alpha: float) -> Any:
    """Return the part of each row [rows], in nats; their mean is I_α.

    `scores[i, j]` is f(x_i, y_j), and `baseline` [rows] is b(y_j).
    """
    import torch

    count = len(scores)
    if count == 1:
        return scores.sum(0) * 0

    def mixed(mean: Any) -> Any:
        if alpha in (0, 1):
            return mean if alpha else baseline
        return torch.logaddexp(math.log(alpha) + mean, math.log(1 - alpha) + baseline)

    joint = scores.diagonal() - mixed(scores.logsumexp(0) - math.log(count))
    others = scores.masked_fill(torch.eye(count, dtype=torch.bool, device=scores.device), -torch.inf)
    marginal = (others - mixed(others.logsumexp(0) - math.log(count - 1))).exp().sum(0) / (count - 1)
    return 1 + joint - marginal
