"""trilateral: how much a row learns from its teacher and how much from its label (Hu et al. 2024, TGeo-KD).

α = sigmoid(f(Δ)). Δ has nine parts of a number for each class: S, T, G, M, (M − S)², (G − S)², (T − S)², (T
− G)², (M − G)²: the student's and the teacher's probabilities, the label, and the mean of the teacher's
over all rows with that label. f has layers of 32, 16 and 1 neurons with leaky ReLU. It learns from
validation rows: their cross-entropy after a step of gradient descent by the student, θ' = θ − step · ∇L(θ,
α), as a function of α.

In the release α is computed without a gradient, so that f stays as it was drawn: `frozen: true`. A row
without a label has G = 0, and M of the class that the teacher finds likeliest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distillgen.training.part import PartSizes, Weight

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Trilateral(Weight):
    """A weight between 0 and 1 that a network gives each row; it learns from validation rows."""

    needs: ClassVar = {"teacher": "classes"}
    labels = True
    validation = True
    tokens = False

    teacher: str = Field(description="the teacher: a stage, a field, a student, or a peer")
    step: float = Field(0.5, gt=0, description="learning rate of the student's step that it looks ahead")
    validation_rows: int = Field(256, ge=1, description="validation rows that it learns from in each step")
    frozen: bool = Field(False, description="it does not learn, as in the authors' release: a control")

    def module(self, sizes: PartSizes) -> Any:
        """Return f, with the teacher's mean for each class as state."""
        import torch
        from torch import nn

        layers = nn.Sequential(
            nn.Linear(9 * sizes.classes, 32),
            nn.LeakyReLU(),
            nn.Linear(32, 16),
            nn.LeakyReLU(),
            nn.Linear(16, 1),
        )
        layers.register_buffer("means", torch.full((sizes.classes, sizes.classes), 1 / sizes.classes))
        return layers

    def fit(self, step: Step, module: Any) -> None:
        """Set the teacher's means; that of a class without a label is uniform."""
        shares = step.teacher(self.teacher).softmax(-1)
        for number in step.label[step.label >= 0].unique():
            module.means[number] = shares[step.label == number].mean(0)

    def rows(self, step: Step, module: Any) -> Any:
        """Return the weight of each row [rows]; a constant in the step that trains the student."""
        weight = module(self._state(step, module.means)).sigmoid().squeeze(-1)
        return weight.detach() if step.learning else weight

    def learns(self, step: Step, module: Any) -> Any:
        """Return the cross-entropy of validation rows after the student's next step."""
        if self.frozen:
            return None
        from torch.nn.functional import cross_entropy

        from distillgen.training.step import descended

        weights = step.parameters()
        weights = descended(weights, step.again(at=weights).total(), self.step)
        guide = step.again(at=weights, batch=step.draw("trilateral", self.validation_rows))
        labelled = (guide.label >= 0).sum().clamp(min=1)
        return cross_entropy(guide.teacher("student"), guide.label, reduction="sum") / labelled

    def _state(self, step: Step, means: Any) -> Any:
        """Return Δ [rows, 9 · classes]."""
        import torch
        from torch.nn.functional import one_hot

        s, t = (step.teacher(name).detach().softmax(-1) for name in ("student", self.teacher))
        present = step.label >= 0
        g = one_hot(step.label.clamp(min=0), len(means)) * present[:, None]
        m = means[torch.where(present, step.label, t.argmax(-1))]
        squares = [(a - b) ** 2 for a, b in ((m, s), (g, s), (t, s), (t, g), (m, g))]
        return torch.cat([s, t, g, m, *squares], -1)
