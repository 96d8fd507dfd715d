"""The row that flows through a pipeline, and the one way in which rows become bytes."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import orjson

META = "meta"  # everything of ours in a written row stands under this key
SPLIT = "split"  # the field that says what a row is for: train, or test (held out), as data sets have it

IDENTICAL = "identical requests"
"""The measure of a stage that says how many requests were the same as an earlier one, and got its answer."""

FieldName = Annotated[str, "field"]
"""The type of an option that names a record's field, so that `check` knows what a filter reads."""

ModelName = Annotated[str, "model"]
"""The type of an option that names one of the pipeline's models, so that `check` knows what a filter asks."""

PromptName = Annotated[str, "prompt"]
FileName = Annotated[str, "file"]
ScriptName = Annotated[str, "script"]
"""The types of options that name a prompt, a data file or folder, and `file.py:function` of the project (where another name is
a model's): what they hold is part of what a run depends on.
"""


def dumps(value: Any, *, sort_keys: bool = True) -> bytes:
    """JSON without spaces, canonical with `sort_keys`. Integers of any size; lone surrogates become '?', infinities null."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else 0, default=str)
    except TypeError:  # an integer beyond 64 bits or a lone surrogate: json takes both
        write = partial(
            json.dumps, sort_keys=sort_keys, separators=(",", ":"), ensure_ascii=False, default=str
        )
        try:
            text = write(value, allow_nan=False)
        except ValueError:
            text = write(json.loads(write(value), parse_constant=lambda _: None))
        return text.encode("utf-8", "replace")


def loads(text: str | bytes) -> Any:
    """Read JSON that a stranger wrote: exact integers, lone surrogates replaced, what is not JSON refused (ValueError)."""
    if isinstance(text, str) and not _SLOW.search(text):
        with suppress(orjson.JSONDecodeError):  # the slower reader tells what is wrong
            return orjson.loads(text)
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]
        return json.loads(dumps(value))
    return value


def loads_own(line: bytes) -> Any:
    """Read JSON that `dumps` wrote, five times as fast."""
    return json.loads(line) if _LONG in line.translate(_AS_ZEROS) else orjson.loads(line)


_AS_ZEROS = bytes(ord("0") if chr(byte) in "0123456789" else ord(" ") for byte in range(256))
_LONG = b"0" * 19  # so many digits has an integer beyond 64 bits at least, which orjson would change
_SLOW = re.compile(
    r"[:,\[\s]-?(?:\d{19}|[\d.]+[eE]\+?\d{3})"
)  # what orjson would change: a number beyond 64 bits


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def text_of(value: Any) -> str:
    """The text of a field's value, for whatever compares, counts or searches words: a text as it is, a number or truth as JSON
    writes it, the parts of a list or a mapping a line each, those of a mapping behind their names; null is empty.
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


class Unrenderable(Exception):
    """A record that lacks what somebody is to be shown; the text says what."""


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
"""Fields that number a row, or answer it."""


def item_of(fields: Mapping[str, Any], by: Sequence[str] | None = None) -> str:
    """A digest of what a row is about, so that equal items are known: its values in the fields `by`, else in all fields but those
    that number it or answer it, where there are others; of a dialogue what is not the assistant's.
    """
    if by is not None:
        return digest({name: fields.get(name) for name in by})
    asked = {
        name: _asked(value)
        for name, value in fields.items()
        if name.lower() not in _NOT_ASKED and not name.lower().endswith("_id")
    }
    return digest(asked or fields)


def _asked(value: Any) -> Any:
    """A value, or what others than the assistant say in a dialogue."""
    if not isinstance(value, list) or not all(isinstance(turn, Mapping) for turn in value):
        return value
    return [turn for turn in value if turn.get("role", turn.get("from")) not in ("assistant", "gpt")]


def digest(value: Any, length: int = 20) -> str:
    """The first `length` hex digits of the SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(dumps(value)).hexdigest()[:length]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Why a record left: the stage, the filter in it, and the reason in words."""

    stage: str
    filter: str
    reason: str


@dataclass(frozen=True, slots=True)
class Record:
    """One row. Frozen: stages return copies.

    `fields` are the user's; `made` tells each answer that went into it (stage, model, prompt, ledger key, sample,
    draw); `parents` are the ids of the records that it came from; `scores` are the filters' measurements; `item` tells what the
    source had to say, whatever the row's place: records of one item stand on one side of every split.
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
        """A record as a source gives it, of a larger `item` where it is a part of one; a row of an earlier corpus keeps its id as
        this one's parent, and its item.
        """
        meta = fields.get(META)
        if isinstance(meta, Mapping) and "id" in meta and "made" in meta:
            fields = {name: value for name, value in fields.items() if name != META}
            item = item or str(meta.get("item") or item_of(fields))
            return cls(digest([meta["id"], fields]), fields, (str(meta["id"]),), source, item=item)
        return cls(digest(fields), fields, (), source, item=item or item_of(fields))

    def derive(self, fields: Mapping[str, Any], made: Mapping[str, Any], ordinal: int) -> Record:
        """A child with `fields` added; `ordinal` tells apart children of one parent whose text is the same."""
        own = digest([self.id, fields, made["stage"], ordinal])
        made_by = (*self.made, made)
        return Record(
            own,
            {**self.fields, **fields},
            (self.id,),
            self.source,
            made_by,
            self.scores,
            self.dropped,
            self.item,
        )

    def text(self, name: str) -> str:
        """The text of a field's value."""
        return text_of(self.fields[name])

    def values(self, names: Sequence[str]) -> dict[str, Any]:
        """The values of these fields, to be shown to somebody. Raises Unrenderable where one is missing or null."""
        for name in names:
            if self.fields.get(name) is None:
                raise Unrenderable(
                    f"'{name}' is null" if name in self.fields else f"there is no field '{name}' in the row"
                )
        return {name: self.fields[name] for name in names}

    def scored(self, scores: Mapping[str, float]) -> Record:
        """A copy with measurements added."""
        every = {**self.scores, **scores}
        return Record(
            self.id, self.fields, self.parents, self.source, self.made, every, self.dropped, self.item
        )

    def drop(self, stage: str, filter: str, reason: str) -> Record:
        """A copy that is out of the corpus, with the reason."""
        dropped = Dropped(stage, filter, reason)
        return Record(
            self.id, self.fields, self.parents, self.source, self.made, self.scores, dropped, self.item
        )

    def row(self) -> dict[str, Any]:
        """The row as written: the user's fields at the top level, ours under `meta`, of one shape in every row."""
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
    def held_out(self) -> bool:
        """Whether the row is kept from training, to evaluate with: its `split` is another than train."""
        return self.fields.get(SPLIT) not in (None, "train")

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Record:
        """The inverse of `row`."""
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
