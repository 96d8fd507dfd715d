"""Private data of this machine: paths, addresses of endpoints, host names and secrets are not published.

Rows, lock, card and report name a model by its name, and a file by its name and hash; so the same run on
another machine writes the same bytes. Before publishing, `Guard` also searches the content for private data.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

WITHHELD = "(withheld)"
SECRET = "the value of "  # begins the description of a secret, which is never published
_PLACE = re.compile(r"(?:[A-Za-z]:(?=[\\/])|[~.]{0,2})(?=[\\/]).*[\\/](?=[^\\/])", re.DOTALL)
_SECRET = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL)S?$", re.IGNORECASE)
_SHORT = 8  # characters; a shorter secret may be a word of any text


def name_of(model: str) -> str:
    """Return the public name of a model or file: the last part of a path."""
    return (
        _PLACE.sub("", model, count=1).rstrip("\\/") if model[:1] in "/~.\\" or model[1:2] == ":" else model
    )


@cache
def _known_hosts() -> frozenset[str]:
    """Return the hosts of public endpoints: those whose terms the card quotes."""
    table = yaml.safe_load(Path(__file__).with_name("terms.yaml").read_text(encoding="utf-8"))
    return frozenset(entry["host"] for entry in table if "host" in entry)


def public_address(url: str) -> str:
    """Return the address of a public endpoint; withhold any other."""
    return url if urlsplit(url).hostname in _known_hosts() else WITHHELD


def public(value: Any, root: Path | None = None) -> Any:
    """Return a copy of a value without private data.

    Addresses of endpoints are withheld. A path becomes relative to the project (`root`); of a path outside
    the project, the last part remains.
    """
    if isinstance(value, Mapping):
        mapping = {public(name, root): public(inner, root) for name, inner in value.items()}
        if isinstance(url := mapping.get("base_url"), str):
            mapping["base_url"] = public_address(url)
        return mapping
    if isinstance(value, list | tuple):
        return [public(inner, root) for inner in value]
    return _public_text(value, root) if isinstance(value, str) else value


def _public_text(text: str, root: Path | None) -> str:
    if text.startswith(("../", "~/")) or (text.startswith("/") and _exists(text)):
        place = Path(text).expanduser()
        inside = root is not None and place.is_absolute() and place.is_relative_to(root)
        return place.relative_to(root).as_posix() if root and inside else name_of(text)
    return text.replace(f"{root}/", "") if root else text


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a path, or with a zero byte
        return False


def command(words: Iterable[str]) -> str:
    """Return words as one would type them in a shell."""
    return " ".join(
        word if "…" in word and not re.search(r"[\s'\"]", word) else shlex.quote(word) for word in words
    )


class Guard:
    """A search for private data in content that is about to be published.

    It finds paths and the host name of this machine, withheld addresses of endpoints, and secrets of the
    environment.
    """

    def __init__(self, places: Iterable[Path | str], addresses: Iterable[str] = ()) -> None:
        hosts = [part for url in addresses for part in (url, urlsplit(url).netloc)]
        private_texts = {
            str(place): "a path of this machine"
            for place in [*places, Path.home()]
            if len(Path(place).parts) > 2
        }
        private_texts |= {host: "the address of an endpoint" for host in hosts if len(host) >= _SHORT}
        if len(name := socket.gethostname()) >= _SHORT and not name.isalpha():
            private_texts[name] = "the name of this machine"
        for variable, secret in os.environ.items():
            if len(secret) >= _SHORT and _SECRET.search(variable):
                private_texts[secret] = SECRET + variable
        self._descriptions = {text.encode(): name for text, name in private_texts.items()}
        words = sorted(map(re.escape, self._descriptions), key=len, reverse=True)
        self._search = (
            re.compile(b"(?<![\\w.-])(?:" + b"|".join(words) + b")(?![\\w-])").search
            if words
            else lambda _: None
        )

    def finding(self, content: bytes) -> str:
        """Describe the private data in `content` without repeating them; "" if there are none."""
        match = self._search(content)
        return self._descriptions[match[0]] if match else ""


def used_by(models: Mapping[str, Any]) -> list[str]:
    """Return the withheld addresses of these models' endpoints, without credentials."""
    specs: Sequence[Any] = [
        spec for model in models.values() for spec in (model, *getattr(model, "also", ()))
    ]
    urls = [str(spec.identity) for spec in specs if hasattr(spec, "base_url")]
    return sorted({url for url in urls if public_address(url) == WITHHELD})
