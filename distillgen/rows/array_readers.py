"""Readers of NumPy files, and of folders of pictures with their labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from distillgen.errors import ConfigError
from distillgen.record import SPLIT, TEST, TRAIN, VALIDATION, digest
from distillgen.rows.arrays import MOST_NUMBERS, PICTURES, columns_of, reference
from distillgen.rows.jsonl import read_rows
from distillgen.rows.reading import Reading, Row, Rows, plain, reported
from distillgen.user_files import first_bytes, inner_files

METADATA = "metadata.jsonl"
"""The file of a folder of pictures that has a row a picture, with the picture's name in `file_name`."""

FILE_NAME = "file_name"


def array_rows(path: Path, reading: Reading) -> Rows:
    """Yield a row for each entry of the first axis, with a field for each array of the file: `array` of an
    .npy file.
    """
    with reported(path):
        columns = columns_of(path)
    lengths = {name: len(array) if array.ndim else 0 for name, array in columns.items()}
    if len({*lengths.values()}) != 1 or 0 in lengths.values():
        sizes = ", ".join(f"'{name}' has {length}" for name, length in lengths.items())
        raise ConfigError(f"an array has one entry a row, and all have equally many: {sizes}", path=path)
    chosen = reading.columns
    columns = {name: array for name, array in columns.items() if chosen is None or name in chosen}
    large = [name for name, array in columns.items() if array[0].size > MOST_NUMBERS]
    place = reference(path, reading.root) if large else {}
    for i in range(next(iter(lengths.values()))):
        row: dict[str, Any] = {}
        for name, array in columns.items():
            if name in large:
                column = {"column": name} if path.suffix.lower() == ".npz" else {}
                row[name] = {**place, **column, "index": i}
            else:
                row[name] = array[i].tolist()
        yield f":{i + 1}", _finite(row, lengths), ""


def _finite(row: dict[str, Any], columns: Any) -> Row:
    """Return a row, or the reason why it cannot be one: JSON has neither NaN nor infinity."""
    for name, value in row.items():
        if _holds_nan(value):
            return f"'{name}' holds NaN or infinity"
    return plain(row, columns)


def _holds_nan(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_holds_nan, value))
    return isinstance(value, float) and not abs(value) < float("inf")


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures of a folder, sorted by name."""
    return [file for file in inner_files(folder) if file.suffix.lower() in PICTURES]


def picture_rows(path: Path, reading: Reading) -> Rows:
    """Yield the one row of a picture."""
    yield _picture(path, path.parent, {"file": path.name}, reading, "")


def folder_rows(folder: Path, pictures: Sequence[Path], reading: Reading) -> Rows:
    """Yield a row for each picture, with `image`, `file` and, from the names of its folders, `label`; with
    folders train, validation and test also `split`.

    With a file metadata.jsonl, yield its rows, each with the picture that `file_name` names as `image`.
    """
    if (folder / METADATA).is_file():
        yield from _described(folder, reading)
        return
    places = [PurePosixPath(picture.relative_to(folder).as_posix()) for picture in pictures]
    splits = all(place.parts[0] in (TRAIN, VALIDATION, TEST) for place in places)
    labelled = any(len(place.parts) > 1 + splits for place in places)
    for picture, place in zip(pictures, places, strict=True):
        row: dict[str, Any] = {"file": str(place)}
        if labelled:
            row["label"] = "/".join(place.parts[splits:-1]) or None
        if splits:
            row[SPLIT] = place.parts[0]
        yield _picture(picture, folder, row, reading, f"/{place}")


def _described(folder: Path, reading: Reading) -> Iterator[tuple[str, Row, str]]:
    """Yield the rows of metadata.jsonl, with their pictures."""
    for line, row in read_rows(folder / METADATA):
        place = f"/{METADATA}:{line}"
        if isinstance(row, str):
            yield place, row, ""
        elif not isinstance(name := row.get(FILE_NAME), str):
            yield place, f"there is no '{FILE_NAME}' in the row", ""
        elif not (folder / name).is_file():
            yield place, f"there is no picture '{name}' in the folder", ""
        else:
            others = {field: value for field, value in row.items() if field != FILE_NAME}
            yield _picture(folder / name, folder, {"file": name, **others}, reading, place)


def _picture(
    file: Path, folder: Path, row: dict[str, Any], reading: Reading, place: str
) -> tuple[str, Row, str]:
    """Return the place, the row and the item of a picture. Rows with one picture are one item."""
    if not file.resolve().is_relative_to(folder.resolve()):
        return place, "the link leads out of the folder; copy the picture there", ""
    if not first_bytes(file).startswith(PICTURES.get(file.suffix.lower(), b"\0none")):
        return place, f"'{file.name}' is neither PNG nor JPEG, or has another's ending", ""
    image = reference(file, reading.root)
    return place, {"image": image, **row}, digest(image["sha256"])
