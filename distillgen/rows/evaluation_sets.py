"""The items of an evaluation set, and the texts in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from distillgen.errors import ConfigError
from distillgen.project import read_text
from distillgen.record import META, SPLIT, is_reference
from distillgen.rows.jsonl import read_rows
from distillgen.rows.media import referred

ROWS = (".jsonl", ".ndjson", ".json")


def items(
    path: Path, media: Mapping[str, str] = MappingProxyType({}), root: Path | None = None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield every item with its line: a row of JSON Lines, or a line of text as the field `text`.

    The fields in `media` refer to the files that they name, in the project `root`; one that names no such
    file keeps its value.
    """
    if not any(ending.lower() in ROWS for ending in path.suffixes[-2:]):
        yield from (
            (line, {"text": text}) for line, text in enumerate(read_text(path).split("\n"), 1) if text.strip()
        )
        return
    for line, row in read_rows(path):
        if isinstance(row, str):
            raise ConfigError(f"contamination: {row}", path=path, line=line)
        references = dict[str, Any]()
        for name in media.keys() & row.keys():
            with suppress(ValueError):
                references[name] = referred(row[name], media[name], path.parent, root or path.parent)
        yield line, row | references


def texts(value: Any) -> Iterator[str]:
    """Yield the texts in a value of a row, also in nested ones, but not in `meta`, `split` and references."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping) and not is_reference(value):
        yield from (
            text for name, inner in value.items() if name not in (META, SPLIT) for text in texts(inner)
        )
    elif isinstance(value, list):
        yield from (text for inner in value for text in texts(inner))
