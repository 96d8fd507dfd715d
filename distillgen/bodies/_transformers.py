"""Models of pictures with random weights. It needs torch and transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoConfig, AutoModel


class PictureModel(nn.Module):  # type: ignore[misc]
    """A model of transformers for pictures of one shape."""

    def __init__(self, options: Mapping[str, Any], shape: Sequence[int]) -> None:
        super().__init__()
        self.shape, self.last = tuple(shape), len(shape) == 3 and shape[-1] <= 4 < shape[0]
        channels, height, width = self._first(torch.zeros(1, *shape)).shape[1:]
        config = AutoConfig.for_model(**options)
        if "num_channels" not in options:
            config.num_channels = channels
        if "image_size" not in options and hasattr(config, "image_size"):
            one = isinstance(config.image_size, int) and height == width
            config.image_size = height if one else [height, width]
        self.model = AutoModel.from_config(config).eval()
        with torch.no_grad():
            features, tokens = self._features(torch.zeros(1, channels, height, width))
        self.width, self.token_width = int(features.shape[1]), int(tokens.shape[2])
        self.batch_statistics = any(isinstance(layer, _BatchNorm) for layer in self.model.modules())
        self.train()

    def _first(self, array: Any) -> Any:
        """Return pictures [rows, channels, height, width]."""
        array = array.reshape(len(array), *self.shape)
        if len(self.shape) == 2:
            return array[:, None]
        return array.permute(0, 3, 1, 2) if self.last else array

    def forward(self, array: Any) -> Any:
        """Return features [rows, width] and tokens [rows, tokens, token_width].

        A row alone is normalised by the running statistics.
        """
        if self.training and self.batch_statistics:
            self.model.train(len(array) > 1)
        return self._features(self._first(array))

    def _features(self, pictures: Any) -> Any:
        out = self.model(pixel_values=pictures)
        pooled, states = getattr(out, "pooler_output", None), out.last_hidden_state
        tokens = states.flatten(2).transpose(1, 2) if states.dim() == 4 else states
        return tokens.mean(1) if pooled is None else pooled.flatten(1), tokens
