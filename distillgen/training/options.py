"""Options of a training that its process and its stage read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Lora(BaseModel):
    """Train low-rank additions to the weights, and not these (Hu et al. 2021; with bits: QLoRA, Dettmers et al. 2023)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    r: int = Field(16, ge=1, description="rank of the additions")
    alpha: int | None = Field(None, ge=1, description="they are scaled by alpha / r; default: twice r")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of their inputs that is left out by chance")
    target: str | list[str] = Field("all-linear", description="the layers that get one")
    bits: Literal[4] | None = Field(
        None, description="4: hold the student's own weights in 4 bits (QLoRA); needs a GPU"
    )

    def fits(self, layers: Iterable[str]) -> bool:
        """Whether some layer gets an addition, as PEFT reads `target`: the ends of names, or one pattern of a whole name."""
        if isinstance(self.target, str):
            return self.target == "all-linear" or any(re.fullmatch(self.target, layer) for layer in layers)
        return any(layer == end or layer.endswith(f".{end}") for layer in layers for end in self.target)
