"""The rows of a training: those of the kept records, or of a control arm with as many rows."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

import orjson

from distillgen.algorithms.random_order import cyclic_permutation, ordered_sample
from distillgen.errors import ConfigError
from distillgen.flow.condition import former_of
from distillgen.flow.record_template import RecordTemplate
from distillgen.flow.stage import BoundStage, CheckContext, Chunk, flat
from distillgen.flow.whole_set import LinesOnDisk, Spool
from distillgen.inference.ledger import Ledger
from distillgen.inference.logprobs import Signal, unpack
from distillgen.record import (
    GATHERED,
    SPLIT,
    TEST,
    TRAIN,
    VALIDATION,
    Record,
    Unrenderable,
    digest,
    dumps,
    text_of,
)
from distillgen.rows.overlap import OverlapIndex
from distillgen.training.job import RowData
from distillgen.training.objective import Objective
from distillgen.training.rows import PARTS, Row, Unusable

FROM_DROPPED = ("raw", "random")  # the control arms that also learn from records that filters dropped
DIFFERENT = "rows that differ from the kept"
KINDS = {str: "a text", list: "a list", float: "a number", int: "a number", type(None): "missing"}


@dataclass(frozen=True)
class Arm:
    """Chooses the records that a training learns from, and those that it holds out, and makes their rows."""

    on: Literal["kept", "raw", "random", "shuffled"]
    where: str | None
    held_out: float
    seed: int
    learning: Objective
    only: Mapping[str, str] = field(default_factory=dict)
    """The text of the value that a field has in the records that are learnt."""

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if a control arm could not differ from the kept rows."""
        if self.on == "shuffled":
            self.learning.answers()
        if self.on not in FROM_DROPPED:
            return
        if self.where is not None:
            raise ConfigError(
                f"on: {self.on} learns from records that filters dropped, and 'where' drops none: "
                "use filters, or on: shuffled"
            )
        sources = list(_sources(context))
        if not any(self._learns(context, sources, place) for place in range(len(sources))):
            raise ConfigError(
                f"on: {self.on}: the arm would equal the kept rows: no stage before it selects among records "
                "that have the fields that are learnt, or get them by a stage format; put it behind the "
                "filters of the answers"
            )

    def _learns(self, context: CheckContext, sources: Sequence[BoundStage], place: int) -> bool:
        """Return whether records that a stage drops have the fields that are learnt.

        The stages `format` behind it may add fields.
        """
        if not sources[place].stage.chooses():
            return False
        fields = sources[place].context.fields
        try:
            for later in sources[place + 1 :]:
                if former_of(later):
                    fields = later.stage.bind(replace(later.context, fields=fields)).fields
            self.learning.check(replace(context, fields=fields))
        except ConfigError:
            return False
        return True

    def part(self, record: Record) -> str:
        """Return one of PARTS, in which a record is: by its `split`, or else by its source item.

        All rows of an item are in one part.
        """
        if record.fields.get(SPLIT) is not None:
            return PARTS[record.part]
        item = record.item or record.source or record.id
        lot = int(digest([self.seed, item], 8), 16)
        return PARTS[TEST if lot < self.held_out * 16**8 else TRAIN]

    def write(self, folder: Path, spool: Spool, ledger: Ledger, stages: Sequence[BoundStage]) -> RowData:
        """Write the rows of each part to `folder`; return their hash and the counts.

        `stages` are those before the training.
        """
        sha, counts = hashlib.sha256(), Counter[str]()
        with ExitStack() as stack:
            files = {
                part: stack.enter_context((folder / f"{part}.jsonl").open("wb")) for part in PARTS.values()
            }
            former = self._former(spool, stages) if self.on in FROM_DROPPED else None
            rows = self._rows(spool, ledger, former, counts)
            for part, line in self._arm_rows(rows, folder, counts):
                counts[part] += 1
                files[part].write(line)
                sha.update(part.encode() + line)
        return RowData(sha256=sha.hexdigest(), rows=dict(counts))

    def _arm_rows(
        self, rows: Iterable[tuple[str, Row, bool]], folder: Path, counts: Counter[str]
    ) -> Iterator[tuple[str, bytes]]:
        """Yield the rows of the arm with their parts: as many to train on as were kept."""
        if self.on == "kept":
            yield from ((part, _line(row)) for part, row, _ in rows)
            return
        chance, kept, dropped, parts = random.Random(self.seed), 0, bytearray(), list[str]()
        others = (VALIDATION, TEST) if self.on == "shuffled" and self.learning.learns_all_parts() else ()
        learnt = {PARTS[part] for part in (TRAIN, *others)}
        with LinesOnDisk(folder) as lines:
            for part, row, was_dropped in rows:
                if part in learnt:
                    lines.add(_line(row))
                    dropped.append(was_dropped)
                    parts.append(part)
                    kept += not was_dropped
                else:
                    yield part, _line(row)
            if self.on == "shuffled":
                counts[DIFFERENT] = kept if kept > 1 else 0
                columns = self.learning.answers()
                for i, other in enumerate(cyclic_permutation(len(lines), chance)):
                    row, source = orjson.loads(lines[i]), orjson.loads(lines[other])
                    answers = {name: source[name] for name in columns if name in source}
                    yield parts[i], _line({**row, **answers})
                return
            counts[DIFFERENT] = 0
            for i in range(kept) if self.on == "raw" else ordered_sample(kept, len(lines), chance):
                counts[DIFFERENT] += dropped[i]
                yield PARTS[TRAIN], lines[i]

    def _rows(
        self, spool: Spool, ledger: Ledger, former: Callable[[Record], Record] | None, counts: Counter[str]
    ) -> Iterator[tuple[str, Row, bool]]:
        """Yield the part and the row of each kept record, and whether the record was dropped.

        With `former`, training rows of dropped records are among them. Records that teach nothing are
        counted.
        """
        learning = self.learning
        condition = RecordTemplate(self.where) if self.where is not None else None

        def taught(chunk: Chunk) -> Iterator[tuple[Record, Row | Unusable]]:
            recorded = _signals(chunk, ledger) if learning.signals else [{} for _ in chunk]
            for record, signals in zip(chunk, recorded, strict=True):
                try:
                    for name in self.only:
                        if text_of(record.fields.get(name)) != self.only[name]:
                            raise Unusable(f"another '{name}'")
                    if condition and not condition.holds(record):
                        raise Unusable("by 'where'")
                    yield (
                        record,
                        learning.row(former(record) if former and record.dropped else record, signals),
                    )
                except Unusable as reason:
                    yield record, reason
                except Unrenderable as reason:
                    yield record, Unusable(f"'where': {reason}")

        kept = (taught([record for record in chunk if not record.dropped]) for chunk in spool.chunks())
        first = next((row for rows in kept for _, row in rows if isinstance(row, dict)), {})
        for chunk in spool.chunks():
            records = [
                record
                for record in chunk
                if not record.dropped
                or former
                and record.dropped.filter != GATHERED
                and self.part(record) == PARTS[TRAIN]
            ]
            for record, row in taught(records):
                reason = row if isinstance(row, Unusable) else _misfit(row, first)
                if isinstance(row, dict) and not reason:
                    yield self.part(record), row, record.dropped is not None
                else:
                    counts[f"{'dropped before and ' if record.dropped else ''}left out: {reason}"] += 1

    def _former(self, spool: Spool, before: Sequence[BoundStage]) -> Callable[[Record], Record]:
        """Return a function that gives a dropped record the form of the kept ones.

        It raises Unusable for a record that has no complete answer, or that repeats an evaluation item.
        """
        stages = list(flat(before))
        places = {name: i for i, stage in enumerate(stages) for name in stage.names()}
        indexes = self._evaluation_items(spool, stages)

        @cache
        def formers(place: int) -> list[tuple[str, Callable[[Record], Record]]]:
            return [(stage.name, former) for stage in stages[place + 1 :] if (former := former_of(stage))]

        def formed(record: Record) -> Record:
            assert record.dropped
            place = places.get(record.dropped.stage)
            if place is None or not stages[place].stage.chooses():
                raise Unusable(
                    f"stage '{record.dropped.stage}' could not process it ({record.dropped.filter})"
                )
            raw = record
            for name, former in formers(place):
                try:
                    record = former(record)
                except Unrenderable as error:
                    raise Unusable(f"stage '{name}' cannot form it: {error}") from error
            if any(index.find(fields) for index in indexes for fields in (raw.fields, record.fields)):
                raise Unusable("it repeats an evaluation item")
            return record

        return formed

    def _evaluation_items(self, spool: Spool, stages: Sequence[BoundStage]) -> list[OverlapIndex]:
        """Return indexes of the items of the stages `decontaminate`, and of the held-out records."""
        indexes = [index for stage in stages if (index := stage.evaluation_items())] or [OverlapIndex()]
        for chunk in spool.chunks():
            for record in (record for record in chunk if self.part(record) != PARTS[TRAIN]):
                for index in indexes:
                    index.add(record.source, record.fields)
        for index in indexes:
            index.settle()
        return indexes


def _sources(context: CheckContext) -> Iterator[BoundStage]:
    """Yield the stages from which records can come: of the innermost loop, or else of the pipeline."""
    first = len(context.loops[-1].stages) if context.loops else 0
    return flat(context.stages[first:])


def _misfit(row: Row, first: Row) -> str:
    """Return how the columns of a row differ from those of the first row; empty if they do not."""
    for name in {**first, **row}:
        kind, first_kind = (KINDS.get(type(columns.get(name)), "of another type") for columns in (row, first))
        if kind != first_kind:
            return f"its '{name}' is {kind}, in the first row it is {first_kind}"
    return ""


def _line(row: Row) -> bytes:
    return dumps(row) + b"\n"


def _signals(records: Chunk, ledger: Ledger) -> list[dict[str, Signal]]:
    """Return, for each record, the answers in its lineage, by stage; of several answers the last."""
    keys = {answer["key"]: bytes.fromhex(answer["key"]) for record in records for answer in record.made}
    stored_answers = ledger.find(list(keys.values()))

    def signals(record: Record) -> dict[str, Signal]:
        answers = {
            answer["stage"]: stored_answers[keys[answer["key"]]]
            for answer in record.made
            if keys[answer["key"]] in stored_answers
        }
        return {
            stage: Signal(orjson.loads(completion).get("text", ""), *unpack(blob))
            for stage, (_, completion, blob) in answers.items()
        }

    return [signals(record) for record in records]
