"""Finished rounds: their files and records, and the fields that say which round a record belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from distillgen.flow.measures import Measure, Measures
from distillgen.record import GATHERED, Record, digest, dumps, loads_own
from distillgen.state_files import Damaged, load_state, replace_bytes

ROUND, ITEM = (
    "round",
    "item",
)  # the fields that tell the round that a record belongs to, and its record in the pool


def records_of(place: Path) -> Iterator[Record]:
    """Yield the records of a finished round, in order."""
    with (place / "records.jsonl").open("rb") as lines:
        yield from (Record.from_row(loads_own(line)) for line in lines)


def kept_of(place: Path) -> Iterator[Record]:
    """Yield the records that a finished round kept, without held-out records."""
    return (record for record in records_of(place) if record.dropped is None and not record.held_out)


@dataclass(frozen=True)
class FinishedRound:
    """The content of `round.json`."""

    state: str
    """The digest of everything that the round depends on."""
    sha256: str
    """The digest of records.jsonl."""
    measures: Measures

    def write(self, place: Path) -> None:
        """Write `round.json`, with each measure as a list of its parts and its value."""
        measures = [[*measure, value] for measure, value in self.measures.items()]
        content = {"state": self.state, "sha256": self.sha256, "measures": measures}
        replace_bytes(place / "round.json", dumps(content) + b"\n")


def finished_round(place: Path) -> FinishedRound | None:
    """Load `round.json`; return None if the round is not finished, or if an older version wrote the file."""
    try:
        content = load_state(place / "round.json", "state", "sha256", "measures")
    except (FileNotFoundError, Damaged):
        return None
    measures = {Measure(*parts): value for *parts, value in content["measures"]}
    return FinishedRound(content["state"], content["sha256"], measures)


class Repetition(NamedTuple):
    """The options of a loop that say what a round is offered."""

    name: str
    repeat: bool
    carry: Sequence[str]
    grows: bool
    """Whether new records that a round kept are offered in later rounds."""
    most: int | None
    """The number of records at which no more join."""

    def id_of(self, item: str, number: int) -> str:
        """Return the id in a round of an offered record, so that each round has its own draws."""
        return digest([item, self.name, number])


@dataclass
class Loop:
    """The finished rounds, and the fields of records that the next round needs."""

    how: Repetition
    directories: list[Path] = field(default_factory=list)
    history: list[Measures] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    """The ids, in the pool, of records that a round has kept."""
    carried: dict[str, Record] = field(default_factory=dict)
    """By id in the pool, a record with the fields and the lineage to carry over."""
    outside: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id in the pool, the fields `round` and `item` of another loop, which the records get back as they
    leave.
    """
    waiting: int = 0
    """The number of records that a round can keep: of the pool, and of those that joined it."""
    joined: set[str] = field(default_factory=set)
    """The ids of the records that joined the pool: rounds made and kept them."""

    def offered(self, pool: Iterable[Record], number: int) -> Iterator[Record]:
        """Yield the records of the next round: those of the pool that are due, then those that joined."""
        joined = (
            record for place in self.directories for record in kept_of(place) if record.id in self.joined
        )
        for record in chain(pool, joined):
            if self.how.repeat or record.held_out or record.id not in self.kept:
                before = self.carried.get(record.id)
                fields = {
                    **dict.fromkeys(self.how.carry, ""),
                    **record.fields,
                    **(before.fields if before else {}),
                    ROUND: number,
                    ITEM: record.id,
                }
                new_id, lineage = self.how.id_of(record.id, number), before.made if before else record.made
                yield replace(record, id=new_id, fields=fields, parents=(record.id,), made=lineage)

    def add(self, place: Path, measures: Measures) -> None:
        """Add a finished round."""
        number = len(self.directories)
        self.directories.append(place)
        self.history.append(measures)
        carry, successors = self.how.carry, set[str]()
        for record in records_of(place):
            item = str(record.fields[ITEM])
            if record.dropped is None and not record.held_out:
                self.kept.add(item)
                if self.how.grows and record.id != self.how.id_of(item, number):
                    self._join(record, item)
            if record.dropped is None:
                successors.add(item)
            if not carry or record.dropped and (record.dropped.filter == GATHERED or item in successors):
                continue  # what a round kept hides what it dropped, whichever comes last
            fields = {name: record.fields[name] for name in carry if name in record.fields}
            self.carried[item] = Record(record.id, fields, made=record.made)

    def _join(self, record: Record, item: str) -> None:
        """Add a new record to those that later rounds are offered, unless there are enough."""
        if self.how.most is not None and self.waiting >= self.how.most:
            return
        self.joined.add(record.id)
        self.waiting += 1
        if item in self.outside:
            self.outside[record.id] = self.outside[item]

    def leaving(self) -> Iterator[Record]:
        """Yield the records that each round kept, then the last round's version of the others."""
        for place in self.directories:
            yield from (self._outside(r) for r in kept_of(place))
        for r in records_of(self.directories[-1]):
            if r.held_out or r.dropped and r.fields[ITEM] not in self.kept | self.joined:
                yield self._outside(r)

    def _outside(self, record: Record) -> Record:
        outer_fields = self.outside.get(str(record.fields[ITEM]), {})
        return replace(record, fields={**record.fields, **outer_fields}) if outer_fields else record
