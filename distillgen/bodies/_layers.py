"""Layers of neurons. It needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


class Layers(nn.Module):  # type: ignore[misc]
    """Linear layers, each with ReLU and dropout; `layers` holds them in order."""

    def __init__(self, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.width = widths[-1]
        pairs = zip(widths, widths[1:], strict=False)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)) for a, b in pairs
        )

    def forward(self, array: Any) -> Any:
        """Return the last layer's numbers [rows, width]."""
        array = array.flatten(1)
        for layer in self.layers:
            array = layer(array)
        return array
