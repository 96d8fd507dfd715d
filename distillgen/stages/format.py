"""format: give records the form of a corpus, such as the messages that a trainer reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, islice
from typing import Any

from pydantic import Field, model_validator

from distillgen.errors import ConfigError
from distillgen.flow.stage import BoundStage, CheckContext, Chunks, Job, Stage, Text
from distillgen.record import META, Record, Unrenderable
from distillgen.rows.shapes import Shaper, shaper


class Format(Stage):
    """Make fields from templates, and choose the fields that a row keeps."""

    kind = "format"
    scope = "row"
    reads = "the fields in the templates, in `messages` and in the parts of `shape`"
    writes = "the fields that it makes; removes the fields that `keep` does not name"

    fields: dict[str, str] = Field(
        default_factory=dict, description="fields to make, each with the template of its text"
    )
    messages: list[dict[str, str]] | dict[str, list[dict[str, str]]] | None = Field(
        None,
        description="templates of chat turns, [{user: …}, {assistant: …}], for the field messages; or "
        "such lists by field",
    )
    shape: str | dict[str, dict[str, str]] | None = Field(
        None,
        description="shape of the row: a name (alpaca, sharegpt, …), or {name: {part: field or template}}",
    )
    keep: list[str] | None = Field(
        None, description="fields to keep besides the fields that this stage makes; default: all"
    )

    @model_validator(mode="after")
    def _turns(self) -> Format:
        for turn in chain.from_iterable(self.dialogues.values()):
            if len(turn) != 1 or not set(turn) <= {"system", "user", "assistant"}:
                raise ValueError(f"a turn is one of system, user, assistant with its template, not {turn!r}")
        if not self.fields and not self.messages and self.shape is None and self.keep is None:
            raise ValueError("nothing to do: give 'fields', 'messages' or 'keep', or a shape")
        if isinstance(self.shape, dict) and len(self.shape) != 1:
            raise ValueError("'shape' names one shape: {name: {part: field or template}}")
        return self

    @property
    def dialogues(self) -> dict[str, list[dict[str, str]]]:
        """The chat turns by field."""
        return (
            self.messages
            if isinstance(self.messages, dict)
            else {"messages": self.messages}
            if self.messages
            else {}
        )

    def texts(self) -> list[tuple[str, Text]]:
        """Return the templates by field or role: first those in `fields`, then the chat turns."""
        turns = [pair for turn in chain.from_iterable(self.dialogues.values()) for pair in turn.items()]
        templates = []
        for name, source in (*self.fields.items(), *turns):
            try:
                templates.append((name, Text(source)))
            except ConfigError as error:
                raise ConfigError(
                    f"the template of '{name}': {error.message.removeprefix('template: ')}"
                ) from error
        return templates

    def shaper(self, fields: Collection[str]) -> Shaper:
        """Return an object that makes rows of `shape` from records with `fields`."""
        name, parts = (
            next(iter(self.shape.items())) if isinstance(self.shape, dict) else (self.shape or "", {})
        )
        return shaper(name, parts, fields)

    def bind(self, context: CheckContext) -> BoundFormat:
        """Compile the templates. Raise ConfigError if a field in a template, `shape` or `keep` is missing."""
        texts = self.texts()
        for name, text in texts:
            text.check(context, f"the template of '{name}'")
        for name in self.keep or ():
            context.need(name, "'keep'")
        names = self.fields.keys() | self.dialogues.keys()
        names |= set(self.shaper(context.fields).columns) if self.shape else set()
        if META in names:
            raise ConfigError(f"the field '{META}' is distillgen's own")
        fields = frozenset(names | (set(context.fields) if self.keep is None else set(self.keep)))
        return BoundFormat(self, context, fields, texts=texts)


@dataclass(frozen=True)
class BoundFormat(BoundStage):
    """The stage with its templates."""

    stage: Format
    texts: Sequence[tuple[str, Text]] = field(kw_only=True)

    def turns(self) -> dict[str, list[list[dict[str, Any]]]]:
        """Return the roles of the dialogues, with a placeholder for each text."""
        return {
            name: [[{"role": role, "content": "text"} for turn in dialogue for role in turn]]
            for name, dialogue in self.stage.dialogues.items()
        }

    def former(self) -> Callable[[Record], Record]:
        """Return a function that reshapes one record."""
        stage = self.stage
        fields, turns = self.texts[: len(stage.fields)], self.texts[len(stage.fields) :]
        shaper = cache(stage.shaper)  # one for all records that have the same fields

        def shaped(record: Record) -> Record:
            try:
                new_fields: dict[str, Any] = {name: text.render(record) for name, text in fields}
                all_turns = iter([{"role": role, "content": text.say(record)} for role, text in turns])
                new_fields |= {
                    name: list(islice(all_turns, len(turns_of_field)))
                    for name, turns_of_field in stage.dialogues.items()
                }
                if stage.shape:
                    new_fields |= shaper(frozenset(record.fields)).row(record.fields)
            except (Unrenderable, ConfigError) as error:
                raise Unrenderable(str(error)) from error
            keep = stage.keep
            kept = {name: value for name, value in record.fields.items() if keep is None or name in keep}
            return replace(record, fields={**kept, **new_fields})

        return shaped

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Reshape every live record."""
        shaped = self.former()

        def reshaped(record: Record) -> Record:
            try:
                return shaped(record)
            except Unrenderable as error:
                return record.drop(self.name, "unrenderable", str(error))

        async for chunk in chunks:
            yield [record if record.dropped else reshaped(record) for record in chunk]
