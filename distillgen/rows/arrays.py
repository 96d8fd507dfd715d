"""Arrays of numbers in rows: a short one is a list, a large one or a picture is a reference to a file.

A reference to a row of a NumPy file has `index`, and in an .npz file `column`.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.extras import need
from distillgen.project import file_sha256
from distillgen.record import is_reference
from distillgen.rows.media import HEAD, IMAGE, media_type

MOST_NUMBERS = 1000
"""Numbers of the largest array that a row holds itself; a list of so many takes about 5 kB."""


def reference(file: Path, root: Path) -> dict[str, Any]:
    """Return the reference to a file of the project in `root`. Raise ConfigError for a file outside of it."""
    if not file.resolve().is_relative_to(root.resolve()):
        problem = "rows refer to files of their project, and this one lies outside"
        raise ConfigError(f"{problem} ({root}); move it there", path=file)
    path = file.resolve().relative_to(root.resolve()).as_posix()
    return {"path": path, "sha256": _sha256(*_state(file))}


def array_of(value: Any, root: Path) -> Any:
    """Return the numbers of a value: a number or a list as it is, and of a reference a NumPy array.

    A picture becomes numbers from 0 to 1: [height, width] of a grey one, else [height, width, 3]. `root` is
    the project's folder. Raise ValueError, with the reason, for a file that is missing, torn, outside the
    project or not the one that was referred to; ConfigError if a package is missing.
    """
    if not is_reference(value):
        return value
    file, media = file_of(value, root)
    try:
        if media and not media.startswith(IMAGE):
            raise ValueError("a sound is no array of numbers")
        return _picture(file) if media else _entry(file, value)
    except ConfigError:
        raise
    except Exception as error:  # Pillow and NumPy raise OSError, SyntaxError, ValueError and others
        problem = f"'{value['path']}' cannot be read"
        raise ValueError(f"{problem}: {type(error).__name__}: {error}") from error


def file_of(reference: Mapping[str, Any], root: Path) -> tuple[Path, str]:
    """Return the file that a reference refers to, and its type if it is a picture or a sound, else "".

    Raise ValueError, with the reason, for a file that is missing, outside the project or changed.
    """
    path = str(reference["path"])
    file = (root / path).resolve()
    if not file.is_relative_to(root.resolve()):
        raise ValueError(f"'{path}' lies outside the project")
    if not file.is_file():
        raise ValueError(f"there is no file '{path}'")
    if _sha256(*_state(file)) != reference["sha256"]:
        raise ValueError(f"'{path}' has changed since the row was made")
    with file.open("rb") as stream:
        return file, media_type(stream.read(HEAD))


def numbers_of(value: Any, root: Path) -> Any:
    """Return a value with nested lists in place of a reference. Raise what `array_of` raises."""
    return array_of(value, root).tolist() if is_reference(value) else value


def columns_of(file: Path) -> dict[str, Any]:
    """Return the arrays of an .npz file by name; the array of an .npy file, mapped into memory, as `array`.

    Raise ConfigError if NumPy is missing, ValueError or OSError for a file that is no array of plain values.
    """
    need("a NumPy array", "numpy")
    import numpy

    if file.suffix.lower() == ".npy":
        return {"array": numpy.load(file, mmap_mode="r", allow_pickle=False)}
    with numpy.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def numbers_in(value: Any) -> Iterator[tuple[int, str]]:
    """Yield the size and a hash of each array inside a value of a row, and of each file that it refers to.

    Equal numbers have equal hashes, whether they are whole or not and however they are nested. A file counts
    as an array of more than MOST_NUMBERS numbers.
    """
    if is_reference(value):
        place = f"{value['sha256']} {value.get('column')} {value.get('index')}"
        yield MOST_NUMBERS + 1, place
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from numbers_in(inner)
    elif isinstance(value, list):
        numbers = [*_flat(value)]
        if None in numbers:
            for inner in value:
                yield from numbers_in(inner)
        else:
            packed = struct.pack(f"{len(numbers)}d", *numbers)
            yield len(numbers), hashlib.sha256(packed).hexdigest()


def _flat(values: list[Any]) -> Iterator[float | None]:
    """Yield the numbers of nested lists; None, and no more, for anything else."""
    for value in values:
        if isinstance(value, list):
            yield from _flat(value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**1000:
            yield float(value)
        else:
            yield None


def _picture(file: Path) -> Any:
    need("a picture", "PIL", "numpy")
    import numpy
    from PIL import Image

    with Image.open(file) as picture:
        grey = picture.mode in ("1", "L", "I", "I;16", "F", "LA")
        most = 65535 if picture.mode.startswith("I") else 255
        return numpy.asarray(picture if most > 255 else picture.convert("L" if grey else "RGB")) / most


def _entry(file: Path, value: Mapping[str, Any]) -> Any:
    array = _arrays(*_state(file))[value.get("column") or "array"]
    return array[int(value["index"])]


def _state(file: Path) -> tuple[Path, int, int]:
    """Return a file with its size and time of change, by which its hash and its arrays are kept."""
    status = file.stat()
    return file, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4096)
def _sha256(file: Path, size: int, changed_ns: int) -> str:
    return file_sha256(file)


@lru_cache(maxsize=4)
def _arrays(file: Path, size: int, changed_ns: int) -> dict[str, Any]:
    return columns_of(file)
