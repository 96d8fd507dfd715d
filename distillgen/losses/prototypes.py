"""prototypes: how a row relates to the classes' means, as a teacher sees it (Zhang et al. 2024, MulKI).

A prototype is the mean of the teacher's features over the training rows of a class. The relations of a row
are the softmax of its cosines with all prototypes, divided by a temperature; the loss is KL(teacher ‖
student), where both features are compared with the teacher's prototypes. The equations of the paper were not
at hand: this is a reconstruction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.training.part import Loss, PartSizes

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Prototypes(Loss):
    """Divergence of a row's relations to the prototypes of the classes, from those that a teacher sees."""

    needs: ClassVar = {"teacher": "vector"}
    labels = True
    features = True
    tokens = False

    temperature: float = Field(0.25, gt=0, description="cosines are divided by it")

    def module(self, sizes: PartSizes) -> Any:
        """Return the prototypes of each teacher. Raise ConfigError where features do not fit."""
        import torch
        from torch import nn

        width = sizes.widths[self.of]
        for name in self.teachers():
            if sizes.widths.get(name) != width:
                gives = f"{sizes.widths[name]} features" if name in sizes.widths else "no vectors"
                raise ConfigError(f"prototypes: '{self.of}' has {width} features, and '{name}' gives {gives}")
        prototypes = nn.Module()
        prototypes.register_buffer("means", torch.zeros(len(self.teachers()), sizes.classes, width))
        return prototypes

    def fit(self, step: Step, module: Any) -> None:
        """Set the prototypes to the means over the rows that have a label."""
        labels = step.label
        for means, name in zip(module.means, self.teachers(), strict=True):
            vectors = step.vector(name, exchanged=False)
            for c in labels[labels >= 0].unique():
                means[c] = vectors[labels == c].mean(0)

    def rows(self, step: Step, module: Any) -> Any:
        """Return the divergence of each row, in nats: [rows], or [teachers, rows]."""
        values = []
        for means, name in zip(module.means, self.teachers(), strict=True):
            p = self._relations(step.vector(name).detach(), means)
            values.append((p.exp() * (p - self._relations(step.vector(self.of), means))).sum(-1))
        return step.over_teachers(self, values)

    def _relations(self, vectors: Any, means: Any) -> Any:
        """Return the log-distribution of each row over the prototypes [rows, classes]."""
        from torch.nn.functional import normalize

        present = means.abs().sum(-1) > 0  # a class without rows has no prototype
        cosines = normalize(vectors, dim=-1) @ normalize(means[present], dim=-1).T
        return (cosines / self.temperature).log_softmax(-1)
