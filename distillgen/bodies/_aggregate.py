"""Experts under a layer of attention. It needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import nn

from distillgen.networks.network import LEFT_OUT


class Aggregated(nn.Module):  # type: ignore[misc]
    """Frozen networks whose features are the tokens of a layer of a transformer."""

    def __init__(self, experts: Sequence[Any], width: int, heads: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(network.requires_grad_(False) for network in experts)
        self.width = width
        self.attention = nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )

    def train(self, mode: bool = True) -> Self:
        """Train the attention only: the experts stay in evaluation mode."""
        super().train(mode)
        self.experts.eval()
        return self

    def forward(self, batch: Mapping[str, Any]) -> Any:
        """Return the mean [rows, width] over the experts that are not left out of a row."""
        tokens = torch.stack([expert(batch).features for expert in self.experts], 1)
        rows, number, _ = tokens.shape
        left_out = batch.get(LEFT_OUT, torch.full((rows,), -1, device=tokens.device))
        present = torch.arange(number, device=tokens.device) != left_out[:, None]
        states = self.attention(tokens, src_key_padding_mask=~present)
        return (states * present[..., None]).sum(1) / present.sum(1, keepdim=True)
