"""Files of a run besides its ledger. Each can be made again from that, so each is checked before it is believed: a power
loss leaves files that are empty, cut short or full of zeros.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from distillgen.errors import DistillgenError

MARKS = ("round.json", "manifest.json", "rounds.json")
"""Files that say that what lies beside them is whole."""

PARTIAL = ".partial"
"""What the name of a file of rows ends in while the file is being written."""

_BLOCK = 1 << 20
BUFFER_BYTES = 1 << 17


class Damaged(DistillgenError):
    """A file of a run is not what was written."""

    def __init__(self, path: Path, how: str) -> None:
        remedy = "run the same command again that made it: it is made anew from the ledger, and nothing answered is asked again"
        super().__init__(f"'{path}' is damaged ({how}); {remedy}")


def load_state(path: Path, *needed: str) -> dict[str, Any]:
    """A JSON object with these keys. Raises Damaged, and FileNotFoundError where there is none."""
    content = path.read_bytes()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        how = (
            "it is empty"
            if not content
            else "it is full of zeros"
            if not content.strip(b"\0")
            else f"it is not JSON: {error}"
        )
        raise Damaged(path, how) from error
    if not isinstance(value, dict):
        raise Damaged(path, "it holds no object")
    if missing := [key for key in needed if key not in value]:
        raise Damaged(path, f"it has no '{missing[0]}'")
    return value


def is_whole(path: Path, rows: int | None = None) -> bool:
    """Whether a file of JSON or text holds what was written, and so many rows."""
    lines, last = 0, b""
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            if b"\0" in block:
                return False
            lines, last = lines + block.count(b"\n"), block[-64:]
    if path.suffix == ".jsonl":
        return last[-1:] in (b"", b"\n") and rows in (None, lines)
    return bool(last) and (
        path.suffix != ".json" or last.rstrip()[-1:] in (b"}", b"]", b'"') or last.strip().isalnum()
    )


def remove_damaged(directory: Path) -> list[Path]:
    """Remove what cannot be believed, and what says that the files beside it are whole, so that a run makes it again."""
    damaged = list(_damaged(directory))
    for path in damaged:
        for each in (path, *(path.parent / mark for mark in MARKS)):
            each.unlink(missing_ok=True)
    return damaged


def _damaged(directory: Path) -> Iterator[Path]:
    """Those whose rows `usage.json` counts are looked at with their stages."""
    counted = {directory / "corpus.jsonl", directory / "dropped.jsonl"}
    for path in directory.rglob("*.json*"):
        if path in counted or path.suffix not in (".json", ".jsonl") or path.parent.name == "stages":
            continue
        filled = path.name == "records.jsonl" or path.name.startswith("evaluation")
        if path.is_file() and not (is_whole(path) and (path.stat().st_size or not filled)):
            yield path


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place when the stage ends in any orderly way; until then the former one stands."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb", buffering=BUFFER_BYTES) as stream:
        try:
            yield stream
        finally:
            stream.flush()
            os.replace(partial, path)


def replace_text(path: Path, text: str) -> None:
    """Replace a file at once, so that a reader never sees half of it."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)
