"""Keys: trimmed as they are read, refused where no HTTP header can carry them, and known in every form that
an echo may have.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

from distillgen.errors import ConfigError

_AROUND = " \t\r\n\ufeff"  # what editors and `echo` leave around a key in a file
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_NAME = re.compile(r"[!#$%&'*+.^`|~\w-]+", re.ASCII)
_PRIVATE = re.compile(r"auth|key|token|secret|cookie|password|credential|sig", re.IGNORECASE)
SHORTEST = 7  # a shorter value is a word that other texts hold, too


def trimmed(value: str) -> str:
    """A key or a header's value without what stands around it in a file."""
    return value.strip(_AROUND)


def check_header(option: str, name: str, value: str) -> None:
    """Raise ConfigError where no HTTP header can have this name or value, which the message does not show."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"'{option}': a header's name is made of letters, digits and '-', without spaces")
    if not _VALUE.fullmatch(value):
        place = next(i for i, character in enumerate(value) if not _VALUE.fullmatch(character))
        what = "a line end" if value[place] in "\r\n" else f"the character U+{ord(value[place]):04X}"
        raise ConfigError(
            f"'{option}' holds {what} at position {place + 1}, which no HTTP header can carry; copy it again"
        )


def credentials(api_key: str | None, headers: Mapping[str, str], base_url: str) -> set[str]:
    """What opens an endpoint, in each form in which it is sent: no text that an endpoint gives back may hold
    it.
    """
    values = [api_key or "", *_of_address(base_url)]
    for name, value in headers.items():
        if _PRIVATE.search(name):
            values += [value, *value.split()]
    return {value for value in values if len(value) >= SHORTEST}


def further_secrets(headers: Mapping[str, str]) -> set[str]:
    """Every header's value and its words: some are secrets under names of their own, and no message needs
    one.
    """
    return {word for value in headers.values() for word in (value, *value.split()) if len(word) >= SHORTEST}


def _of_address(base_url: str) -> Iterator[str]:
    """The user, the password and the keys in an address, as they are written and as they are sent."""
    try:
        parts = urlsplit(base_url)
        user, password = parts.username or "", parts.password or ""
    except ValueError:  # no address, as its own check says
        return
    for value in (
        user,
        password,
        *(value for name, value in parse_qsl(parts.query) if _PRIVATE.search(name)),
    ):
        yield from (value, unquote(value))
    yield from (
        pair.partition("=")[2] for pair in parts.query.split("&") if _PRIVATE.search(pair.partition("=")[0])
    )
    if user or password:
        yield b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
