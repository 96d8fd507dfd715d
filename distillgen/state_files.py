"""The files of a run besides its ledger. A power loss can leave them empty, cut short or full of zeros.

Each is checked before it is used, and a damaged one is written again from the ledger.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from distillgen.errors import DistillgenError

MARKS = ("round.json", "manifest.json", "rounds.json", "trial.json", "search.json")
"""Files that mark the files beside them as whole."""

SEEDS = "seeds.json"
"""The file with the figures of the runs of several seeds, which are in folders beside it."""

PARTIAL = ".partial"
"""The ending of a file of rows while it is being written."""

_BLOCK = 1 << 20
BUFFER_BYTES = 1 << 17


class Damaged(DistillgenError):
    """A file of a run is damaged."""

    def __init__(self, path: Path, how: str) -> None:
        self.path = path
        remedy = (
            "run the command that made it again: the file is made anew from the ledger, without a request"
        )
        super().__init__(f"'{path}' is damaged ({how}); {remedy}")


def load_state(path: Path, *keys: str) -> dict[str, Any]:
    """Return the JSON object in a file. Raise Damaged if it lacks one of the keys, FileNotFoundError if there
    is no file.
    """
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
    if missing := [key for key in keys if key not in value]:
        raise Damaged(path, f"it has no '{missing[0]}'")
    return value


def is_whole(path: Path, rows: int | None = None) -> bool:
    """Whether a file of JSON or text is whole, and has this number of rows."""
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


def remove_damaged(files: Sequence[Path]) -> None:
    """Remove damaged files and the marks beside them, so that a run writes them again."""
    for path in files:
        for file in (*(path.parent / mark for mark in MARKS), path):
            file.unlink(missing_ok=True)


def damaged_files(directory: Path) -> list[Path]:
    """Return the damaged files, except those of stages, whose rows `usage.json` counts."""
    counted, damaged = {directory / "corpus.jsonl", directory / "dropped.jsonl"}, []
    for path in directory.rglob("*.json*"):
        if path in counted or path.suffix not in (".json", ".jsonl") or path.parent.name == "stages":
            continue
        never_empty = path.name == "records.jsonl" or path.name.startswith("evaluation")
        if path.is_file() and not (is_whole(path) and (path.stat().st_size or not never_empty)):
            damaged.append(path)
    return damaged


@contextlib.contextmanager
def partial_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file, which replaces the old one when the block ends, also by an exception."""
    partial = path.with_name(path.name + PARTIAL)
    stream = new_file(partial)
    try:
        yield stream
    finally:
        stream.close()  # Windows renames no open file
        os.replace(partial, path)


def new_file(path: Path) -> IO[bytes]:
    """Open a new file. Who reads the one that a killed process left keeps it: it is not emptied."""
    path.unlink(missing_ok=True)
    return path.open("wb", buffering=BUFFER_BYTES)


def whole_folder(folder: Path, write: Callable[[Path], object]) -> Path:
    """Return a folder; let `write` make it, unless it is there. A kill leaves nothing under its name."""
    if not folder.exists():
        partial = folder.with_name(folder.name + PARTIAL)
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        write(partial)
        partial.rename(folder)
    return folder


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it is there. A kill leaves nothing under its name: half of it could look whole."""
    if folder.is_symlink():
        folder.unlink()
        return
    stale = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(stale, ignore_errors=True)  # of a process that was killed
    with contextlib.suppress(FileNotFoundError):
        folder.rename(stale)
        shutil.rmtree(stale, ignore_errors=True)


def replace_link(link: Path, target: Path | str) -> None:
    """Let a link point to another place, so that there is a link at every moment."""
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    os.replace(fresh, link)


def replace_text(path: Path, text: str) -> None:
    """Replace a file at once, so that a reader never sees half of it."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Replace a file at once, so that a reader never sees half of it. One process may write it at a time."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def write_shared(path: Path, content: bytes) -> None:
    """Write a file that is named by its content, as many threads and processes may do at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{uuid4().hex}.new")
    fresh.write_bytes(content)
    os.replace(fresh, path)
