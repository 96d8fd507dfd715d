"""Graph convolutions. It needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class Gcn(nn.Module):  # type: ignore[misc]
    """D^-1/2 (A + I) D^-1/2 X W: the symmetric normalisation with self loops (Kipf and Welling 2017)."""

    def __init__(self, width: int, neurons: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, neurons)

    def forward(self, array: Any, edges: Any) -> Any:
        """Return [rows, neurons] of [rows, width] and edges [2, edges], each pair in both directions."""
        start, end = edges
        degrees = torch.bincount(start, minlength=len(array)).to(array.dtype) + 1
        root, projected = degrees.rsqrt()[:, None], nn.functional.linear(array, self.linear.weight)
        scaled = root * projected
        sums = scaled.index_add(0, start, scaled[end])
        return root * sums + self.linear.bias


class Sage(nn.Module):  # type: ignore[misc]
    """W₁ x + W₂ mean of the neighbours' x (Hamilton et al. 2017, algorithm 1); 0 for a node without any."""

    def __init__(self, width: int, neurons: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, neurons)

    def forward(self, array: Any, edges: Any) -> Any:
        """Return [rows, neurons] of [rows, width] and edges [2, edges], each pair in both directions."""
        start, end = edges
        degrees = torch.bincount(start, minlength=len(array)).clamp(min=1).to(array.dtype)[:, None]
        means = torch.zeros_like(array).index_add(0, start, array[end]) / degrees
        return self.linear(torch.cat([array, means], -1))


KINDS = {"gcn": Gcn, "sage": Sage}


class Convolutions(nn.Module):  # type: ignore[misc]
    """Graph convolutions, each with ReLU and dropout."""

    def __init__(self, kind: type[nn.Module], widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.width, self.dropout = widths[-1], nn.Dropout(dropout)
        pairs = zip(widths, widths[1:], strict=False)
        self.convolutions = nn.ModuleList(kind(a, b) for a, b in pairs)

    def forward(self, array: Any, edges: Any) -> Any:
        """Return the last layer's numbers [rows, width]."""
        array = array.flatten(1)
        for convolution in self.convolutions:
            array = self.dropout(convolution(array, edges).relu())
        return array
