"""Readers of NumPy files, and of folders of pictures or sounds with their labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.record import SPLIT, TEST, TRAIN, VALIDATION, digest
from distillgen.rows.arrays import MOST_NUMBERS, columns_of, reference
from distillgen.rows.jsonl import read_rows
from distillgen.rows.media import AUDIO, IMAGE, FileFault, inside, look_up, place_in
from distillgen.rows.reading import Reading, Row, Rows, plain, reported

METADATA = "metadata.jsonl"
"""The file of a folder of pictures or sounds that has a row for each, with its name in `file_name`."""

FILE_NAME, FILE_NAMES = "file_name", "file_names"
PARTS = (TRAIN, VALIDATION, TEST)


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


def media_rows(path: Path, reading: Reading) -> Rows:
    """Yield the one row of a picture or a sound."""
    yield _medium(path, path.parent, {"file": path.name}, reading, "")


def folder_rows(folder: Path, files: Sequence[Path], reading: Reading) -> Rows:
    """Yield a row for each picture or sound, with `image` or `audio`, `file` and, from the names of its
    folders, `label`; with folders train, validation and test also `split`.

    With a file metadata.jsonl, yield its rows, each with the file that `file_name` names. Folders train,
    validation and test may each have one.
    """
    if descriptions := descriptions_in(folder):
        for description in descriptions:
            yield from _described(description, folder, reading)
        return
    places = [file.parts[len(folder.parts) :] for file in files]
    splits = all(place[0] in PARTS for place in places)
    labelled = any(len(place) > 1 + splits for place in places)
    for file, place in zip(files, places, strict=True):
        row: dict[str, Any] = {"file": "/".join(place)}
        if labelled:
            row["label"] = "/".join(place[splits:-1]) or None
        if splits:
            row[SPLIT] = place[0]
        yield _medium(file, folder, row, reading, f"/{row['file']}")


def descriptions_in(folder: Path) -> list[Path]:
    """Return the files metadata.jsonl of a folder of pictures or sounds, or of its parts."""
    if (folder / METADATA).is_file():
        return [folder / METADATA]
    return [file for part in PARTS if (file := folder / part / METADATA).is_file()]


def _described(description: Path, folder: Path, reading: Reading) -> Iterator[tuple[str, Row, str]]:
    """Yield the rows of metadata.jsonl, with their pictures and sounds."""
    inner = description.parent
    part = {SPLIT: inner.name} if inner != folder else {}
    for line, row in read_rows(description):
        place = f"{description.as_posix().removeprefix(folder.as_posix())}:{line}"
        if isinstance(row, str):
            yield place, row, ""
        elif not any(map(_column, row)):
            yield place, f"there is no '{FILE_NAME}' in the row", ""
        elif isinstance(name := row.get(FILE_NAME), str) and len([*filter(_column, row)]) == 1:
            others = {field: value for field, value in row.items() if field != FILE_NAME}
            if not _is_file(inner / name):
                fault = f"there is no picture or sound '{name[:100]}' in the folder"
                yield place, FileFault(fault), ""
            else:
                yield _medium(inner / name, inner, {"file": name, **others, **part}, reading, place)
        else:
            yield place, _with_references(row, part, inner, reading), ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a zero byte
        return False


def _column(name: str) -> str:
    """Return the field that a column of metadata.jsonl names files for, as `datasets` does: `file_name` for
    `image`, `file_names` for `images`, `chart_file_name` and `chart_file_names` for `chart`; "" for another.
    """
    for ending, field in ((FILE_NAME, IMAGE), (FILE_NAMES, f"{IMAGE}s")):
        if name == ending:
            return field
        if name.endswith(f"_{ending}"):
            return name.removesuffix(f"_{ending}")
    return ""


def _with_references(row: Mapping[str, Any], part: Mapping[str, str], folder: Path, reading: Reading) -> Row:
    """Return a row with references in place of its names of files, or the reason why it has none."""
    fields: dict[str, Any] = {}
    for name, value in row.items():
        try:
            if not (field := _column(name)) or value is None:
                fields[field or name] = value
            elif isinstance(value, list):
                fields[field] = [look_up(str(one), folder, reading.root).reference for one in value]
            else:
                fields[field] = look_up(str(value), folder, reading.root).reference
        except ValueError as error:
            return FileFault(f"'{name}': {error}")
    return {**fields, **part}


def _medium(
    file: Path, folder: Path, row: dict[str, Any], reading: Reading, place: str
) -> tuple[str, Row, str]:
    """Return the place, the row and the item of a picture or a sound. Rows with one file are one item."""
    if place_in(file, folder) is None:
        return place, FileFault("the link leads out of the folder; copy the file there"), ""
    try:
        medium = inside(file, reading.root)
    except ValueError as error:
        return place, FileFault(error), ""
    kind = AUDIO if medium.media.startswith(AUDIO) else IMAGE
    return place, {kind: medium.reference, **row}, digest(medium.sha256)
