"""format: the shape that a corpus leaves in, such as the messages that a trainer reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field, model_validator

from distillgen.errors import ConfigError
from distillgen.prompt import compile_template
from distillgen.record import META
from distillgen.stages import Checking, Chunk, Chunks, Job, Stage


class Format(Stage):
    """Make fields from templates, and choose which fields a row keeps."""

    kind = "format"

    fields: dict[str, str] = Field(default_factory=dict, description="field: template of its text")
    messages: list[dict[str, str]] | None = Field(None, description="chat turns, [{user: …}, {assistant: …}], into messages")
    keep: list[str] | None = Field(None, description="fields to keep, besides those made here; default: all")

    @model_validator(mode="after")
    def _turns(self) -> Format:
        for turn in self.messages or ():
            if len(turn) != 1 or not set(turn) <= {"system", "user", "assistant"}:
                raise ValueError(f"a turn is one of system, user, assistant with its template, not {turn!r}")
        if not self.fields and not self.messages and self.keep is None:
            raise ValueError("nothing to do: give 'fields', 'messages' or 'keep'")
        return self

    def templates(self) -> list[tuple[str, str]]:
        """(field or role, template) in order."""
        return [*self.fields.items(), *((role, text) for turn in self.messages or () for role, text in turn.items())]

    def check(self, given: Checking) -> frozenset[str]:
        """Every field that a template or `keep` names is there."""
        for name, text in self.templates():
            try:
                used = compile_template(text, "template")[1]
            except ConfigError as error:
                raise ConfigError(f"the template of '{name}': {error.message.removeprefix('template: ')}") from error
            for field in sorted(used):
                given.need(field, f"the template of '{name}'")
        for name in self.keep or ():
            given.need(name, "'keep'")
        made = set(self.fields) | ({"messages"} if self.messages else set())
        if META in made:
            raise ConfigError(f"the field '{META}' is distillgen's own")
        return frozenset(made | (set(given.fields) if self.keep is None else set(self.keep)))

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Reshape every live record."""
        compiled = [(name, compile_template(text, "template")[0]) for name, text in self.templates()]
        fields, turns = compiled[: len(self.fields)], compiled[len(self.fields) :]
        async for chunk in chunks:
            shaped: Chunk = []
            for record in chunk:
                if record.dropped:
                    shaped.append(record)
                    continue
                try:
                    made: dict[str, Any] = {name: template.render(record.fields) for name, template in fields}
                    if turns:
                        made["messages"] = [{"role": role, "content": t.render(record.fields)} for role, t in turns]
                except Exception as error:  # a template can fail on a row's value in any way; the row carries the reason
                    shaped.append(record.drop(self.name, "unrenderable", f"{type(error).__name__}: {error}"))
                    continue
                kept = {k: v for k, v in record.fields.items() if self.keep is None or k in self.keep}
                shaped.append(replace(record, fields={**kept, **made}))
            yield shaped
