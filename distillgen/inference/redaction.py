"""Secrets and values of the environment are taken out of texts before they are written."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from distillgen.inference.request import Completion
from distillgen.record import dumps


def without_credentials(credentials: Mapping[str, str], c: Completion) -> Completion:
    """A completion in which the endpoint repeats no key of ours; tokens that would spell one are left out."""
    texts = (c.text, c.reasoning, c.error, c.model, c.finish)
    if c.tool_calls:
        calls = dumps(c.tool_calls).decode()
        if (shown := hide(calls, credentials)) != calls:
            c = c._replace(tool_calls=orjson.loads(shown))
    if not any(secret in text for secret in credentials for text in texts):
        return c
    text, reasoning, error, model, finish = (hide(text, credentials) for text in texts)
    return c._replace(text=text, reasoning=reasoning, error=error, model=model, finish=finish, logprobs=())


def hide(text: str, hidden: Mapping[str, str]) -> str:
    """`text` with what is `hidden` replaced by what stands for it, the longest first."""
    for value in sorted(hidden, key=len, reverse=True):
        text = text.replace(value, hidden[value])
    return text
