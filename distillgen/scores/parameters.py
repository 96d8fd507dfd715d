"""parameters: the number of a network's weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from distillgen.training.score import Score

if TYPE_CHECKING:
    from distillgen.training.untrained import Untrained


class Parameters(Score):
    """The number of weights that the student has: the baseline that every other score has to beat."""

    def rate(self, student: Untrained) -> Mapping[str, float]:
        """Return the number."""
        return {"": float(sum(weights.numel() for weights in student.network().parameters()))}
