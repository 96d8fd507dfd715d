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
        self.width = int(features.shape[1])
        self.token_width = 0 if tokens is None else int(tokens.shape[2])
        self.batch_statistics = any(isinstance(layer, _BatchNorm) for layer in self.model.modules())
        self.train()

    def _first(self, array: Any) -> Any:
        """Return pictures [rows, channels, height, width]."""
        array = array.reshape(len(array), *self.shape)
        if len(self.shape) == 2:
            return array[:, None]
        return array.permute(0, 3, 1, 2) if self.last else array

    def forward(self, array: Any) -> Any:
        """Return features [rows, width], and the tokens [rows, tokens, token_width] of a model that has some.

        A row alone is normalised by the running statistics.
        """
        if self.training and self.batch_statistics:
            self.model.train(len(array) > 1)
        features, tokens = self._features(self._first(array))
        return features if tokens is None else (features, tokens)

    def _features(self, pictures: Any) -> Any:
        out = self.model(pixel_values=pictures)
        pooled: Any = getattr(out, "pooler_output", None)
        tokens: Any = getattr(out, "last_hidden_state", None)
        if tokens is not None and tokens.dim() == 4:
            tokens = tokens.flatten(2).transpose(1, 2)
        return tokens.mean(1) if pooled is None else pooled.flatten(1), tokens
