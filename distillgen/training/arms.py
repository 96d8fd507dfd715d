"""Which rows a training learns from: those of the kept records, or a control arm's, as many of others."""

from __future__ import annotations

import hashlib
import random
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Literal

import orjson

from distillgen.errors import ConfigError
from distillgen.flow.stage import BoundStage, CheckContext, Chunk, Text
from distillgen.flow.whole_set import Spool
from distillgen.inference.ledger import Ledger
from distillgen.inference.logprobs import Logprobs, unpack
from distillgen.record import SPLIT, Record, Unrenderable, digest, dumps
from distillgen.rows.overlap import OverlapIndex
from distillgen.training.job import RowData
from distillgen.training.objective import Objective
from distillgen.training.rows import PARTS, Row, Unusable

FROM_DROPPED = ("raw", "random")  # the control arms that also have rows which filters dropped
DIFFERENT = "rows that differ from the kept"
KINDS = {str: "a text", list: "a list", float: "a number", int: "a number", type(None): "missing"}


@dataclass(frozen=True)
class Arm:
    """What is learnt from, and what is held out."""

    on: Literal["kept", "raw", "random", "shuffled"]
    where: str | None
    held_out: float
    seed: int
    learning: Objective

    def check(self, context: CheckContext) -> None:
        """A control arm can differ from what was kept. Raises ConfigError."""
        if self.on == "shuffled":
            self.learning.answers()
        if self.where is not None and self.on in FROM_DROPPED:
            raise ConfigError(
                f"on: {self.on} has what filters dropped, and 'where' drops nothing: use filters, or on: shuffled"
            )
        if self.on in FROM_DROPPED and not any(
            self._learns(context, place, bound) for place, bound in enumerate(_sources(context))
        ):
            raise ConfigError(
                f"on: {self.on}: the arm would be the kept rows once more: no stage before it selects among records that "
                "have, or get by a stage format, what is learnt from; put it behind the filters of the answers"
            )

    def _learns(self, context: CheckContext, place: int, bound: BoundStage) -> bool:
        """Return whether the arm can learn from what a stage drops, once the stages behind it have formed that."""
        if not bound.stage.chooses():
            return False
        fields = bound.context.fields
        try:
            for later in list(_sources(context))[place + 1 :]:
                if later.former():
                    fields = later.stage.bind(replace(later.context, fields=fields)).fields
            self.learning.check(replace(context, fields=fields))
        except ConfigError:
            return False
        return True

    def part(self, record: Record) -> str:
        """Whether a record is trained on or held out: as its `split` says, or else by its source item, of
        which no row lands on the other side.
        """
        if record.fields.get(SPLIT) is not None:
            return PARTS[record.held_out]
        item = record.item or record.source or record.id
        return PARTS[int(digest([self.seed, item], 8), 16) < self.held_out * 16**8]

    def write(self, folder: Path, spool: Spool, ledger: Ledger, stages: Sequence[BoundStage]) -> RowData:
        """Write the rows of each part to `folder`; return their hash, and the counts of rows and of records left out.

        `stages` are those before the training.
        """
        sha, counts = hashlib.sha256(), Counter[str]()
        with (folder / "train.jsonl").open("wb") as train, (folder / "held_out.jsonl").open("wb") as held_out:
            files = dict(zip(PARTS, (train, held_out), strict=True))
            rows = self._rows(spool, ledger, self._former(spool, stages), counts)
            for part, line in self._drawn(rows, ledger.path.parent, counts):
                counts[part] += 1
                files[part].write(line)
                sha.update(part.encode() + line)
        return RowData(sha256=sha.hexdigest(), rows=dict(counts))

    def _drawn(
        self, rows: Iterable[tuple[str, Row, bool]], folder: Path, counts: Counter[str]
    ) -> Iterator[tuple[str, bytes]]:
        """The rows of what is learnt from, with their parts; a control arm has as many as were kept, and the
        held-out ones.
        """
        if self.on == "kept":
            yield from ((part, _line(row)) for part, row, _ in rows)
            return
        chance, kept, dropped = random.Random(self.seed), 0, bytearray()
        with _Lines(folder) as lines:
            for part, row, was_dropped in rows:
                if part == "train":
                    lines.add(_line(row))
                    dropped.append(was_dropped)
                    kept += not was_dropped
                else:
                    yield part, _line(row)
            if self.on == "shuffled":
                counts[DIFFERENT] = kept if kept > 1 else 0
                answers = self.learning.answers()
                for i, other in enumerate(cyclic_permutation(len(lines), chance)):
                    row, source = orjson.loads(lines[i]), orjson.loads(lines[other])
                    yield (
                        "train",
                        _line({**row, **{name: source[name] for name in answers if name in source}}),
                    )
                return
            counts[DIFFERENT] = 0
            for i in range(kept) if self.on == "raw" else ordered_sample(kept, len(lines), chance):
                counts[DIFFERENT] += dropped[i]
                yield "train", lines[i]

    def _rows(
        self, spool: Spool, ledger: Ledger, form: Callable[[Record], Record] | None, counts: Counter[str]
    ) -> Iterator[tuple[str, Row, bool]]:
        """What each kept record teaches, with its part; in an arm also what those that filters dropped do,
        which are marked. Those that teach nothing are counted.
        """
        learning = self.learning
        condition = Text(self.where) if self.where is not None else None

        def taught(chunk: Chunk) -> Iterator[tuple[Record, Row | Unusable]]:
            recorded = _signals(chunk, ledger) if learning.signals else [{} for _ in chunk]
            for record, signals in zip(chunk, recorded, strict=True):
                try:
                    if condition and not condition.holds(record):
                        raise Unusable("by 'where'")
                    yield record, learning.row(form(record) if form and record.dropped else record, signals)
                except Unusable as why:
                    yield record, why
                except Unrenderable as why:
                    yield record, Unusable(f"'where': {why}")

        kept = (taught([record for record in chunk if not record.dropped]) for chunk in spool.chunks())
        first = next((row for some in kept for _, row in some if isinstance(row, dict)), {})
        for chunk in spool.chunks():
            some = [
                record for record in chunk if not record.dropped or form and self.part(record) == PARTS[0]
            ]
            for record, row in taught(some):
                why = row if isinstance(row, Unusable) else _misfit(row, first)
                if isinstance(row, dict) and not why:
                    yield self.part(record), row, record.dropped is not None
                else:
                    counts[f"{'dropped before and ' if record.dropped else ''}left out: {why}"] += 1

    def _former(self, spool: Spool, before: Sequence[BoundStage]) -> Callable[[Record], Record] | None:
        """What brings a dropped record into the form of the kept ones, and raises Unusable for those that no arm may
        learn from: where no whole answer came, and where something is repeated that is evaluated on.
        """
        if self.on not in FROM_DROPPED:
            return None
        stages = list(_flat(before))
        places = {name: i for i, stage in enumerate(stages) for name in stage.names()}
        indexes = [index for stage in stages if (index := stage.evaluation_items())]
        evaluated = indexes or [OverlapIndex()]
        for chunk in spool.chunks():
            for record in (record for record in chunk if self.part(record) != PARTS[0]):
                for seen in evaluated:
                    seen.add(record.source, record.fields)
        for seen in evaluated:
            seen.settle()

        @cache
        def formers(place: int) -> list[tuple[str, Callable[[Record], Record]]]:
            return [(stage.name, former) for stage in stages[place + 1 :] if (former := stage.former())]

        def formed(record: Record) -> Record:
            assert record.dropped
            place = places.get(record.dropped.stage)
            if place is None or not stages[place].stage.chooses():
                raise Unusable(
                    f"stage '{record.dropped.stage}' let none of it go on ({record.dropped.filter})"
                )
            raw = record
            for name, former in formers(place):
                try:
                    record = former(record)
                except Unrenderable as error:
                    raise Unusable(f"stage '{name}' cannot form it: {error}") from error
            if any(seen.find(fields) for seen in evaluated for fields in (raw.fields, record.fields)):
                raise Unusable("it repeats what is evaluated on")
            return record

        return formed


def _flat(stages: Iterable[BoundStage]) -> Iterator[BoundStage]:
    """Yield stages, and behind each the stages inside it."""
    for bound in stages:
        yield bound
        yield from _flat(bound.inner())


def _sources(context: CheckContext) -> Iterator[BoundStage]:
    """Yield the stages from which records can come: of the innermost loop, or else of the pipeline."""
    first = len(context.loops[-1].stages) if context.loops else 0
    return _flat(context.stages[first:])


def _misfit(row: Row, first: Row) -> str:
    """How the columns of a row differ from those of the first one, if they do: a data set has one shape."""
    for name in {**first, **row}:
        one, other = (KINDS.get(type(each.get(name)), "of another type") for each in (row, first))
        if one != other:
            return f"its '{name}' is {one}, in the first row it is {other}"
    return ""


def _line(row: Row) -> bytes:
    return dumps(row) + b"\n"


def ordered_sample(count: int, total: int, chance: random.Random) -> Iterator[int]:
    """`count` numbers below `total` by chance, in order (Knuth's algorithm S)."""
    for i in range(total):
        if chance.random() * (total - i) < count:
            count -= 1
            yield i


def cyclic_permutation(count: int, chance: random.Random) -> Sequence[int]:
    """For each of `count` rows another one, by chance, each once (Sattolo's algorithm: one cycle through
    all).
    """
    others = array("Q", range(count))
    for i in range(count - 1, 0, -1):
        j = chance.randrange(i)
        others[i], others[j] = others[j], others[i]
    return others


class _Lines:
    """Rows that wait on disk, within reach by their number."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)
        self._starts = array("Q", [0])

    def __enter__(self) -> _Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, line: bytes) -> None:
        """One more; they are read when all are there."""
        self._file.write(line)
        self._starts.append(self._starts[-1] + len(line))

    def __getitem__(self, number: int) -> bytes:
        self._file.seek(self._starts[number])
        return self._file.read(self._starts[number + 1] - self._starts[number])


def _signals(records: Chunk, ledger: Ledger) -> list[dict[str, Logprobs]]:
    """For each record, the log-probabilities of the answers in its lineage, by the stage that asked."""
    keys = {made["key"]: bytes.fromhex(made["key"]) for record in records for made in record.made}
    found = ledger.find(list(keys.values()))

    def of(record: Record) -> dict[str, Logprobs]:
        blobs = {
            made["stage"]: found[keys[made["key"]]][2] for made in record.made if keys[made["key"]] in found
        }
        return {stage: unpack(blob)[0] for stage, blob in blobs.items() if blob}

    return [of(record) for record in records]
