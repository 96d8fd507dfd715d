"""The averages of a network's weights, as state of its training. It needs torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from distillgen.training.blend import Blend


class Averages(nn.Module):  # type: ignore[misc]
    """The weights that a network began with, and their moving average, in the order of its parameters."""

    def __init__(self, blend: Blend, network: Any) -> None:
        super().__init__()
        self._blend, self._network = blend, [network]  # a list, so that it becomes no child
        for i, value in enumerate(self._trained()):
            self.register_buffer(f"start{i}", value.detach().clone())
            self.register_buffer(f"average{i}", value.detach().clone())

    def _trained(self) -> list[Any]:
        return [value for value in self._network[0].parameters() if value.requires_grad]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self) -> None:
        """Take the weights after a step into the average."""
        for i, value in enumerate(self._trained()):
            self.get_buffer(f"average{i}").lerp_(value, 1 - self._blend.average)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def settle(self) -> None:
        """Give the network the blended weights."""
        for i, value in enumerate(self._trained()):
            value.copy_(self.get_buffer(f"average{i}").lerp(self.get_buffer(f"start{i}"), self._blend.start))


class Averaging(TrainerCallback):  # type: ignore[misc]
    """Takes each step into the averages, and ends the training with them, before anything is measured."""

    def __init__(self, averages: Averages) -> None:
        self._averages = averages

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the weights after a step, before a checkpoint is written."""
        self._averages.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Blend the weights."""
        self._averages.settle()
