"""The number of tokens of a text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distillgen.errors import ConfigError
from distillgen.extras import need


def token_counter(user: str, name: str, file: Path | None) -> Callable[[str], int]:
    """Return a function that counts tokens, without the special tokens around a text.

    The tokenizer is that of `file`, a tokenizer.json, or `name` on the Hugging Face Hub. Raise ConfigError,
    which names the `user`, if it cannot be read.
    """
    need(f"{user} in tokens", "tokenizers")
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file)) if file else Tokenizer.from_pretrained(name)
    except Exception as error:  # the package raises no narrower class
        raise ConfigError(f"{user}: the tokenizer '{file or name}' cannot be read: {error}") from error
    tokenizer.no_truncation()
    return lambda text: len(
        tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids
    )
