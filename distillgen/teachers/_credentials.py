"""Keys of endpoints: trim them, check that an HTTP header can carry them, and list the forms that must be
hidden.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

from distillgen.errors import ConfigError

_AROUND = " \t\r\n\ufeff"  # characters that editors and `echo` add to a key in a file
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_NAME = re.compile(r"[!#$%&'*+.^`|~\w-]+", re.ASCII)
_PRIVATE = re.compile(r"auth|key|token|secret|cookie|password|credential|sig", re.IGNORECASE)
SHORTEST = 7  # characters; a shorter value may occur in any text


def trimmed(value: str) -> str:
    """Return a key or header value without the white space around it."""
    return value.strip(_AROUND)


def check_header(option: str, name: str, value: str) -> None:
    """Raise ConfigError if no HTTP header can have this name or value, which the message does not show."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"'{option}': a header's name is made of letters, digits and '-', without spaces")
    if not _VALUE.fullmatch(value):
        place = next(i for i, character in enumerate(value) if not _VALUE.fullmatch(character))
        mistake = "a line end" if value[place] in "\r\n" else f"the character U+{ord(value[place]):04X}"
        raise ConfigError(
            f"'{option}' holds {mistake} at position {place + 1}, which no HTTP header can carry; "
            "copy it again"
        )


def credentials(api_key: str | None, headers: Mapping[str, str], base_url: str) -> set[str]:
    """Return the keys of an endpoint in each form in which they are sent. They are hidden in answers."""
    values = [api_key or "", *_of_address(base_url)]
    for name, value in headers.items():
        if _PRIVATE.search(name):
            values += [value, *value.split()]
    return {value for value in values if len(value) >= SHORTEST}


def further_secrets(headers: Mapping[str, str]) -> set[str]:
    """Return all header values and their words. Some are secrets, and no message needs one."""
    return {word for value in headers.values() for word in (value, *value.split()) if len(word) >= SHORTEST}


def _of_address(base_url: str) -> Iterator[str]:
    """Yield the user, the password and the keys in an address, as written and as sent."""
    try:
        parts = urlsplit(base_url)
        user, password = parts.username or "", parts.password or ""
    except ValueError:  # not an address: its check says so
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
