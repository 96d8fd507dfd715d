"""What all readers share: the options of reading, the form of rows, and values that JSON can hold."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.project import from_here
from distillgen.record import META, dumps, loads
from distillgen.rows.arrays import MOST_NUMBERS
from distillgen.rows.cut import Cutter
from distillgen.rows.documents import Convert
from distillgen.rows.media import HEAD, FileFault, inside, look_up, media_type, store
from distillgen.rows.pictures import CONVERSIONS

PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # of Pillow, which a PNG file keeps as they are

Row: TypeAlias = dict[str, Any] | str
"""A row's fields, or the reason why it is unreadable."""

Rows: TypeAlias = Iterator[tuple[str, Row, str]]
"""Each row with its place inside the file or folder, and the item that it is a part of; "" where it is a
whole item.
"""


@dataclass(frozen=True)
class Reading:
    """How to read a file or data set: the options of the stage `source` that readers use."""

    format: str | None = None
    fields: Mapping[str, str] | None = None
    cutter: Cutter | None = None
    convert: Convert = field(default_factory=Convert)
    pattern: str = ""
    """Which files of a folder are read, as a glob; "" for all."""
    folder: Path | None = None
    """The folder that is read, for a file in it."""
    root: Path = Path()
    """The project's folder, to which rows name the files that they refer to."""
    media: Mapping[str, str] = field(default_factory=dict)
    """The columns with paths of pictures and sounds, by name: `image` or `audio`."""

    @property
    def conversions(self) -> Path:
        """The folder with converted documents, beside the runs of the project."""
        return self.root / CONVERSIONS

    @property
    def columns(self) -> set[str] | None:
        """The columns to read: those of `fields` and `meta`; None for all."""
        return {*self.fields.values(), META} if self.fields else None


Reader: TypeAlias = Callable[[Path, Reading], Rows]


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turn any exception into a ConfigError: the packages raise OSError, their own exceptions and others."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"'{from_here(path)}' cannot be read: {type(error).__name__}: {error}") from error


def plain(row: Mapping[str, Any], every: Mapping[str, Any], root: Path | None = None) -> Row:
    """Return a row with values of JSON, or the reason why a column has none. `every` has all columns that
    there are.

    Pictures and sounds become files of the project in `root`. Without one they have no value of JSON.
    """
    plain: dict[str, Any] = {}
    for name, value in row.items():
        try:
            plain[name] = loads(dumps(_as_json(value, root)))
        except TypeError as error:
            others = ", ".join(f"{other}: {other}" for other in every if other != name)
            return f"the column '{name}' holds {error}; leave it out: fields: {{{others}}}"
        except ValueError as error:
            return FileFault(f"'{name}': {error}")
    return plain


def _as_json(value: Any, root: Path | None) -> Any:
    """Return a value that `dumps` can write. Raise TypeError, with a description, for a value that JSON
    cannot hold, and ValueError with the reason for a picture or a sound that cannot be used.
    """
    if value is None or isinstance(value, str | int | float | date | time | timedelta | Decimal | UUID):
        return value
    if isinstance(value, Mapping):
        if root and value.keys() == {"bytes", "path"} and (value["bytes"] or value["path"]):
            return _file(value["bytes"], value["path"], root)
        return {str(name): _as_json(part, root) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(part, root) for part in value]
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):
            if (text := value.decode()).isprintable() or not any(
                ord(letter) < 32 and letter not in "\t\n\r" for letter in text
            ):
                return text
        if root and media_type(value[:HEAD]):
            return store(value, root)
        raise TypeError("bytes that are neither text nor a picture or sound of a kind that is read")
    if root and (data := _png(value)):
        return store(data, root)
    if hasattr(value, "tolist"):  # a NumPy array or number
        return _as_json(value.tolist(), root)
    raise TypeError(
        f"{'an image' if 'Image' in type(value).__name__ else f'a value of type {type(value).__name__}'}"
    )


def _png(value: Any) -> bytes:
    """Return the PNG file of a picture of Pillow, or of an array of bytes with the shape of one and more than
    MOST_NUMBERS numbers; b"" for another value.
    """
    if type(value).__module__.startswith("PIL."):
        picture = value
    elif _is_picture(value):
        need("a picture in an array", "PIL")
        from PIL import Image

        picture = Image.fromarray(value)
    else:
        return b""
    stream = io.BytesIO()
    try:
        (picture if picture.mode in PNG_MODES else picture.convert("RGB")).save(stream, "PNG")
    except Exception as error:  # Pillow reads the file only now, and raises OSError, SyntaxError and others
        raise ValueError(f"the picture cannot be read: {type(error).__name__}") from error
    return stream.getvalue()


def _is_picture(value: Any) -> bool:
    if type(value).__module__ != "numpy" or value.dtype != "uint8":
        return False
    return value.ndim == 3 and value.shape[2] in (3, 4) and value.size > MOST_NUMBERS


def _file(data: Any, path: Any, root: Path) -> Any:
    """Return the reference to a file of which a column of `datasets` holds the bytes, or else the path."""
    if data is not None:
        return _as_json(data, root)
    is_absolute = Path(path).is_absolute()
    return (inside(Path(path), root) if is_absolute else look_up(path, root, root)).reference
