"""The opening of a user's turn, after which a model writes what the user says."""

from __future__ import annotations

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
