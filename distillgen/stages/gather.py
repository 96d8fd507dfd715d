"""gather: make one record of several, with their values in a list."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import Annotated, Any, TypeAlias

from pydantic import Field, model_validator

from distillgen.flow.bounds import most_parts
from distillgen.flow.measuring import whole_groups
from distillgen.flow.ordered import splice
from distillgen.flow.stage import CHUNK, BoundStage, CheckContext, Chunks, Estimate, Job, Scope, Stage
from distillgen.flow.whole_set import LinesOnDisk
from distillgen.prompting.filler import Parts
from distillgen.record import GATHERED, META, SPLIT, Record, digest, dumps, loads_own
from distillgen.stages._rounds import ROUND

Key: TypeAlias = Callable[[Record], Any]
Drop: TypeAlias = tuple[str, str]
"""The name of a filter, and a reason."""

NONE = -1  # in the place of the number of a record


class Gather(Stage):
    """Make one record of each group of records, with a list of values of all of them.

    A group holds the records of one source row, which follow each other. With `by`, it holds all records
    whose fields `by` are equal. The list in `into` has a part for each record of the group, the
    best first, with the fields and scores `keep`. A record that lacks one has null in its part. With one name
    instead of a list, as in `keep: answer`, the parts are the values themselves.

    The best record of a group goes on, with all its fields and scores and a new id. The records in the list
    are its parents, and its lineage is theirs. The others leave with the reason `gathered into <id>`: runs
    and reports count them apart from dropped records, and no control arm learns from them. Dropped records
    are in no group. Records that are held out have groups of their own, and so have, in a loop, the records
    of each round.
    """

    kind = "gather"
    scope = "group"
    remakes = True
    reads = "the fields `by`, and the fields and scores in `keep` and `best`"
    writes = (
        "the list `into`; one record for each group; drops records without a number `best`, groups with too "
        "few records, and records that are not among the best `k`"
    )

    by: list[str] | None = Field(
        None, min_length=1, description="fields whose values a group shares; default: the source row"
    )
    adjacent: bool = Field(
        False,
        description="with `by`, whether a group holds only records that follow each other; if not, the stage "
        "waits for all records and keeps them on disk, and memory holds a key of each group",
    )
    into: str = Field("gathered", description="field that receives the list")
    keep: Annotated[list[str], Field(min_length=1)] | str = Field(
        description="fields and scores of a record that its part has; a name alone: the field or score that "
        "is the part"
    )
    best: str | None = Field(
        None,
        description="score or field with a number; the record with the largest is the first of the list, and "
        "equal ones stay in order; default: the order of the records",
    )
    k: int | None = Field(
        None,
        ge=1,
        description="largest number of parts, the best; without it, `plan` has no bound for the cost of "
        "prompts with the list",
    )
    at_least: int = Field(
        1, ge=1, description="smallest number of records in a group; the others are dropped"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Gather:
        if self.into == META:
            raise ValueError(f"the field '{META}' is distillgen's own; give 'into' another name")
        if self.adjacent and self.by is None:
            raise ValueError("'adjacent' has no use without 'by': records of one source row are adjacent")
        if self.by and self.into in self.by:
            raise ValueError(f"'into' is '{self.into}', which 'by' reads; give it another name")
        if self.k is not None and self.at_least > self.k:
            raise ValueError(f"'at_least' is {self.at_least}, and 'k' is {self.k}: no group could have both")
        return self

    @property
    def names(self) -> list[str]:
        """The fields and scores of a record that its part has."""
        return [self.keep] if isinstance(self.keep, str) else self.keep

    def bind(self, context: CheckContext) -> BoundGather:
        """Raise ConfigError if there is no such field or score."""
        for name in self.by or ():
            context.need(name, "'by'")
        names = [("keep", name) for name in self.names] + ([("best", self.best)] if self.best else [])
        for option, name in names:
            context.need_number(name, f"'{option}'")
        return BoundGather(self, context, context.fields | {self.into})

    def estimate(self, before: Estimate, samples: Sequence[Record], context: CheckContext) -> Estimate:
        """Return the number of groups if each is as small as it may be."""
        rows = None if before.rows is None else before.rows // self.at_least
        one = most_parts(self.names, before, samples)
        parts = {**before.parts, self.into: Parts({kind: n * (self.k or 1) for kind, n in one.items()})}
        if self.k is None or before.made_bytes is None:
            return Estimate(rows, made_bytes=None, made_parts=parts)
        sizes = {
            name: max([before.made_bytes, *(len(dumps(sample.fields.get(name))) for sample in samples)])
            for name in self.names
        }
        part = sum(len(dumps(name)) + len(":,") + size for name, size in sizes.items()) + len("{},")
        return Estimate(rows, made_bytes=max(before.made_bytes, self.k * part), made_parts=parts)

    def key(self, job: Job) -> Key:
        """Return a function that gives the key of a record's group."""
        names = [SPLIT, *([ROUND] if job.context.earlier else ()), *(self.by or ())]

        def key(record: Record) -> list[Any]:
            row = [] if self.by else [record.source or record.id]
            return [*(record.fields.get(name) for name in names), *row]

        return key

    def ranking(self, group: Sequence[Record]) -> tuple[list[int], dict[int, Drop]]:
        """Return the places of the records whose values the list holds, the best first; and, by place, the
        filter and the reason with which all but the best leave.
        """
        numbers = [_number(record, self.best) if self.best else 0.0 for record in group]
        drops = {
            i: ("best", f"has no number '{self.best}'") for i, number in enumerate(numbers) if number is None
        }
        ranked = sorted((i for i in range(len(group)) if i not in drops), key=lambda i: -(numbers[i] or 0.0))
        if len(ranked) < self.at_least:
            count = f"{len(ranked)} record{'s' * (len(ranked) != 1)}"
            return [], drops | dict.fromkeys(
                ranked, ("at_least", f"{count} in its group, fewer than {self.at_least}")
            )
        parts = ranked[: self.k]
        for rank, i in enumerate(ranked[len(parts) :], len(parts) + 1):
            drops[i] = ("k", f"place {rank} of {len(ranked)} in its group; {self.k} are gathered")
        into = self._id([group[i] for i in parts])
        return parts, drops | dict.fromkeys(parts[1:], (GATHERED, f"gathered into {into}"))

    def _id(self, parts: Sequence[Record]) -> str:
        return digest([self.name, [record.id for record in parts]])

    def gathered(self, parts: Sequence[Record]) -> Record:
        """Return the record of these parts, the best first.

        In its lineage, the answers of the best come last: a training reads the last answer of each stage.
        """
        best = parts[0]
        if isinstance(self.keep, str):
            values = [_value(record, self.keep) for record in parts]
        else:
            values = [{name: _value(record, name) for name in self.keep} for record in parts]
        lineage = {dumps(answer): answer for record in reversed(parts) for answer in record.made}
        return replace(
            best,
            id=self._id(parts),
            fields={**best.fields, self.into: values},
            parents=tuple(record.id for record in parts),
            made=tuple(lineage.values()),
        )


@dataclass(frozen=True)
class BoundGather(BoundStage):
    """The stage with its scope."""

    stage: Gather

    @property
    def scope(self) -> Scope:
        """`group` if the records of a group follow each other, else `set`."""
        return "set" if self.stage.by and not self.stage.adjacent else "group"

    def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Gather the records of each group."""
        key = self.stage.key(job)
        return self._anywhere(chunks, key, job) if self.scope == "set" else self._adjacent(chunks, key)

    async def _adjacent(self, chunks: Chunks, key: Key) -> Chunks:
        """Gather groups as they arrive."""
        async for chunk in whole_groups(chunks, key):
            groups = ([r for r in group if not r.dropped] for _, group in groupby(chunk, key))
            yield splice(chunk, ([record] for group in groups for record in self._parted(group)))

    def _parted(self, group: Sequence[Record]) -> Iterator[Record]:
        stage = self.stage
        parts, drops = stage.ranking(group)
        for i, record in enumerate(group):
            yield (
                record.drop(stage.name, *drops[i])
                if i in drops
                else stage.gathered([group[place] for place in parts])
            )

    async def _anywhere(self, chunks: Chunks, key: Key, job: Job) -> Chunks:
        """Write all records to disk, with the number of the next record of the group; then gather."""
        job.services.whole.add(len(job.context.stages))
        following, last = array("q"), dict[bytes, int]()
        with LinesOnDisk(job.context.directory) as lines:
            async for chunk in chunks:
                for record in chunk:
                    lines.add(dumps(record.row(), sort_keys=False) + b"\n")
                    following.append(NONE)
                    if not record.dropped:
                        before = last.get(group := bytes.fromhex(digest(key(record))), NONE)
                        last[group] = place = len(following) - 1
                        if before != NONE:
                            following[before] = place
            del last
            leaving = self._leaving(lines, following)
            while out := list(islice(leaving, CHUNK)):
                yield out

    def _leaving(self, lines: LinesOnDisk, following: array[int]) -> Iterator[Record]:
        """Yield all records in order. The first of a group settles how the others leave."""
        stage, settled = self.stage, dict[int, Drop | list[int]]()

        def record_of(place: int) -> Record:
            return Record.from_row(loads_own(lines[place]))

        for place in range(len(lines)):
            record = record_of(place)
            if record.dropped:
                yield record
                continue
            if place not in settled:
                places = [place]
                while (place_after := following[places[-1]]) != NONE:
                    places.append(place_after)
                parts, drops = stage.ranking([record_of(i) for i in places])
                settled |= {places[i]: drop for i, drop in drops.items()}
                if parts:
                    settled[places[parts[0]]] = [places[i] for i in parts]
            outcome = settled.pop(place)
            if isinstance(outcome, tuple):
                yield record.drop(stage.name, *outcome)
            else:
                yield stage.gathered([record_of(i) for i in outcome])


def _value(record: Record, name: str) -> Any:
    """Return a field, or else a score; None if the record has neither."""
    return record.fields[name] if name in record.fields else record.scores.get(name)


def _number(record: Record, name: str) -> float | None:
    """Return a score, or a field with a number, true, false or the text of a number; else None."""
    try:
        number = float(record.scores.get(name, record.fields.get(name)))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
