"""Replace secrets and values of the environment in texts before they are written."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from distillgen.inference.request import Completion
from distillgen.record import dumps


def without_credentials(credentials: Mapping[str, str], c: Completion) -> Completion:
    """Return the completion without our keys. The tokens of an answer that repeats a key are removed, too."""
    texts = (c.text, c.reasoning, c.error, c.model, c.finish)
    if c.tool_calls:
        calls = dumps(c.tool_calls).decode()
        if (hidden_calls := hide(calls, credentials)) != calls:
            c = c._replace(tool_calls=orjson.loads(hidden_calls))
    if not any(secret in text for secret in credentials for text in texts):
        return c
    text, reasoning, error, model, finish = (hide(text, credentials) for text in texts)
    return c._replace(text=text, reasoning=reasoning, error=error, model=model, finish=finish, logprobs=())


def hide(text: str, hidden: Mapping[str, str]) -> str:
    """Return the text with each key of `hidden` replaced by its value, the longest keys first."""
    for value in sorted(hidden, key=len, reverse=True):
        text = text.replace(value, hidden[value])
    return text
