"""What the objectives share that teach to answer: chat turns, or a prompt and its completion as texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.flow.stage import Checking
from distillgen.record import FieldName, Record
from distillgen.training.chat_template import Turns
from distillgen.training.inputs import Api
from distillgen.training.objective import NO_TEMPLATE, Objective
from distillgen.training.rows import Row, Unusable

CHAT: Turns = [{"role": "user", "content": "text"}, {"role": "assistant", "content": "text"}]


class Dialogue(Objective):
    """Learns from `messages` where the records have them, else from `prompt` and `completion`.

    Chat turns are put into the student's own chat template; texts are taken as they are.
    """

    messages: FieldName = Field(
        "messages", description="chat turns, the last of them the assistant's; taken where there are any"
    )
    prompt: FieldName = Field("prompt", description="a text or chat turns, where there are no messages")
    completion: FieldName = Field(
        "completion", description="what the student is to answer, as a text or a chat turn"
    )

    def check(self, given: Checking) -> None:
        """There are chat turns, or a prompt and a completion."""
        if self.messages not in given.fields and not {self.prompt, self.completion} <= given.fields:
            there = ", ".join(sorted(given.fields))
            raise ConfigError(
                f"it learns from '{self.messages}' (chat turns, which a format stage makes) or from '{self.prompt}' and "
                f"'{self.completion}' (texts); the records have {there}. Name others with prompt: … and completion: …"
            )

    def answers(self) -> tuple[str, ...]:
        """The completion."""
        return ("completion",)

    def chats(self, given: Checking) -> Sequence[Turns]:
        """Those of the messages, or of the prompt where it is made of turns, with an answer."""
        if self.messages in given.fields:
            return given.turns(self.messages) or [CHAT]
        return [[*turns, CHAT[1]] for turns in given.turns(self.prompt)]

    def api(self, row: Row) -> Api:
        """As the prompt is: a text or chat turns."""
        return api_of(row)

    def turns(self, record: Record) -> list[dict[str, str]]:
        """The record's chat turns. Raises Unusable."""
        turns = record.fields.get(self.messages)
        return _turns(turns, self.messages)

    def example(self, record: Record) -> Row:
        """A prompt and a completion: both chat turns, or both texts. Raises Unusable."""
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
    """How a student is asked whose prompts are like that of `row`."""
    return "completions" if isinstance(row.get("prompt"), str) else "chat"


def turns_of(text: Any, name: str, role: str) -> list[dict[str, str]]:
    """Chat turns; a text becomes one, of `role`. Raises Unusable."""
    return _turns([{"role": role, "content": text}] if isinstance(text, str) else text, name)


def _turns(turns: Any, name: str) -> list[dict[str, str]]:
    """Chat turns of text. Raises Unusable."""
    if not isinstance(turns, list) or not turns:
        raise Unusable(f"'{name}' holds no chat turns")
    if not all(
        isinstance(t, dict) and isinstance(t.get("content"), str) and isinstance(t.get("role"), str)
        for t in turns
    ):
        raise Unusable(f"a turn in '{name}' is not a role with a text")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def tokens(tokenizer: Any, text: Any, *, opened: bool = False) -> list[int]:
    """Ids of a text, or of chat turns in the template; `opened`: with the beginning of the assistant's turn."""
    if isinstance(text, str):
        ids: list[int] = tokenizer(text)["input_ids"]
        return ids
    if not tokenizer.chat_template:
        raise ConfigError(f"the student has no chat template to put messages into; {NO_TEMPLATE}")
    ids = tokenizer.apply_chat_template(text, add_generation_prompt=opened, return_dict=True)["input_ids"]
    return ids


def split(tokenizer: Any, prompt: Any, completion: Any) -> tuple[list[int], list[int]]:
    """Ids of the prompt, and of the completion with its end, divided where TRL's trainers divide them."""
    if isinstance(completion, str) and not completion.endswith(tokenizer.eos_token):
        completion += tokenizer.eos_token
    whole = tokens(tokenizer, prompt + completion)
    at = len(os.path.commonprefix([tokens(tokenizer, prompt, opened=True), whole]))
    return whole[:at], whole[at:]


def lengths(tokenizer: Any, prompt: Any, *completions: Any) -> tuple[int, int]:
    """Tokens of the prompt, and of the prompt with the longest of its completions."""
    parts = [split(tokenizer, prompt, completion) for completion in completions]
    return min(len(before) for before, _ in parts), max(len(before) + len(after) for before, after in parts)
