"""A disk for SQLite that notes each write and sync, and can fail: what a power loss leaves of a file.

SQLite reaches its files through a VFS, a table of functions. `FaultyDisk` puts functions of its own in front
of those of the default VFS that open, read, write, cut, sync and delete files, in the library that Python's
sqlite3 has loaded. So the product's code runs unchanged on it.
"""

import ctypes
import random
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    addressof,
    c_char_p,
    c_int,
    c_int64,
    c_void_p,
    cast,
    string_at,
)
from pathlib import Path
from typing import NamedTuple

SECTOR = 512  # bytes that a disk writes whole or not at all
CANNOT_OPEN, IO_ERROR = 14, 10

OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)  # SQLite keeps the pointer to the name
DELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
READ = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
WRITE = READ
TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
SYNC = CFUNCTYPE(c_int, c_void_p, c_int)


class Vfs(Structure):
    """The beginning of `sqlite3_vfs`, and the rest of its functions."""

    _fields_ = (
        ("version", c_int),
        ("file_bytes", c_int),
        ("longest_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", OPEN),
        ("delete", DELETE),
        ("others", c_void_p * 14),
    )


class Methods(Structure):
    """`sqlite3_io_methods`."""

    _fields_ = (
        ("version", c_int),
        ("close", c_void_p),
        ("read", READ),
        ("write", WRITE),
        ("truncate", TRUNCATE),
        ("sync", SYNC),
        ("others", c_void_p * 13),
    )


class Step(NamedTuple):
    """Something that happened to a file, or what the program was told: `kind` is then "told"."""

    kind: str
    file: str
    at: int = 0
    content: bytes = b""


def library() -> ctypes.CDLL | None:
    """The SQLite library that Python's sqlite3 uses; None if it is a part of Python."""
    sqlite3.connect(":memory:").close()
    paths = {
        line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libsqlite3" in line
    }
    return ctypes.CDLL(paths.pop()) if paths else None


class FaultyDisk(AbstractContextManager["FaultyDisk"]):
    """While it is entered, all files of SQLite in this process are on it."""

    def __init__(self, folder: Path, fail_at: int = 0) -> None:
        """Note the steps in `folder`. The step `fail_at`, counted from 1, fails, and all after it."""
        self.steps: list[Step] = []
        self.folder, self.fail_at, self.count = str(folder), fail_at, 0
        self._library = library()
        self._library.sqlite3_vfs_find.restype = c_void_p
        self._usual = Vfs.from_address(self._library.sqlite3_vfs_find(None))
        self._vfs = Vfs.from_buffer_copy(self._usual)
        self._vfs.name, self._vfs.open, self._vfs.delete = b"faulty", OPEN(self._open), DELETE(self._delete)
        self._methods: dict[int, Methods] = {}
        self._names: dict[int, str] = {}

    def __enter__(self) -> "FaultyDisk":
        self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1)
        return self

    def __exit__(self, *error: object) -> None:
        self._library.sqlite3_vfs_register(ctypes.byref(self._usual), 1)
        self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs))

    def told(self, what: str) -> None:
        """Note that the program was told that something is durable."""
        self.steps.append(Step("told", what))

    def _fails(self) -> bool:
        self.count += 1
        return 0 < self.fail_at <= self.count

    def _open(self, vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
        path = string_at(name).decode() if name else ""
        if path.startswith(self.folder) and self._fails():
            cast(file, POINTER(c_void_p))[0] = None
            return CANNOT_OPEN
        code = self._usual.open(vfs, name, file, flags, out)
        if code == 0 and path.startswith(self.folder):
            self._names[file] = Path(path).name
            place = cast(file, POINTER(c_void_p))
            if place[0] not in self._methods:
                self._methods[place[0]] = self._noting(Methods.from_address(place[0]))
            place[0] = addressof(self._methods[place[0]])
        return code

    def _noting(self, usual: Methods) -> Methods:
        """The functions of an open file, which note what they do."""
        noting = Methods.from_buffer_copy(usual)

        def read(file: int, buffer: int, count: int, at: int) -> int:
            return IO_ERROR if self._fails() else usual.read(file, buffer, count, at)

        def write(file: int, buffer: int, count: int, at: int) -> int:
            if self._fails():
                return IO_ERROR
            self.steps.append(Step("write", self._names[file], at, string_at(buffer, count)))
            return usual.write(file, buffer, count, at)

        def truncate(file: int, size: int) -> int:
            if self._fails():
                return IO_ERROR
            self.steps.append(Step("truncate", self._names[file], size))
            return usual.truncate(file, size)

        def sync(file: int, flags: int) -> int:
            if self._fails():
                return IO_ERROR
            code = usual.sync(file, flags)
            self.steps.append(Step("sync", self._names[file]))
            return code

        noting.read, noting.write = READ(read), WRITE(write)
        noting.truncate, noting.sync = TRUNCATE(truncate), SYNC(sync)
        return noting

    def _delete(self, vfs: int, name: bytes, sync: int) -> int:
        path = Path(name.decode())
        if str(path).startswith(self.folder):
            self.steps.append(Step("delete", path.name))
        return self._usual.delete(vfs, name, sync)


def after_power_loss(steps: Sequence[Step], draw: random.Random) -> dict[str, bytes]:
    """The content of the files if the power is lost after the last step.

    What was synced is there, and of each later write any part of its sectors, in any order.
    """
    whole: dict[str, bytearray] = {}
    pending: dict[str, list[Step]] = {}
    for step in steps:
        if step.kind in ("write", "truncate"):
            pending.setdefault(step.file, []).append(step)
        elif step.kind == "sync":
            content = whole.setdefault(step.file, bytearray())
            for earlier in pending.pop(step.file, []):
                _apply(content, earlier)
        elif step.kind == "delete":
            whole.pop(step.file, None)
            pending.pop(step.file, None)
    for file, waiting in pending.items():
        content = whole.setdefault(file, bytearray())
        share = draw.choice((0.0, 0.3, 0.7, 1.0))
        for step in waiting:
            for part in _sectors(step):
                if draw.random() < share:
                    _apply(content, part)
    return {file: bytes(content) for file, content in whole.items()}


def _apply(content: bytearray, step: Step) -> None:
    if step.kind == "truncate":
        del content[step.at :]
        return
    content.extend(bytes(max(0, step.at - len(content))))
    content[step.at : step.at + len(step.content)] = step.content


def _sectors(step: Step) -> list[Step]:
    """The parts of a write that a disk stores one by one."""
    if step.kind == "truncate":
        return [step]
    parts, at = [], step.at
    while at < step.at + len(step.content):
        end = min((at // SECTOR + 1) * SECTOR, step.at + len(step.content))
        parts.append(step._replace(at=at, content=step.content[at - step.at : end - step.at]))
        at = end
    return parts
