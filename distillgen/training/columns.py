"""The rows of a training of networks, as columns in memory, and batches of them. It needs torch."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from distillgen.networks.network import EDGES, INPUT
from distillgen.training.signals import COLUMN, RecordedClasses

UNLABELLED = -100
NODE, NEIGHBOURS, GROUP = "node", "neighbours", "group"


class Columns(Dataset):  # type: ignore[misc]
    """Rows of networks. A batch is one dictionary of tensors [rows, …], and of lists of texts."""

    def __init__(self, rows: Any, classes: Sequence[str]) -> None:
        """Read a `datasets.Dataset` of the objective's rows. `classes` orders the logits."""
        self.size, self.columns = len(rows), dict[str, Any]()
        numbers = {name: i for i, name in enumerate(classes)}
        for name in rows.column_names:
            if name.startswith(INPUT):
                self.columns[name] = _values(rows[name])
            elif name.startswith(COLUMN) and name.endswith(".vector"):
                self.columns[name] = torch.tensor(rows[name], dtype=torch.float32)
        for name in _teachers(rows.column_names):
            columns = (rows[f"{name}.names"], rows[f"{name}.logprobs"])
            self.columns[f"{name}.logprobs"] = _distributions(*columns, numbers)
        labels = rows["label"] if "label" in rows.column_names else [[] for _ in range(self.size)]
        self.columns["label"] = torch.tensor(
            [numbers.get(label[0], UNLABELLED) if label else UNLABELLED for label in labels]
        )
        self.columns["row"] = torch.arange(self.size)
        self.ids = rows["id"]
        self.groups: list[str] = list(rows[GROUP]) if GROUP in rows.column_names else []
        self._neighbours: list[list[str]] = list(rows[NEIGHBOURS]) if NEIGHBOURS in rows.column_names else []
        self._places: dict[str, int] = (
            {node: i for i, node in enumerate(rows[NODE])} if self._neighbours else {}
        )
        self._all_edges: Any = None

    @property
    def nodes(self) -> list[str]:
        """The ids of the rows as nodes of a graph, in order."""
        return [*self._places]

    @property
    def unknown(self) -> int:
        """The number of ends of edges that are no row here."""
        return sum(node not in self._places for near in self._neighbours for node in near)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.__getitems__([place])

    def __getitems__(self, places: Sequence[int]) -> dict[str, Any]:
        """Return the rows at these places as one batch; all rows come in their order."""
        if len(places) == self.size == len({*places}):
            return self.all_rows()
        ids = torch.as_tensor(places)
        batch = {
            name: values[ids] if torch.is_tensor(values) else [values[i] for i in places]
            for name, values in self.columns.items()
        }
        return {**batch, **({EDGES: self._edges(places)} if self._neighbours else {})}

    def all_rows(self) -> dict[str, Any]:
        """Return all rows as one batch."""
        if self._neighbours and self._all_edges is None:
            self._all_edges = self._edges(range(self.size))
        return {**self.columns, **({EDGES: self._all_edges} if self._neighbours else {})}

    def _edges(self, places: Sequence[int]) -> Any:
        """Return the edges between rows of a batch [2, edges], as positions in the batch, both directions."""
        positions = {place: i for i, place in enumerate(places)}
        pairs = set[tuple[int, int]]()
        for place, i in positions.items():
            for node in self._neighbours[place]:
                other = positions.get(self._places.get(node, -1))
                if other is not None and other != i:
                    pairs |= {(i, other), (other, i)}
        return torch.tensor(sorted(pairs), dtype=torch.long).reshape(-1, 2).T


class OfOneGroup(Sampler[int]):  # type: ignore[misc]
    """The order of an epoch in which each batch has rows of one group.

    Of a group whose size is no multiple of a batch, other rows are left out in each epoch.
    """

    def __init__(self, groups: Sequence[str], batch: int, seed: int) -> None:
        self._places: dict[str, list[int]] = {}
        for place, group in enumerate(groups):
            self._places.setdefault(group, []).append(place)
        self._batch, self._seed, self._epoch = batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of another epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(len(places) // self._batch * self._batch for places in self._places.values())

    def __iter__(self) -> Iterator[int]:
        chance = random.Random(f"{self._seed} {self._epoch}")
        batches = []
        for places in self._places.values():
            order = chance.sample(places, len(places))
            ends = range(self._batch, len(order) + 1, self._batch)
            batches += [order[end - self._batch : end] for end in ends]
        chance.shuffle(batches)
        return (place for batch in batches for place in batch)


def _values(values: Sequence[Any]) -> Any:
    """Return an input as one tensor of numbers, or as a list of texts or of references to files."""
    if isinstance(values[0], str | dict):
        return list(values)
    return torch.tensor(values, dtype=torch.float32)


def _teachers(names: Sequence[str]) -> list[str]:
    """Return the beginnings of the columns of recorded distributions."""
    end = ".names"
    return [name.removesuffix(end) for name in names if name.startswith(COLUMN) and name.endswith(end)]


def _distributions(
    names: Sequence[Sequence[str]], logprobs: Sequence[Sequence[float]], numbers: Mapping[str, int]
) -> Any:
    """Return log-probabilities [rows, classes]; NaN for a class that the teacher did not name."""
    table = torch.full((len(names), len(numbers)), math.nan)
    for i, (row, values) in enumerate(zip(names, logprobs, strict=True)):
        for name, value in zip(row, values, strict=True):
            if name in numbers:
                table[i, numbers[name]] = value
    return table


def recorded_teachers(columns: Columns, names: Sequence[str]) -> dict[str, RecordedClasses]:
    """Return the recorded teachers of these names."""
    teachers = {}
    for name in names:
        vectors = columns.columns.get(f"{COLUMN}{name}.vector")
        teachers[name] = RecordedClasses(name, 0 if vectors is None else vectors.shape[1])
    return teachers


def collated(batch: Any) -> Any:
    """Return a batch that `Columns` has made."""
    return batch if isinstance(batch, Mapping) else batch[0]
