"""confident: rows of whose class teacher and student are sure, as many of each class (Tang et al. 2023, KD3).

With z = α · teacher + (1 − α) · student of the logits, a row has a pseudo-class k, the likeliest, and a
confidence, its probability. It is drawn if the confidence is above cutoff · r / (2 − r), where r is the
number of rows of the class k over that of the largest class: rows of rare classes need less. In the authors'
code α is 1 − exp(−5 ((e + 1) / 160 − 1)²) in the first 120 of 240 epochs, and then 0: the default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from distillgen.algorithms.arithmetic import Arithmetic
from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.training.part import Chance

if TYPE_CHECKING:
    from distillgen.training.step import Step

COURSE = "(1 - 2.71828 ** (-5 * (1.5 * progress - 1) ** 2)) * (progress < 0.5)"


class Confident(Chance):
    """Rows of whose class teacher and student together are sure, with a lower bar for rare classes."""

    needs: ClassVar = {"teacher": "classes"}
    tokens = False
    mixtures = True

    teacher: str = Field(description="whose logits are mixed with the student's: a stage, a field, a student")
    share: float | str = Field(
        COURSE, description="α: a number, or arithmetic over `progress` (0 to 1) and `epoch`"
    )
    cutoff: float = Field(0.95, gt=0, lt=1, description="the confidence that rows of the largest class need")
    balanced: bool = Field(True, description="rare classes need less; if not, all need `cutoff`")
    control: Literal["other", "random"] | None = Field(
        None,
        description="a control: each row has the confidence of another (other), or as many rows are taken at "
        "random (random)",
    )

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if the share is no arithmetic over progress and epoch."""
        if not isinstance(self.share, str):
            return
        try:
            names = Arithmetic(self.share).names
        except ValueError as error:
            raise ConfigError(f"share: {error}") from error
        if others := sorted(names - {"progress", "epoch"}):
            raise ConfigError(f"share: '{others[0]}' is neither progress nor epoch")

    def measure(self, step: Step) -> Any:
        """Return the confidence of each row and its pseudo-class [rows, 2]."""
        import torch

        share = step.weight(self.share)
        logits = share * step.teacher(self.teacher) + (1 - share) * step.teacher("student")
        return torch.stack([values.double() for values in logits.softmax(-1).max(-1)], -1)

    def chances(self, measured: Any, generator: Any) -> Any:
        """Return 1 for each row that is taken, and 0 for the others [rows]."""
        import torch

        confidence, classes = measured[:, 0], measured[:, 1].long()
        if self.control == "other":
            confidence = confidence[torch.randperm(len(confidence), generator=generator)]
        counts = torch.bincount(classes).double()
        shares = counts / counts.max()
        bars = self.cutoff * (shares / (2 - shares) if self.balanced else torch.ones_like(shares))
        chances = (confidence > bars[classes]).double()
        if self.control == "random":
            chances = chances[torch.randperm(len(chances), generator=generator)]
        return chances
