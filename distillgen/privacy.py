"""What of this machine does not go where others read: paths, addresses of endpoints, host names and secrets.

Rows, lock, card and report name a model by its name, and a file of this machine by its name and hash, so that the same run on
another machine gives the same bytes; what is published is searched all the same for what a text may have brought along.
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
_PLACE = re.compile(r"(?:[A-Za-z]:(?=[\\/])|[~.]{0,2})(?=[\\/]).*[\\/](?=[^\\/])", re.DOTALL)
_SECRET = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL)S?$", re.IGNORECASE)
_SHORT = 8  # characters; what is shorter is a word that stands in any text


def name_of(model: str) -> str:
    """A model or file as rows, lock and card name it: a path of a machine by its last part."""
    return (
        _PLACE.sub("", model, count=1).rstrip("\\/") if model[:1] in "/~.\\" or model[1:2] == ":" else model
    )


@cache
def _known_hosts() -> frozenset[str]:
    """Hosts that everybody knows, for a card tells their terms."""
    table = yaml.safe_load(Path(__file__).with_name("terms.yaml").read_text(encoding="utf-8"))
    return frozenset(entry["host"] for entry in table if "host" in entry)


def public_address(url: str) -> str:
    """An endpoint's address where everybody knows it; of any other it is withheld."""
    return url if urlsplit(url).hostname in _known_hosts() else WITHHELD


def public(value: Any, root: Path | None = None) -> Any:
    """`value` as others may read it: addresses of endpoints are withheld; a path of this machine is told from the project
    (`root`), and one outside of it by its last part.
    """
    if isinstance(value, Mapping):
        shown = {public(name, root): public(inner, root) for name, inner in value.items()}
        if isinstance(url := shown.get("base_url"), str):
            shown["base_url"] = public_address(url)
        return shown
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
    """Words as they are typed in a shell."""
    return " ".join(
        word if "…" in word and not re.search(r"[\s'\"]", word) else shlex.quote(word) for word in words
    )


class Guard:
    """Finds in what is about to be published the paths and the host name of this machine, addresses of endpoints that were
    withheld, and secrets of the environment.
    """

    def __init__(self, places: Iterable[Path | str], addresses: Iterable[str] = ()) -> None:
        hosts = [part for url in addresses for part in (url, urlsplit(url).netloc)]
        own = {
            str(place): "a path of this machine"
            for place in [*places, Path.home()]
            if len(Path(place).parts) > 2
        }
        own |= {host: "the address of an endpoint" for host in hosts if len(host) >= _SHORT}
        if len(name := socket.gethostname()) >= _SHORT and not name.isalpha():
            own[name] = "the name of this machine"
        for variable, secret in os.environ.items():
            if len(secret) >= _SHORT and _SECRET.search(variable):
                own[secret] = f"what {variable} holds"
        self.found = {word.encode(): what for word, what in own.items()}
        words = sorted(map(re.escape, self.found), key=len, reverse=True)
        self._search = (
            re.compile(b"(?<![\\w.-])(?:" + b"|".join(words) + b")(?![\\w-])").search
            if words
            else lambda _: None
        )

    def finding(self, content: bytes) -> str:
        """What is private in `content`, in words that do not repeat it; nothing where nothing is."""
        match = self._search(content)
        return self.found[match[0]] if match else ""


def used_by(models: Mapping[str, Any]) -> list[str]:
    """The addresses of these models' endpoints that are withheld, without credentials."""
    specs: Sequence[Any] = [
        spec for model in models.values() for spec in (model, *getattr(model, "also", ()))
    ]
    urls = [str(spec.identity) for spec in specs if hasattr(spec, "base_url")]
    return sorted({url for url in urls if public_address(url) == WITHHELD})
