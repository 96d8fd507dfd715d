"""Readers of texts and documents: each is a row, or a row for each of its pieces."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.project import read_text
from distillgen.record import digest
from distillgen.rows.cut import Cutter, place_of
from distillgen.rows.documents import Document, Unconverted, convert
from distillgen.rows.pictures import pictures_in
from distillgen.rows.reading import Reading, Rows
from distillgen.text.chunks import Piece
from distillgen.user_files import PACKED, ending_of

log = logging.getLogger("distillgen")


def text_rows(path: Path, reading: Reading) -> Rows:
    """Yield a text, whole or in pieces. The pieces of a file in a folder are one item."""
    try:
        text = read_text(path)
    except ConfigError as error:
        yield "", error.message, ""
        return
    cutter = reading.cutter
    if cutter is None:
        content = text.strip()
        pieces = [Piece(content, 0, len(content), ())] if content else []
    else:
        pieces = _pieces(text, path, cutter)
    for place, row, item, piece in _text_rows(text, pieces, path, reading):
        yield place, {**row, **(cutter.place(piece) if cutter else {})}, item


def document_rows(path: Path, reading: Reading) -> Rows:
    """Yield the Markdown of a document, whole or in pieces, with the pages on which each stands."""
    return converted_rows(conversion_of(path, reading), path, reading)


def conversion_of(path: Path, reading: Reading) -> Document | Unconverted:
    """Return a document as Markdown, or the reason why it has none."""
    return convert(path, ending_of(path), reading.convert, reading.conversions)


def converted_rows(document: Document | Unconverted, path: Path, reading: Reading) -> Rows:
    """Yield what a document became, whole or in pieces, with the pages on which each stands."""
    if isinstance(document, Unconverted):
        yield "", document, ""
        return
    text = document.text
    cutter = reading.cutter
    pieces = _pieces(text, path, cutter) if cutter else [Piece(text, 0, len(text), ())]
    for place, row, item, piece in _text_rows(text, pieces, path, reading):
        last = piece.start + len(piece.text.rstrip()) - 1
        pages = {"page": document.page(piece.start), "last_page": document.page(last)}
        pictures = {"pictures": pictures_in(piece.text)} if reading.convert.pictures else {}
        yield place, {**row, **place_of(piece), **pages, **pictures}, item


def _text_rows(
    text: str, pieces: Sequence[Piece], path: Path, reading: Reading
) -> Iterator[tuple[str, dict[str, Any], str, Piece]]:
    """Yield the place, fields and item of each piece of a text."""
    title = next((line[2:].strip() for line in text.splitlines() if line.startswith("# ")), _stem(path))
    item = digest(text) if reading.folder else ""
    name = path.relative_to(reading.folder).as_posix() if reading.folder else path.name
    for i, piece in enumerate(pieces, 1):
        yield f"#{i}", {"text": piece.text, "title": title, "file": name, "piece": i}, item, piece


def _pieces(text: str, path: Path, cutter: Cutter) -> list[Piece]:
    """Return the pieces of a text. The log says what had to be cut apart."""
    notes: list[str] = []
    pieces = cutter.pieces(text, notes)
    for note in notes:
        log.info("%s: %s", path.name, note)
    return pieces


def _stem(file: Path) -> str:
    return file.name[: -len("".join(file.suffixes[-2:]))] if file.suffix.lower() in PACKED else file.stem
