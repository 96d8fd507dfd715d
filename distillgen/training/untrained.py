"""A student before any training: its network with random weights, and a batch of its rows. It needs torch."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers.trainer_utils import set_seed

from distillgen.errors import ConfigError
from distillgen.networks.body import Shape, shape_of
from distillgen.networks.network import Network, build
from distillgen.networks.spec import CONFIG, NetworkSpec
from distillgen.project import Project
from distillgen.record import Record, text_of
from distillgen.rows.arrays import numbers_of


@dataclass(frozen=True)
class Untrained:
    """A student that a search may train."""

    spec: NetworkSpec
    inputs: Sequence[str]
    """The fields that it reads."""
    label: str
    """The field with the class of a row."""
    rows: Sequence[Record]
    """The training rows that have a label."""
    project: Project
    models: Mapping[str, Path]
    """The folders of earlier students, by name."""
    seed: int = 0

    @cached_property
    def classes(self) -> list[str]:
        """The classes of the rows, in the order of the logits."""
        return sorted({text_of(row.fields[self.label]) for row in self.rows})

    def network(self, draw: int = 0) -> Network:
        """Return the student with random weights; each draw has others."""
        set_seed(self.seed + draw)
        return self._standardised(Network(self.spec, self._shapes(), self.classes, self.project))

    def earlier(self, name: str, draw: int = 0) -> Network:
        """Return the network of an earlier student with random weights in the place of the learnt ones."""
        folder = self.models[name]
        set_seed(self.seed + draw)
        network = build(json.loads((folder / CONFIG).read_bytes()), self.project, folder)
        if list(network.classes) != self.classes:
            raise ConfigError(f"'{name}' has other classes than the rows of the search")
        return self._standardised(network)

    def batch(self, network: Network, count: int) -> dict[str, Any]:
        """Return up to `count` rows, drawn by the seed, as a batch of a network, with `label`."""
        import torch

        places = range(len(self.rows))
        chosen = random.Random(self.seed).sample(places, min(count, len(self.rows)))
        rows = [self.rows[i].fields for i in chosen]
        batch = network.batch([{name: self._value(row[name]) for name in network.inputs} for row in rows])
        batch["label"] = torch.tensor([self.classes.index(text_of(row[self.label])) for row in rows])
        return batch

    def _standardised(self, network: Network) -> Network:
        network.standardise(self.batch(network, len(self.rows)))
        network.eval()
        return network

    def _shapes(self) -> dict[str, Shape | None]:
        first = self.rows[0].fields
        values = {name: self._value(first[name]) for name in self.spec.inputs or self.inputs}
        return {n: None if isinstance(value, str) else shape_of(value) for n, value in values.items()}

    def _value(self, value: Any) -> Any:
        """Return an input as a network reads it: a text, or a list of numbers."""
        if isinstance(value, str):
            return value
        return numbers_of(value if isinstance(value, list | dict) else [value], self.project.root)
