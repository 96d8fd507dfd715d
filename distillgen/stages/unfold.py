"""unfold: make a record of each element of a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field, model_validator

from distillgen.flow.bounds import most_parts
from distillgen.flow.ordered import splice
from distillgen.flow.stage import CheckContext, Chunk, Chunks, Estimate, Job, Stage
from distillgen.record import META, Record, digest


class Unfold(Stage):
    """Make one record for each element of a list, in the place of the record with the list.

    A record takes over all other fields, and the scores of the record with the list. An element becomes the
    field `into`. If `into` is a list, the element is a mapping with these fields, which become fields of
    the record. `{field: answers, into: [answer, author]}` takes apart what `{gather: {into: answers, keep:
    [answer, author]}}` has put together. With `key`, the elements are those of a mapping. A record without
    elements is dropped, and so is an element without these fields.
    """

    kind = "unfold"
    scope = "row"
    remakes = True
    reads = "the list in `field`"
    writes = (
        "the field or fields `into`, and `key`, one record for each element; without `keep` it removes the "
        "list; drops unusable lists"
    )

    field: str = Field(description="field with the list")
    key: str | None = Field(
        None, description="the field holds a mapping instead; this field receives the name of an element"
    )
    into: str | list[str] = Field(
        min_length=1,
        description="field that receives an element; or the fields of an element, which become fields",
    )
    keep: bool = Field(False, description="leave the list in the records that are made of it")
    max_items: int = Field(
        50, ge=1, description="largest number of records from one list; the elements after these are dropped"
    )

    @property
    def names(self) -> list[str]:
        """The fields that it makes."""
        into = [self.into] if isinstance(self.into, str) else self.into
        return into if self.key is None else [self.key, *into]

    @model_validator(mode="after")
    def _reserved(self) -> Unfold:
        if META in self.names:
            raise ValueError(f"the field '{META}' is distillgen's own; give 'into' another name")
        if len(set(self.names)) < len(self.names):
            raise ValueError("'key' and 'into' name one field twice")
        return self

    def check(self, context: CheckContext) -> frozenset[str]:
        """Raise ConfigError if no earlier stage makes the list."""
        context.need(self.field, "'field'")
        return context.fields - (set() if self.keep else {self.field}) | set(self.names)

    def estimate(self, before: Estimate, samples: Sequence[Record], context: CheckContext) -> Estimate:
        """Return the number of records if each list is as long as it may be."""
        rows = None if before.rows is None else before.rows * self.max_items
        parts = most_parts([self.field], before, samples)
        made_parts = {**before.parts, **dict.fromkeys(self.names, parts)} if parts else before.parts
        return Estimate(rows, made_bytes=before.made_bytes, made_parts=made_parts)

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Replace every live record by the records of its list."""
        async for chunk in chunks:
            yield splice(chunk, (self._unfolded(record) for record in chunk if not record.dropped))

    def _unfolded(self, record: Record) -> Chunk:
        value, form = record.fields.get(self.field), list if self.key is None else dict
        if not isinstance(value, form) or not value:
            lacks = "no list" if form is list else "no mapping"
            kind = lacks if value is not None and not isinstance(value, form) else "empty"
            return [record.drop(self.name, "no_list", f"'{self.field}' is {kind}")]
        rest = {name: kept for name, kept in record.fields.items() if self.keep or name != self.field}
        elements = [*value.items()] if isinstance(value, dict) else [("", element) for element in value]
        children = [self._child(record, rest, element, i, name) for i, (name, element) in enumerate(elements)]
        over = f"one of {len(value):,} elements, {self.max_items} are taken"
        return children[: self.max_items] + [
            child if child.dropped else child.drop(self.name, "max_items", over)
            for child in children[self.max_items :]
        ]

    def _child(self, record: Record, rest: Mapping[str, Any], element: Any, i: int, name: str) -> Record:
        child = replace(record, id=digest([record.id, self.name, i, element]), parents=(record.id,))
        if self.key is not None:
            rest = {**rest, self.key: name}
        if isinstance(self.into, str):
            return replace(child, fields={**rest, self.into: element})
        if not isinstance(element, Mapping):
            reason = f"an element of '{self.field}' is no mapping with {', '.join(self.into)}"
        elif missing := [name for name in self.into if name not in element]:
            reason = f"an element of '{self.field}' has no '{missing[0]}'"
        else:
            return replace(child, fields={**rest, **{name: element[name] for name in self.into}})
        return replace(child, fields=rest).drop(self.name, "element", reason)
