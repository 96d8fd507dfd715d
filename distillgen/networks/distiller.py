"""The distiller of MEND: demonstrations become vectors before a query's embeddings (Li et al. 2024).

It needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn
from transformers import AutoConfig, AutoModel

from distillgen.networks.spec import DISTILLER

WEIGHTS = "distiller.safetensors"


class Distiller(nn.Module):  # type: ignore[misc]
    """Learnt slots behind the tokens of demonstrations; what a network makes of the slots are the vectors.

    Where the network's width is not that of the language model, a layer of tanh brings it there.
    """

    def __init__(self, network: Any, slots: int, width: int) -> None:
        """`network` is a decoder without a head, and `width` that of the language model."""
        super().__init__()
        size = network.get_input_embeddings().weight.shape[1]
        self.network, self.width = network, width
        self.slots = nn.Parameter(torch.randn(slots, size) * network.config.initializer_range)
        self.bridge = nn.Sequential(nn.Linear(size, width), nn.Tanh()) if size != width else nn.Identity()

    def forward(self, ids: Any, mask: Any) -> Any:
        """Return the vectors [rows, slots, width] of ids [rows, tokens], which are padded at the left."""
        slots = self.slots.expand(len(ids), -1, -1)
        inputs = torch.cat([self.network.get_input_embeddings()(ids), slots], 1)
        mask = torch.cat([mask, mask.new_ones(slots.shape[:2])], 1)
        states = self.network(inputs_embeds=inputs, attention_mask=mask, position_ids=positions(mask))
        return self.bridge(states.last_hidden_state[:, -slots.shape[1] :])

    def save(self, folder: Path) -> None:
        """Write the distiller beside a language model."""
        sizes = {"slots": len(self.slots), "width": self.width, "network": self.network.config.to_dict()}
        (folder / DISTILLER).write_text(json.dumps(sizes, indent=1), encoding="utf-8")
        save_model(self, str(folder / WEIGHTS))


def load_distiller(folder: Path) -> Distiller:
    """Return the distiller in a folder."""
    sizes = json.loads((folder / DISTILLER).read_bytes())
    config = AutoConfig.for_model(**sizes["network"])
    distiller = Distiller(AutoModel.from_config(config), sizes["slots"], sizes["width"])
    load_model(distiller, folder / WEIGHTS)
    return distiller


def positions(mask: Any) -> Any:
    """Return the position of each token, of rows that are padded at the left."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


class SoftTokens(nn.Module):  # type: ignore[misc]
    """Embeddings of a vocabulary, and behind it the vectors of demonstrations as further ids.

    A model with these embeddings reads vectors wherever it reads ids.
    """

    def __init__(self, embeddings: Any, distiller: Distiller) -> None:
        super().__init__()
        self.embeddings, self.distiller = embeddings, distiller
        self.first = embeddings.weight.shape[0]
        self.forget()

    def forget(self) -> None:
        """Forget all vectors."""
        self.vectors: list[Any] = []
        self.ids: dict[tuple[int, ...], list[int]] = {}

    def of(self, demonstrations: Sequence[int]) -> list[int]:
        """Return the ids of the vectors that the tokens of demonstrations become, made once each."""
        key = tuple(demonstrations)
        if key not in self.ids:
            tokens = torch.tensor([key], device=self.embeddings.weight.device)
            with torch.inference_mode():
                self.vectors.append(self.distiller(tokens, torch.ones_like(tokens))[0])
            size = len(self.vectors[-1])
            start = self.first + size * len(self.ids)
            self.ids[key] = [*range(start, start + size)]
        return self.ids[key]

    def forward(self, ids: Any) -> Any:
        """Return the embeddings [rows, tokens, width] of ids [rows, tokens]."""
        rows = self.embeddings(ids.clamp(max=self.first - 1))
        soft = ids >= self.first
        if soft.any():
            rows[soft] = torch.cat(self.vectors)[ids[soft] - self.first].to(rows.dtype)
        return rows
