"""JSON Lines: the rows of a file, and the mistakes in its lines."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.record import loads
from distillgen.user_files import HEAD, opened

DEEPEST = 200  # levels of lists and objects in a row; orjson writes 254


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield each row with the number of its line: its fields, or the reason why it is unreadable.

    The file may also be one JSON array: then the number is the place in the array, from 1. Raise ConfigError
    if the file is something else.
    """
    import jsonlines  # with attrs an eighth of what a command imports at its start

    with opened(path, page=True) as (stream, encoding):
        start = stream.read(HEAD).decode(encoding, "ignore").lstrip("\ufeff \t\r\n")[:1]
        stream.seek(0)
        if start not in ("{", "[", "") and path.suffix.lower() in (".csv", ".tsv"):
            remedy = f"make JSON Lines of it: distillgen export {path.name} --out {path.stem}.jsonl"
            raise ConfigError(f"this is a table, and rows of JSON are needed: {remedy}", path=path)
        lines: Iterable[Any] = stream if encoding.startswith("utf-8") else io.TextIOWrapper(stream, encoding)
        if start == "[":
            data = stream.read()
            if (rows := _array(data, encoding, path)) is not None:
                yield from ((number, _fields(row)) for number, row in enumerate(rows, 1))
                return
            lines = io.BytesIO(data) if encoding.startswith("utf-8") else io.StringIO(data.decode(encoding))
        reader = jsonlines.Reader(lines, loads=_row)
        for number in itertools.count(1):
            try:
                row = reader.read(allow_none=True)
            except EOFError:
                return
            except jsonlines.InvalidLineError as error:
                if error.line.strip():
                    if start == "{" and not isinstance(error.__cause__, _Twice):
                        _refuse_document(path)
                    yield number, _explained(error.__cause__ or error)
                    start = ""
                continue
            yield number, _fields(row)
            start = ""


def _fields(row: Any) -> dict[str, Any] | str:
    return row if isinstance(row, dict) else f"a row must be an object of fields, not {str(row)[:60]!r}"


def _array(data: bytes, encoding: str, path: Path) -> list[Any] | None:
    """Return the items of a file that is one JSON array; None if only its first line may be an array."""
    try:
        rows = _row(data.decode("utf-8-sig" if encoding == "utf-8" else encoding))
    except _Twice as error:
        raise ConfigError(str(error), path=path) from error
    except ValueError:
        return None
    return rows if isinstance(rows, list) else None


def _refuse_document(path: Path) -> None:
    """Raise ConfigError if the file is one JSON object over several lines."""
    with opened(path) as (stream, encoding):
        try:
            document = loads(stream.read().decode("utf-8-sig" if encoding == "utf-8" else encoding))
        except ValueError:
            return
    lists = [name for name, value in document.items() if isinstance(value, list)]
    remedy = "write it on one line"
    if lists:
        remedy = f"its rows may be in '{lists[0]}': jq -c '.{lists[0]}[]' {path.name} > rows.jsonl"
    raise ConfigError(f"this is one JSON object over several lines, and no row a line: {remedy}", path=path)


def _row(text: str | bytes) -> Any:
    """Parse a row. Raise ValueError if it is not JSON, is nested too deeply, or has a field twice."""
    value = loads(text)
    if (
        isinstance(text, str)
        and isinstance(value, dict | list)
        and len(_KEY.findall(text)) != _names_in(value)
    ):
        json.loads(text, object_pairs_hook=_once)
    return value


_KEY = re.compile(r'"\s*:')


def _names_in(value: Any) -> int:
    """Return the number of names in a row. Raise ValueError if it is nested deeper than rows are written."""
    number, parts = 0, [value]
    for _ in range(DEEPEST):
        inner = []
        for part in parts:
            if isinstance(part, dict):
                number += len(part)
                part = part.values()
            inner += [one for one in part if isinstance(one, dict | list)]
        if not inner:
            return number
        parts = inner
    raise ValueError("it is nested too deeply")


class _Twice(ValueError):
    """An object has a name twice."""


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise _Twice(f"the row has the field '{twice[0]}' twice")
    return dict(pairs)


def _explained(error: BaseException) -> str:
    if isinstance(error, _Twice):
        return str(error)
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text: {error.reason}; save the file as UTF-8"
    return f"not JSON: {error}"
