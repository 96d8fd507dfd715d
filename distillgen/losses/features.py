"""features: the student's features against a teacher's vectors (Romero et al. 2015, FitNets).

A linear map, trained along, takes the student's features [rows, width] to the width of the teacher's
vectors, unless both have one width. These are embeddings that a stage recorded, a field of numbers, or the
features of another network. With a `mapping`, layers are compared instead, each pair through a map of its
own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.losses._layer_mapping import FeatureLoss
from distillgen.training.part import PartSizes

if TYPE_CHECKING:
    from distillgen.training.step import Step


class Features(FeatureLoss):
    """Squared or angular distance of projected features from a teacher's vectors."""

    kind: Literal["mse", "cosine"] = Field(
        "mse", description="mse: mean over the numbers of their squared difference; cosine: 1 − cosine"
    )

    linear: bool = Field(
        True,
        description="a linear map, trained along, takes the features to the width of the vectors; else both "
        "have one width, as behind the classifier of the teacher: heads: {class: {of: NAME}}",
    )

    def module(self, sizes: PartSizes) -> Any:
        """Return a linear map for each pair that is compared. Raise ConfigError where nothing is."""
        from torch import nn

        widths = self.pair_widths(sizes)
        if self.linear:
            return nn.ModuleList(nn.Linear(*pair) for pair in widths)
        for student, teacher in widths:
            if student != teacher:
                raise ConfigError(
                    f"features: '{self.of}' has {student} features, and '{next(iter(self.teachers()))}' "
                    f"{teacher}; leave out linear: false"
                )
        return None

    def rows(self, step: Step, module: Any) -> Any:
        """Return the distance of each row: [rows], or [teachers, rows]."""
        if not self.linear:
            return self.over_pairs(step, self._distance)
        maps = iter(module)
        return self.over_pairs(step, lambda features, vectors: self._distance(next(maps)(features), vectors))

    def _distance(self, features: Any, vectors: Any) -> Any:
        from torch.nn.functional import cosine_similarity

        if self.kind == "cosine":
            return 1 - cosine_similarity(features, vectors, dim=-1)
        return ((features - vectors) ** 2).mean(-1)
