"""features: the student's features against a teacher's vectors (Romero et al. 2015, FitNets).

A linear map, trained along, takes the student's features [rows, width] to the width of the teacher's
vectors, unless both have one width. These are embeddings that a stage recorded, a field of numbers, or the
features of another network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.training.part import Loss, PartSizes

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Features(Loss):
    """Squared or angular distance of projected features from a teacher's vectors."""

    needs: ClassVar = {"teacher": "vector"}
    features = True
    tokens = False
    mixtures = True

    kind: Literal["mse", "cosine"] = Field(
        "mse", description="mse: mean over the numbers of their squared difference; cosine: 1 − cosine"
    )

    linear: bool = Field(
        True,
        description="a linear map, trained along, takes the features to the width of the vectors; else both "
        "have one width, as behind the classifier of the teacher: heads: {class: {of: NAME}}",
    )

    def module(self, sizes: PartSizes) -> Any:
        """Return a linear map for each teacher. Raise ConfigError where there is nothing to compare."""
        from torch import nn

        for name in (self.of, *self.teachers()):
            if name not in sizes.widths:
                raise ConfigError(f"features: '{name}' gives no vectors")
        width = sizes.widths[self.of]
        if not self.linear:
            for name in self.teachers():
                if sizes.widths[name] != width:
                    widths = f"'{self.of}' has {width} features, and '{name}' {sizes.widths[name]}"
                    raise ConfigError(f"features: {widths}; leave out linear: false")
            return None
        return nn.ModuleList(nn.Linear(width, sizes.widths[name]) for name in self.teachers())

    def rows(self, step: Step, module: Any) -> Any:
        """Return the distance of each row: [rows], or [teachers, rows]."""
        from torch.nn.functional import cosine_similarity

        values = []
        for i, name in enumerate(self.teachers()):
            vectors, features = step.vector(name).detach(), step.vector(self.of)
            features = module[i](features) if self.linear else features
            values.append(
                ((features - vectors) ** 2).mean(-1)
                if self.kind == "mse"
                else 1 - cosine_similarity(features, vectors, dim=-1)
            )
        return step.over_teachers(self, values)
