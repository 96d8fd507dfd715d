"""Where a ledger is: a SQLite file, or a PostgreSQL database that several machines share."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

SCHEMES = ("postgresql://", "postgres://")
_AFTER_USER = re.compile(r"(?<=//)(?P<user>[^/?:@]*):[^/?]*(?=@)")
_IN_QUERY = re.compile(r"(?<=[?&])password=[^&]*&?")


@dataclass(frozen=True)
class Database:
    """A PostgreSQL database, by its address: postgresql://USER@HOST:PORT/NAME."""

    url: str

    def __str__(self) -> str:
        """Return the address without a password."""
        return _IN_QUERY.sub("", _AFTER_USER.sub(r"\g<user>", self.url)).rstrip("?&")

    __repr__ = __str__


Place = Path | Database


def read_place(text: str | Path) -> Place:
    """Return the place that a text names: an address of a database, else the path of a file."""
    return Database(text) if isinstance(text, str) and text.startswith(SCHEMES) else Path(text)


def place_beside(directory: Path, text: str) -> Place:
    """Return the place that `written_beside` wrote to a file in this directory."""
    place = read_place(text)
    return Path(os.path.normpath(directory / place)) if isinstance(place, Path) else place


def written_beside(directory: Path, place: Place) -> str:
    """Return a place as the files of a directory name it: by a relative path, or without a password."""
    return os.path.relpath(place, directory) if isinstance(place, Path) else str(place)


def resolved(place: Place) -> Place:
    """Return a place without links and relative parts, to compare it."""
    return place.resolve() if isinstance(place, Path) else Database(str(place))


def public_name(place: Place) -> str:
    """Return what a published file may say of a place: the name of the file, or that it is a database."""
    return place.name if isinstance(place, Path) else "postgresql"


def is_there(place: Place) -> bool:
    """Return whether a ledger can be opened; of a database, only opening it can tell. A file is empty if the
    process that made it was killed before it held any answer.
    """
    if not isinstance(place, Path) or salvaged(place).exists():
        return True
    return place.is_file() and place.stat().st_size > 0


def salvaged(path: Path) -> Path:
    """Return the file of the ledger that `--salvage` makes, until it is in the damaged one's place."""
    return path.with_name(f"{path.name}.salvaged")
