"""Bags of hashed words. It needs torch."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from distillgen.bodies._layers import Layers


class WordBag(nn.Module):  # type: ignore[misc]
    """The mean of the vectors of a row's words, and layers over it."""

    def __init__(self, buckets: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.width, self.buckets = widths[-1], buckets
        self.words = nn.EmbeddingBag(buckets, widths[0], mode="mean")
        self.rest = Layers(widths, dropout)

    @property
    def layers(self) -> nn.ModuleList:
        """The layers over the mean."""
        return self.rest.layers

    def forward(self, rows: Sequence[Sequence[str]]) -> Any:
        """Return the last layer's numbers [rows, width] of a list of texts for each row."""
        bags, starts = list[int](), list[int]()
        for texts in rows:
            starts.append(len(bags))
            bags += [
                self._bucket(f"{i} {word}")
                for i, text in enumerate(texts)
                for word in re.findall(r"\w+", text.lower())
            ]
        device = self.words.weight.device
        ids, offsets = (torch.tensor(values, dtype=torch.long, device=device) for values in (bags, starts))
        return self.rest(self.words(ids, offsets))

    def _bucket(self, word: str) -> int:
        # a checksum, because Python's own hash of a text differs in each process
        return zlib.crc32(word.encode("utf-8", "replace")) % self.buckets
