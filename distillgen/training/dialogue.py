"""Objectives that learn answers: chat turns, or a prompt and its completion as texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.flow.stage import CheckContext
from distillgen.option_types import FieldName
from distillgen.record import Record, Unrenderable, loads
from distillgen.rows.tool_turns import tools_text, trained_turns
from distillgen.training.chat_template import Turns
from distillgen.training.inputs import Api
from distillgen.training.objective import NO_TEMPLATE, Objective
from distillgen.training.rows import Row, Unusable

_CALLS = ("tool_calls", "tool_call_id", "name")
CHAT: Turns = [{"role": "user", "content": "text"}, {"role": "assistant", "content": "text"}]


class Dialogue(Objective):
    """Learns from `messages` where the records have them, else from `prompt` and `completion`.

    Chat turns are rendered by the student's chat template; texts are used as they are.
    """

    messages: FieldName = Field(
        "messages", description="chat turns that end with the assistant's; used if the records have them"
    )
    tools: FieldName = Field("tools", description="the tools of each chat, if the records have them")
    prompt: FieldName = Field("prompt", description="a text or chat turns, if there are no messages")
    completion: FieldName = Field(
        "completion", description="the answer that the student learns, as a text or a chat turn"
    )

    def check(self, context: CheckContext) -> None:
        """Raise ConfigError if there are neither chat turns nor a prompt and a completion."""
        if self.messages not in context.fields and not {self.prompt, self.completion} <= context.fields:
            fields = ", ".join(sorted(context.fields))
            raise ConfigError(
                f"it learns from '{self.messages}' (chat turns, which a format stage makes) or from "
                f"'{self.prompt}' and '{self.completion}' (texts); the records have {fields}. Name others "
                "with prompt: … and completion: …"
            )

    def answers(self) -> tuple[str, ...]:
        """Return the completion's column."""
        return ("completion",)

    def chats(self, context: CheckContext) -> Sequence[Turns]:
        """Return the turns of the messages, or those of the prompt with an answer."""
        if self.messages in context.fields:
            return context.turns(self.messages) or [CHAT]
        return [[*turns, CHAT[1]] for turns in context.turns(self.prompt)]

    def api(self, row: Row) -> Api:
        """Return whether the prompt is a text or chat turns."""
        return api_of(row)

    def offered(self, record: Record) -> Row:
        """Return the column `tools` of a record that has the field."""
        return {"tools": tools_text(record.fields[self.tools])} if self.tools in record.fields else {}

    def turns(self, record: Record) -> Turns:
        """Return the record's chat turns. Raises Unusable."""
        turns = record.fields.get(self.messages)
        return _turns(turns, self.messages)

    def example(self, record: Record) -> Row:
        """Return a prompt and a completion: both chat turns, or both texts. Raises Unusable."""
        if self.messages in record.fields:
            turns = self.turns(record)
            if turns[-1]["role"] != "assistant" or len(turns) < 2:
                raise Unusable(f"the last of several turns in '{self.messages}' is not the assistant's")
            return {"prompt": turns[:-1], "completion": turns[-1:]}
        prompt, completion = (record.fields.get(name) for name in (self.prompt, self.completion))
        if isinstance(prompt, str) and isinstance(completion, str):
            return {"prompt": prompt, "completion": completion}
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        return {"prompt": _turns(prompt, self.prompt), "completion": _turns(completion, self.completion)}


def api_of(row: Row) -> Api:
    """Return how a student that learns rows like this one is asked."""
    return "completions" if isinstance(row.get("prompt"), str) else "chat"


def turns_of(text: Any, name: str, role: str) -> Turns:
    """Return chat turns; a text becomes one turn of `role`. Raises Unusable."""
    return _turns([{"role": role, "content": text}] if isinstance(text, str) else text, name)


def _turns(turns: Any, name: str) -> Turns:
    """Return the role and the text of each chat turn, and its tool calls or the call that it answers.

    Raises Unusable.
    """
    if not isinstance(turns, list) or not turns:
        raise Unusable(f"'{name}' holds no chat turns")
    if not all(
        isinstance(t, dict) and isinstance(t.get("content"), str) and isinstance(t.get("role"), str)
        for t in turns
    ):
        raise Unusable(f"a turn in '{name}' is not a role with a text")
    try:
        trained = trained_turns(turns)
    except Unrenderable as error:
        raise Unusable(f"'{name}': {error}") from error
    return [
        {
            "role": turn["role"],
            "content": turn["content"],
            **{key: turn[key] for key in _CALLS if turn.get(key)},
        }
        for turn in trained
    ]


def tokens(tokenizer: Any, text: Any, *, opened: bool = False, tools: str | None = None) -> list[int]:
    """Return the token ids of a text or chat turns; `opened` adds the start of the assistant's turn.

    `tools` are the chat's tools as JSON text.
    """
    if isinstance(text, str):
        ids: list[int] = tokenizer(text)["input_ids"]
        return ids
    if not tokenizer.chat_template:
        raise ConfigError(f"the student has no chat template to put messages into; {NO_TEMPLATE}")
    ids = tokenizer.apply_chat_template(
        text, tools=loads(tools) if tools else None, add_generation_prompt=opened, return_dict=True
    )["input_ids"]
    return ids


def split(
    tokenizer: Any, prompt: Any, completion: Any, tools: str | None = None
) -> tuple[list[int], list[int]]:
    """Return the ids of the prompt, and of the completion with its end, divided as TRL divides them."""
    if isinstance(completion, str) and not completion.endswith(tokenizer.eos_token):
        completion += tokenizer.eos_token
    ids = tokens(tokenizer, prompt + completion, tools=tools)
    start = len(os.path.commonprefix([tokens(tokenizer, prompt, opened=True, tools=tools), ids]))
    return ids[:start], ids[start:]


def lengths(tokenizer: Any, prompt: Any, *completions: Any, tools: str | None = None) -> tuple[int, int]:
    """Return the number of tokens of the prompt, and of the prompt with its longest completion."""
    parts = [split(tokenizer, prompt, completion, tools) for completion in completions]
    return min(len(before) for before, _ in parts), max(len(before) + len(after) for before, after in parts)
