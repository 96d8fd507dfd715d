"""Records, and the JSON in which they are written."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from reprlib import Repr
from typing import Any

import orjson

from distillgen.html_table import html_table

META = "meta"  # the key of a written row under which distillgen keeps its own data
SPLIT = "split"  # the field with the split of a row: train, validation or test
TRAIN, VALIDATION, TEST = "train", "validation", "test"
"""The values of the field `split`, and the parts of the data."""

GATHERED = "gathered"
"""The name, in the place of a filter's, under which a record leaves that was gathered into another one."""

SCORES = "scores"  # the name of the record's scores in a template, unless a field has that name

MET, PASSED_BY = "condition met", "passed by"
"""The measures that count the records for which a stage's condition holds, and the others."""

IDENTICAL = "identical requests"
"""The measure that counts the requests of a stage that were answered by an identical earlier request."""


def dumps(value: Any, *, sort_keys: bool = True) -> bytes:
    """Return a value as JSON without spaces, canonical with `sort_keys`.

    Integers may have any size. A lone surrogate becomes '?', and an infinity or NaN becomes null.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else 0, default=str)
    except TypeError:  # orjson refuses integers beyond 64 bits and lone surrogates; json writes both
        write = partial(
            json.dumps, sort_keys=sort_keys, separators=(",", ":"), ensure_ascii=False, default=str
        )
        try:
            text = write(value, allow_nan=False)
        except ValueError:
            text = write(json.loads(write(value), parse_constant=lambda _: None))
        return text.encode("utf-8", "replace")


def loads(text: str | bytes) -> Any:
    """Parse JSON of any origin, with exact integers and without lone surrogates. Raise ValueError if it is
    not JSON.
    """
    if isinstance(text, str) and not _SLOW.search(text):
        with suppress(orjson.JSONDecodeError):  # json.loads, below, has the better message
            return orjson.loads(text)
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]
        return json.loads(dumps(value))
    return value


def loads_own(line: bytes) -> Any:
    """Parse JSON that `dumps` wrote. This is five times as fast as `loads`."""
    return json.loads(line) if _LONG in line.translate(_AS_ZEROS) else orjson.loads(line)


_AS_ZEROS = bytes(ord("0") if chr(byte) in "0123456789" else ord(" ") for byte in range(256))
_LONG = b"0" * 19  # an integer beyond 64 bits, which orjson would change, has at least 19 digits
_SLOW = re.compile(
    r"[:,\[\s]-?(?:\d{19}|[\d.]+[eE]\+?\d{3})"
)  # a number beyond 64 bits, which orjson would change


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def text_of(value: Any) -> str:
    """Return the value of a field as text, to compare, count or search its words.

    A text stays as it is, and null is empty. Numbers, true and false are written as JSON writes them. Each
    part of a list or mapping is a line; in a mapping it follows its name.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {text_of(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return "\n".join(text_of(part) for part in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


_SHORT = Repr()  # for the representation of a record
_SHORT.maxstring = _SHORT.maxother = 80


class Unrenderable(Exception):
    """The record lacks a field that a text needs. The message names the field."""


_NOT_ASKED = {
    META,
    SPLIT,
    "id",
    "idx",
    "index",
    "uid",
    "uuid",
    "guid",
    "row",
    "qid",
    "timestamp",
    "answer",
    "answers",
    "final_answer",
    "response",
    "responses",
    "completion",
    "output",
    "gold",
    "label",
    "labels",
    "target",
    "solution",
    "reasoning",
    "rationale",
    "explanation",
    "chosen",
    "rejected",
    "score",
    "rating",
    "grade",
}
"""Fields that number a row, or hold its answer: they are no part of its item."""


def is_asked(name: str) -> bool:
    """Return whether a field of this name is part of what a row is about, and no number or answer of it."""
    return name.lower() not in _NOT_ASKED and not name.lower().endswith("_id")


def item_of(fields: Mapping[str, Any], by: Sequence[str] | None = None) -> str:
    """Return a digest of the item that a row is about, which is equal for equal items.

    The digest covers the fields `by`. Without `by`, it covers all fields but those that number the row or
    hold its answer, or all fields if there are no others. Of a dialogue, it covers the turns that are not the
    assistant's.
    """
    if by is not None:
        return digest({name: fields.get(name) for name in by})
    questions = {name: _without_answers(value) for name, value in fields.items() if is_asked(name)}
    return digest(questions or fields)


def _without_answers(value: Any) -> Any:
    """Return a value; of a dialogue, the turns that are not the assistant's."""
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        return value
    return [turn for turn in value if turn.get("role", turn.get("from")) not in ("assistant", "gpt")]


def digest(value: Any, length: int = 20) -> str:
    """Return the first `length` hex digits of the SHA-256 of a value's canonical JSON.

    A reference to a file counts by the file's content: its path is left out, so that a file may be moved.
    """
    content = dumps(value)
    if b'"path":' in content and b'"sha256":' in content:
        content = dumps(_without_places(value))
    return hashlib.sha256(content).hexdigest()[:length]


_REFERRING = {"path", "sha256", "index", "column"}


def is_reference(value: Any) -> bool:
    """Return whether a value is a reference to a file: a mapping with `path`, relative to the project, and
    `sha256`; of an array also `index` and `column`.
    """
    return isinstance(value, Mapping) and {"path", "sha256"} <= value.keys() <= _REFERRING


def _without_places(value: Any) -> Any:
    """Return a value without the paths of the files that it refers to."""
    if isinstance(value, Mapping):
        # a part of a chat turn has also its type
        hidden = "path" if is_reference({n: v for n, v in value.items() if n != "type"}) else None
        return {name: _without_places(inner) for name, inner in value.items() if name != hidden}
    return [_without_places(inner) for inner in value] if isinstance(value, list | tuple) else value


class Scores(dict[str, Any]):
    """The scores of a record in a template. One that the record lacks is null."""

    def __missing__(self, name: str) -> Any:
        """Return null."""
        return None


@dataclass(frozen=True, slots=True)
class Dropped:
    """Where and why a record was dropped."""

    stage: str
    filter: str
    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """One row. It is frozen: stages return copies.

    `fields` are the user's. `made` lists the answers that went into the record (stage, model, prompt, ledger
    key, sample, draw). `parents` are the ids of the records that it was made from. `scores` are the
    measurements of filters. `item` is a digest of what the source row is about; all records of an item are on
    the same side of every split.
    """

    id: str
    fields: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    source: str = ""
    made: tuple[Mapping[str, Any], ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    dropped: Dropped | None = None
    item: str = ""

    @classmethod
    def read(cls, fields: Mapping[str, Any], source: str, item: str = "") -> Record:
        """Return the record of a source's row, which may be a part of an `item`.

        A row of an earlier corpus keeps its item, and its id becomes the parent.
        """
        meta = fields.get(META)
        if isinstance(meta, Mapping) and "id" in meta and "made" in meta:
            fields = {name: value for name, value in fields.items() if name != META}
            item = item or str(meta.get("item") or item_of(fields))
            return cls(digest([meta["id"], fields]), fields, (str(meta["id"]),), source, item=item)
        return cls(digest(fields), fields, (), source, item=item or item_of(fields))

    def __repr__(self) -> str:
        """Return the id, the fields, each cut to a few words, and the reason if it is dropped."""
        values = [f"{name}={_SHORT.repr(value)}" for name, value in self.fields.items()]
        values += [f"dropped={_SHORT.repr(self.dropped.reason)}"] if self.dropped else []
        return f"Record({', '.join([self.id, *values])})"

    def _repr_html_(self) -> str:
        """Return a table of the fields and scores, for notebooks."""
        lines = [*self.fields.items(), *((f"score {name}", value) for name, value in self.scores.items())]
        if self.dropped:
            lines.append((f"dropped by {self.dropped.stage}/{self.dropped.filter}", self.dropped.reason))
        return html_table(("field", "value"), lines, f"Record {self.id}, from {self.source or 'no source'}")

    def derive(self, fields: Mapping[str, Any], made: Mapping[str, Any], ordinal: int) -> Record:
        """Return a child with `fields` added. `ordinal` distinguishes children of a parent that have the same
        text.
        """
        child_id = digest([self.id, fields, made["stage"], ordinal])
        made_by = (*self.made, made)
        return Record(
            child_id,
            {**self.fields, **fields},
            (self.id,),
            self.source,
            made_by,
            self.scores,
            self.dropped,
            self.item,
        )

    def text(self, name: str) -> str:
        """Return the value of a field as text."""
        return text_of(self.fields[name])

    def values(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the values of these fields. Raise Unrenderable if one is missing or null."""
        for name in names:
            if self.fields.get(name) is None:
                raise Unrenderable(
                    f"'{name}' is null" if name in self.fields else f"there is no field '{name}' in the row"
                )
        return {name: self.fields[name] for name in names}

    def variables(self, names: Container[str]) -> Mapping[str, Any]:
        """Return the values of a template that reads these names: the fields, and `scores` if it reads them.

        A field of that name hides the scores.
        """
        if SCORES not in names or SCORES in self.fields:
            return self.fields
        scores = self.scores if isinstance(self.scores, Scores) else Scores(self.scores)
        return {**self.fields, SCORES: scores}

    def scored(self, scores: Mapping[str, float]) -> Record:
        """Return a copy with measurements added."""
        all_scores = {**self.scores, **scores}
        return Record(
            self.id, self.fields, self.parents, self.source, self.made, all_scores, self.dropped, self.item
        )

    def drop(self, stage: str, filter: str, reason: str) -> Record:
        """Return a copy that is dropped, with the reason."""
        dropped = Dropped(stage, filter, reason)
        return Record(
            self.id, self.fields, self.parents, self.source, self.made, self.scores, dropped, self.item
        )

    def row(self) -> dict[str, Any]:
        """Return the row as it is written: the user's fields, and under `meta` the rest, with the same keys
        in every row.
        """
        meta: dict[str, Any] = {
            "id": self.id,
            "item": self.item,
            "made": list(self.made),
            "parents": list(self.parents),
            "scores": dict(self.scores),
            "source": self.source,
        }
        if self.dropped:
            meta["dropped"] = {
                "stage": self.dropped.stage,
                "filter": self.dropped.filter,
                "reason": self.dropped.reason,
            }
        return {**self.fields, META: meta}

    @property
    def part(self) -> str:
        """The row's part of the data: train, validation, or test where `split` has another value.

        A student learns from train. Outer steps of a training and the choice of its readings learn from
        validation. `evaluate` asks about test.
        """
        split = self.fields.get(SPLIT)
        return TRAIN if split is None else split if split in (TRAIN, VALIDATION) else TEST

    @property
    def held_out(self) -> bool:
        """Whether no student learns the row: it is in another part than train."""
        return self.part != TRAIN

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Record:
        """Return the record of a row that `row` wrote."""
        meta = row[META]
        dropped = meta.get("dropped")
        return cls(
            id=meta["id"],
            fields={name: value for name, value in row.items() if name != META},
            parents=tuple(meta["parents"]),
            source=meta["source"],
            made=tuple(meta["made"]),
            scores=meta["scores"],
            dropped=Dropped(**dropped) if dropped else None,
            item=meta.get("item", ""),
        )
