"""Edges between rows: a file of pairs of ids becomes a list of neighbours in each row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillgen.record import Record, text_of
from distillgen.rows.readers import rows_of
from distillgen.rows.reading import Reading

FROM, TO, NEIGHBOURS = "from", "to", "neighbours"


class Edges:
    """The edges of a file between rows with these ids. An edge joins both rows, in either direction."""

    def __init__(self, file: Path, nodes: Iterable[Any], root: Path) -> None:
        """Read `from` and `to` of each row of the file. Ids are compared as text: 7 and "7" are one id."""
        self._nodes = {text_of(node): node for node in nodes}
        self._neighbours: dict[str, dict[str, None]] = {}
        self.unusable: list[tuple[str, str]] = []
        """Each edge that joins no rows: its place in the file, and the reason."""
        for place, row, _ in rows_of(file, Reading(root=root)):
            if isinstance(row, str):
                self.unusable.append((place, row))
                continue
            ends = [text_of(row.get(end)) for end in (FROM, TO)]
            if reason := next(self._reasons(ends), ""):
                self.unusable.append((place, reason))
                continue
            for one, other in (ends, ends[::-1]):
                self._neighbours.setdefault(one, {})[other] = None

    def _reasons(self, ends: list[str]) -> Iterator[str]:
        """Yield why an edge joins no rows."""
        for name, end in zip((FROM, TO), ends, strict=True):
            if not end:
                yield f"the edge has no '{name}'"
            elif end not in self._nodes:
                yield f"no row has the id '{end}'"
        if ends[0] == ends[1]:
            yield f"the edge joins '{ends[0]}' with itself"

    def join(self, records: Iterable[Record], node: str, stage: str) -> Iterator[Record]:
        """Yield the records with the ids of their neighbours. `node` is the field with a record's id.

        A record that cannot be joined is dropped by the `stage`.
        """
        names = set[str]()
        for record in records:
            if record.dropped:
                yield record
                continue
            name = text_of(record.fields.get(node))
            problem = ""
            if not name:
                problem = f"there is no id in the field '{node}'"
            elif name in names:
                problem = f"an earlier row has the id '{name}', too"
            elif NEIGHBOURS in record.fields:
                problem = f"the row has a field '{NEIGHBOURS}' already; leave 'edges' out"
            names.add(name)
            if problem:
                yield record.drop(stage, "unreadable", problem)
            else:
                fields = {**record.fields, NEIGHBOURS: self.neighbours(name)}
                yield replace(record, fields=fields)

    def __len__(self) -> int:
        """Return the number of ids with a neighbour."""
        return len(self._neighbours)

    def neighbours(self, node: Any) -> list[Any]:
        """Return the ids of a row's neighbours, in the order of the file."""
        return [self._nodes[other] for other in self._neighbours.get(text_of(node), ())]
