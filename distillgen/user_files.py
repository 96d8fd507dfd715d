"""The files of users: what a file is, by its first bytes, and the text in it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from distillgen.errors import ConfigError

HEAD = 4096  # bytes at the beginning of a file that show what it is
_PACKED: dict[bytes, tuple[str, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": (".gz", gzip.open),
    b"BZh": (".bz2", bz2.open),
    b"\xfd7zXZ\0": (".xz", lzma.open),
    b"\x28\xb5\x2f\xfd": (".zst", lambda stream: _zstandard(stream)),
}
PACKED = tuple(ending for ending, _ in _PACKED.values())
_ZSTANDARD = ("compression", "backports")  # packages with a module zstd
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)
_ENCODINGS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}
_OTHERS = {
    b"version "
    b"https://git-lfs.github.com/spec": "a Git LFS pointer and not the file itself: fetch that with 'git "
    "lfs pull'",
    b"PAR1": "a Parquet file: give it the ending .parquet, or say format: parquet where a source reads it",
    b"ARROW1": "an Arrow file: save it as Parquet or JSON Lines",
    b"SQLite format 3\0": "a SQLite database: export the table as CSV",
    b"%PDF": "a PDF: a source reads it with the ending .pdf",
    b"\xd0\xcf\x11\xe0": "a file of an old Office: save the sheet as CSV, or the document as text",
    b"\x89HDF": "an HDF5 file: save it as Parquet or JSON Lines",
    b"\x93NUMPY": "a NumPy array: a source reads it with the ending .npy",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"7z\xbc\xaf": "a 7z archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
}


def what_is(head: bytes, *, page: bool = False) -> str:
    """Return what a file with these first bytes is, and a remedy; "" if it may be text.

    A web page is text, unless `page` is true.
    """
    for magic, description in _OTHERS.items():
        if head.startswith(magic):
            return description
    if head.startswith(b"PK\x03\x04"):
        if b"xl/" in head:
            return "an Excel workbook: save the sheet as CSV"
        return (
            "a Word document: a source reads it with the ending .docx"
            if b"word/" in head
            else "a ZIP archive (or an Office file): unpack it"
        )
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower()
    if page and start.startswith((b"<!doctype", b"<html", b"<?xml")):
        remedy = "download the file itself (on GitHub 'raw', on the Hub 'resolve' in place of 'blob')"
        return f"a web page or XML and no data: {remedy}"
    if b"\0" in head and encoding_of(head) == "utf-8":
        return "binary data and no text"
    return ""


def ending_of(path: Path) -> str:
    """Return the ending that shows the format of a file, packed or not."""
    endings = [ending.lower() for ending in path.suffixes]
    return next((ending for ending in endings[::-1] if ending not in PACKED), "")


def encoding_of(head: bytes) -> str:
    """Return the encoding of a text with these first bytes. Marks or zero bytes show UTF-16 and UTF-32."""
    for mark, encoding in _ENCODINGS.items():
        if head.startswith(mark):
            return encoding
    if len(head) > 3 and head[0] and head[2] and not head[1] and not head[3]:
        return "utf-16-le"
    return "utf-16-be" if len(head) > 3 and head[1] and head[3] and not head[0] and not head[2] else "utf-8"


def first_bytes(path: Path) -> bytes:
    """Return the first bytes of a file, as they are on disk. Raise ConfigError if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(HEAD)
    except OSError as error:
        raise ConfigError(f"cannot be read: {(error.strerror or str(error)).lower()}", path=path) from error


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of any kind: give its unpacked bytes. Raise ConfigError if it is cut off or unreadable."""
    head = first_bytes(path)
    unpack = next((unpack for magic, (_, unpack) in _PACKED.items() if head.startswith(magic)), None)
    with path.open("rb") as file:
        try:
            yield unpack(file) if unpack else file
        except _damaged() as error:
            if unpack:
                problem = f"the packed file is damaged or cut off: {error}"
                raise ConfigError(problem, path=path) from error
            raise


@contextmanager
def opened(path: Path, *, page: bool = False) -> Iterator[tuple[IO[bytes], str]]:
    """Open a text file: give its unpacked bytes as a stream, and their encoding.

    Raise ConfigError, with a remedy, if the file is not text, is cut off or cannot be read. A web page is
    text, unless `page` is true.
    """
    head = first_bytes(path)
    unpack = next((unpack for magic, (_, unpack) in _PACKED.items() if head.startswith(magic)), None)
    try:
        with path.open("rb") as file:
            stream: IO[bytes] = unpack(file) if unpack else file
            if unpack:
                head = stream.read(HEAD)
                stream.seek(0)
            if description := what_is(head, page=page):
                raise ConfigError(f"this is {description}", path=path)
            yield stream, encoding_of(head)
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"not {error.encoding.upper()} text ({error.reason}); save the file as UTF-8", path=path
        ) from error
    except _damaged() as error:
        if unpack:
            raise ConfigError(f"the packed file is damaged or cut off: {error}", path=path) from error
        raise


def _damaged() -> tuple[type[Exception], ...]:
    """Return the exceptions of damaged files, with that of the Zstandard module in use."""
    loaded = (sys.modules.get(f"{name}.zstd") for name in _ZSTANDARD)
    return (*_DAMAGED, *(module.ZstdError for module in loaded if module))


def _zstandard(stream: IO[bytes]) -> Any:
    """Return a reader of Zstandard, which Python has since 3.14 and the extra 'documents' brings earlier."""
    for name in _ZSTANDARD:
        if find_spec(name) and find_spec(f"{name}.zstd"):
            return import_module(f"{name}.zstd").open(stream)
    remedy = "pip install 'distillgen[documents]', or unpack it with 'zstd -d'"
    raise ConfigError(f"this is packed with Zstandard: {remedy}", path=getattr(stream, "name", None))


_LEFT_BY_EDITORS = (".swp", ".swo", ".tmp", ".bak", ".orig", ".rej", ".part", ".crdownload", "~")
_OF_MACHINES = {"node_modules", "__pycache__", "site-packages", "__MACOSX", "Thumbs.db", "desktop.ini"}


def inner_files(folder: Path) -> list[Path]:
    """Return the files of a folder and its folders, sorted by name.

    Hidden files are left out, and so are the files of version control, packages, operating systems and
    editors.
    """
    files = list[str]()
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_left_out(name)]
        files += [os.path.join(place, name) for name in names if not _is_left_out(name)]
    files.sort(key=lambda file: file.split(os.sep))
    return [Path(file) for file in files if os.path.isfile(file)]


def _is_left_out(name: str) -> bool:
    if name.startswith((".", "~$")) or name.endswith(_LEFT_BY_EDITORS) or name in _OF_MACHINES:
        return True
    return len(name) > 1 and name[0] == name[-1] == "#"
