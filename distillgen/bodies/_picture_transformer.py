"""A transformer over the patches of a picture, and the smaller ones that are slices of it. It needs torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear, pad, scaled_dot_product_attention, unfold

from distillgen.bodies._space import Subnet

SUBNETS = "subnets.jsonl"


class Layer(nn.Module):  # type: ignore[misc]
    """Attention and a perceptron, each behind a norm; a narrower layer is the upper left of each matrix."""

    def __init__(self, width: int, neurons: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries, self.keys, self.values, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, neurons), nn.Linear(neurons, width)
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, tokens: Any, neurons: int) -> tuple[Any, Any]:
        """Return tokens [rows, tokens, width], and queries, keys, values [rows, 3, tokens, width]."""
        width = tokens.shape[-1]
        normal = _norm(self.before, tokens)
        projections = [_map(one, normal, width) for one in (self.queries, self.keys, self.values)]
        split = [one.unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in projections]
        attended = scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        tokens = tokens + _map(self.out, attended, width)
        inner = gelu(_map(self.up, _norm(self.between, tokens), neurons))
        return tokens + _map(self.down, inner, width), torch.stack(projections, 1)


class PictureTransformer(nn.Module):  # type: ignore[misc]
    """Layers over the patches of a picture. The features of a narrow subnet end in zeros."""

    def __init__(
        self, shape: Sequence[int], patch: int, heads: int, subnets: Sequence[Subnet], others: int
    ) -> None:
        """`subnets` has the smallest first and the largest last, which is the network itself."""
        super().__init__()
        self._shape = tuple(shape) if len(shape) == 3 else (1, *shape)
        self._patch, self._heads, self._all, self._others = patch, heads, list(subnets), others
        self.subnet = largest = subnets[-1]
        self.register_buffer("losses", torch.full((len(subnets),), torch.nan))
        self.width = self.token_width = largest.width
        numbers = self._shape[0] * patch * patch
        count = (self._shape[1] // patch) * (self._shape[2] // patch)
        self.first = nn.Linear(numbers, largest.width)
        self.places = nn.Parameter(0.1 * torch.randn(count, largest.width))
        self.layers = nn.ModuleList(
            Layer(largest.width, largest.width * largest.ratio, heads) for _ in range(largest.depth)
        )

    def subnets(self, generator: Any) -> list[Subnet]:
        """Return the subnets that learn in a step: the largest, the smallest, and others at random."""
        ends = [self._all[-1], self._all[0]][: len(self._all)]
        between = self._all[1:-1]
        drawn = torch.randperm(len(between), generator=generator)[: self._others].tolist()
        return [*ends, *(between[i] for i in drawn)]

    def compare(self, loss: Callable[[], float]) -> None:
        """Set `losses` to those of all subnets; `loss` gives that of the present one."""
        largest = self.subnet
        for i, subnet in enumerate(self._all):
            self.subnet = subnet
            self.losses[i] = loss()
        self.subnet = largest

    def best(self, fits: Callable[[Subnet], bool]) -> Subnet:
        """Return the subnet with the lowest loss among those that fit; of equals, the smallest."""
        places = [i for i, subnet in enumerate(self._all) if fits(subnet)]
        return self._all[min(places, key=lambda i: (self.losses[i].item(), self._all[i].multiplications))]

    def save_files(self, folder: Path) -> None:
        """Write the sizes, the multiplications and the loss of each subnet."""
        rows = zip(self._all, self.losses.tolist(), strict=True)
        lines = [
            json.dumps({**subnet._asdict(), "multiplications": subnet.multiplications, "loss": loss})
            for subnet, loss in rows
        ]
        (folder / SUBNETS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    @staticmethod
    def saved(folder: Path) -> Subnet:
        """Return the subnet that a folder of `save_files` describes."""
        row = json.loads((folder / SUBNETS).read_text(encoding="utf-8"))
        return Subnet(row["depth"], row["width"], row["ratio"])

    def copy_of(self, subnet: Subnet) -> PictureTransformer:
        """Return a subnet as a network of its own: the upper left of each matrix."""
        copy = PictureTransformer(self._shape, self._patch, self._heads, [subnet], 0)
        weights = dict(self.named_parameters())
        with torch.no_grad():
            for name, value in copy.named_parameters():
                value.copy_(weights[name][tuple(slice(size) for size in value.shape)])
        return copy

    def forward(self, array: Any) -> tuple[Any, Any, Any]:
        """Return features [rows, width], tokens, and projections, those of the last layer of the subnet."""
        depth, width, ratio = self.subnet
        pictures = array.reshape(len(array), *self._shape)
        patches = unfold(pictures, self._patch, stride=self._patch).transpose(1, 2)
        tokens, projections = _map(self.first, patches, width) + self.places[:, :width], None
        for layer in self.layers[:depth]:
            tokens, projections = layer(tokens, width * ratio)
        return pad(tokens.mean(1), (0, self.width - width)), tokens, projections


def _map(module: Any, values: Any, size: int) -> Any:
    return linear(values, module.weight[:size, : values.shape[-1]], module.bias[:size])


def _norm(module: Any, values: Any) -> Any:
    width = values.shape[-1]
    return layer_norm(values, (width,), module.weight[:width], module.bias[:width])
