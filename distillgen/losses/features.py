"""features: the student's features against a teacher's vectors (Romero et al. 2015, FitNets).

A linear map, trained along, takes the student's features [rows, width] to the width of the teacher's
vectors, unless both have one width. These are embeddings that a stage recorded, a field of numbers, or the
features of another network. With a `mapping`, layers are compared instead, each pair through a map of its
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.losses._layer_mapping import (
    DESCRIPTION,
    LayerMapping,
    check_layers,
    over_pairs,
    pairs,
    widths_of_pairs,
)
from distillgen.networks.spec import NetworkSpec
from distillgen.project import Project
from distillgen.training.part import Loss, PartSizes, Signal

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

    mapping: LayerMapping | None = Field(None, description=DESCRIPTION)

    def teachers(self) -> Mapping[str, Signal]:
        """Return the teachers: a mapping reads their layers."""
        teachers = super().teachers()
        return dict.fromkeys(teachers, "layers") if self.mapping else teachers

    def check_network(self, spec: NetworkSpec, project: Project) -> None:
        """Raise ConfigError if the network has no features, or no layers where a mapping reads them."""
        super().check_network(spec, project)
        check_layers(self.mapping, spec, project)

    def module(self, sizes: PartSizes) -> Any:
        """Return a linear map for each pair that is compared. Raise ConfigError where nothing is."""
        from torch import nn

        try:
            widths = widths_of_pairs(self, self.mapping, sizes)
        except ConfigError as error:
            raise ConfigError(f"features: {error.message}") from error
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
        maps = iter(module) if self.linear else None
        values = []
        for name in self.teachers():
            distances = [
                self._distance(x if maps is None else next(maps)(x), y)
                for x, y in pairs(self, self.mapping, step, name)
            ]
            values.append(over_pairs(self.mapping, step, self.of, distances))
        return step.over_teachers(self, values)

    def _distance(self, features: Any, vectors: Any) -> Any:
        from torch.nn.functional import cosine_similarity

        if self.kind == "cosine":
            return 1 - cosine_similarity(features, vectors, dim=-1)
        return ((features - vectors) ** 2).mean(-1)
