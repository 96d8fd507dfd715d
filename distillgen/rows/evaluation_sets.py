"""Finding the items of an evaluation set again in other texts (GPT-3, Brown et al. 2020, appendix C)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.project import read_text
from distillgen.record import META, SPLIT
from distillgen.rows.jsonl import read_rows

ROWS = (".jsonl", ".ndjson", ".json")


def items(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Every item of an evaluation set with its line: a row of JSONL, or a line of text, as the field `text`."""
    if not any(ending.lower() in ROWS for ending in path.suffixes[-2:]):
        yield from (
            (line, {"text": text}) for line, text in enumerate(read_text(path).split("\n"), 1) if text.strip()
        )
        return
    for line, row in read_rows(path):
        if isinstance(row, str):
            raise ConfigError(f"contamination: {row}", path=path, line=line)
        yield line, row


def texts(value: Any) -> Iterator[str]:
    """The texts in a value of a row: itself, or those inside it; what is ours is none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (
            text for name, inner in value.items() if name not in (META, SPLIT) for text in texts(inner)
        )
    elif isinstance(value, list):
        yield from (text for inner in value for text in texts(inner))
