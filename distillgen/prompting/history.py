"""The dialogue that a request continues: chat turns in a field of the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from distillgen.errors import ConfigError
from distillgen.inference.request import Completion
from distillgen.prompting.prompt import Prompt
from distillgen.record import Unrenderable, dumps
from distillgen.rows.turns import mistake, turns_in

Writer: TypeAlias = Literal["assistant", "user"]
Turns: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True)
class History:
    """Puts the turns of a field before those of a prompt, and adds the answer to them."""

    field: str | None
    """The field that holds the dialogue; None where a model begins one that no field keeps."""
    writer: Writer
    """Whose turn the answer is."""

    def turns(self, fields: Mapping[str, Any]) -> Turns:
        """Return the dialogue so far. Raise Unrenderable if the field holds anything but chat turns."""
        return turns_in(fields, self.field) if self.field else []

    def with_prompt(self, fields: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> Turns:
        """Return the dialogue with the messages of the prompt after it, which the model continues.

        A system turn stands at the start of a dialogue only. Raise Unrenderable if the writer's turn cannot
        follow.
        """
        before = self.turns(fields)
        turns = [*before, *(dict(m) for m in messages if not before or m["role"] != "system")]
        if not turns and self.writer == "assistant":
            raise Unrenderable(f"'{self.field}' is empty and there is no prompt: nothing can be answered")
        if why := mistake([*_roles(turns), self.writer]):
            raise Unrenderable(f"the dialogue in '{self.field}' cannot go on: {why}")
        return turns

    def grown(self, turns: Turns, answer: Completion) -> Turns:
        """Return the turns that were sent, and the answer."""
        turn: dict[str, Any] = {"role": self.writer, "content": answer.text.strip()}
        if answer.tool_calls:
            turn["tool_calls"] = list(answer.tool_calls)
        return [*turns, turn]

    def size(self, fields: Mapping[str, Any]) -> int:
        """Return the bytes of the dialogue so far."""
        return len(dumps(fields.get(self.field))) if self.field else 0

    def check(self, prompt: Prompt, dialogues: Sequence[Turns]) -> None:
        """Raise ConfigError if the prompt cannot stand in a dialogue, or after one of `dialogues`."""
        option = "'history'" if self.field else "'write'"
        if prompt.form.many:
            raise ConfigError(
                f"{option}: an answer of the form '{prompt.form.kind}' is a list of records, but a dialogue "
                "has one next turn; use the form text"
            )
        if prompt.examples and not prompt.lays_out_examples:
            raise ConfigError(
                f"{option}: worked examples would be turns of the dialogue; lay them out in the prompt's "
                "text, {% for example in examples %}…"
            )
        if not self.after(prompt, dialogues):
            why = mistake(_roles(self._example(prompt, (*dialogues, [])[0])))
            remedy = f", or the stage that makes '{self.field}'" if dialogues else ""
            raise ConfigError(f"{option}: {why}; change the turns of the prompt{remedy}")

    def after(self, prompt: Prompt, dialogues: Sequence[Turns]) -> Sequence[Turns]:
        """Return the dialogues that can go on as they are after the answer, with placeholders as texts.

        Without examples of dialogues, this is the dialogue that begins with the prompt.
        """
        examples = [self._example(prompt, dialogue) for dialogue in dialogues or ([],)]
        return [turns for turns in examples if not mistake(_roles(turns))]

    def _example(self, prompt: Prompt, dialogue: Turns) -> Turns:
        roles = [role for role, _ in prompt.turns if not dialogue or role != "system"]
        turns: Turns = [{"role": role, "content": "text"} for role in (*roles, self.writer)]
        if prompt.media.fields:
            last = next(turn for turn in turns[::-1] if turn["role"] == "user")
            last["content"] = [
                {"type": kind, "sha256": ""} for kind in dict.fromkeys(prompt.media.kinds.values())
            ]
        return [*dialogue, *turns]


def _roles(turns: Turns) -> list[str]:
    return [str(turn["role"]) for turn in turns]
