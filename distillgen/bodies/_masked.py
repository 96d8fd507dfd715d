"""Masks on the layers of a frozen network. It needs torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from torch import nn

LEAST = 1e-13  # the probability of a class that the network excludes


class MaskedNetwork(nn.Module):  # type: ignore[misc]
    """A frozen network, asked once for each mask."""

    width = 0

    def __init__(self, network: Any, layers: Sequence[int]) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        widths = {layer: _width(network.body.layers[layer]) for layer in layers}
        self.masks = nn.ModuleDict({str(layer): _mask(width) for layer, width in widths.items()})

    def train(self, mode: bool = True) -> Self:
        """Train the masks only: the network stays in evaluation mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return the log-probabilities [rows, classes] under each mask."""
        return {layer: self._under(layer, mask, batch) for layer, mask in self.masks.items()}

    def _under(self, layer: str, mask: Any, batch: Mapping[str, Any]) -> Any:
        hook = self.network.body.layers[int(layer)].register_forward_hook(
            lambda module, inputs, output: output * mask(output)
        )
        try:
            return self.network.probabilities(self.network(batch)).clamp(min=LEAST).log()
        finally:
            hook.remove()


def _mask(width: int) -> Any:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.Sigmoid())


def _width(layer: Any) -> int:
    """Return the neurons of a layer: those of the last linear map in it."""
    return int([module for module in layer.modules() if isinstance(module, nn.Linear)][-1].out_features)
