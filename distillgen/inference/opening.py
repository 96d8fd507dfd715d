"""The opening of a user's turn, after which a model writes what the user says, and that of a plain text."""

from __future__ import annotations

from typing import Any

_TEXT = "the-text-of-the-user"
USER_TURN = {"role": "user", "content": _TEXT}
"""A user's turn whose text no chat template changes. It stands where the model will write."""


def opening(rendered: str) -> str:
    """Return what a chat template writes before the text of USER_TURN, the last turn.

    Raise ValueError if the template does not write that text.
    """
    before, text, _ = rendered.partition(_TEXT)
    if not text:
        raise ValueError("the chat template does not write the text of the user's last turn")
    return before


def text_start(tokenizer: Any) -> list[int]:
    """Return the tokens before a plain text, after which its first token has a probability.

    They are those that the tokenizer writes itself, or else its token for the beginning, or for the end.
    """
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return list(tokenizer.encode("")) or ([] if first is None else [first])
