"""A training that changes some weights alone (Ansell et al. 2022, LT-SFT). It needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def restrict(model: Any, changed: Path, density: float) -> None:
    """Let a training change only the share `density` of a model's weights, over all of its layers.

    They are those whose values in the folder `changed` are the farthest from the model's. The gradients of
    all others are 0, which leaves them as they are, as long as they do not decay.
    """
    other = dict(type(model).from_pretrained(changed, dtype=model.dtype).named_parameters())
    values = dict(model.named_parameters())
    with torch.no_grad():
        changes = torch.cat([(other[name] - value).abs().flatten() for name, value in values.items()])
    free = torch.zeros(len(changes), dtype=torch.bool)
    free[changes.topk(round(density * len(changes))).indices] = True
    free &= changes > 0
    for value, part in zip(values.values(), free.split([v.numel() for v in values.values()]), strict=True):
        _mask(value, ~part.view_as(value))


def _mask(value: Any, fixed: Any) -> None:
    value.register_hook(lambda gradient: gradient.masked_fill(fixed.to(gradient.device), 0))
