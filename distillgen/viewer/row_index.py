"""An index of a file of rows: a page of a million rows is read at once, also while the file grows.

It is a SQLite file in the folder `view` of the run, or in a folder for temporary files if the run cannot be
written. It holds where each row is, its id, its drop and its scores, and no text: texts are read from the
file of rows. It can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import orjson

from distillgen.errors import DistillgenError
from distillgen.platforms import lock, open_folder
from distillgen.record import META, Record, digest, loads_own, text_of
from distillgen.runs.directory import open_rows
from distillgen.state_files import Damaged

FOLDER = "view"
FORMAT = 2
FIRST_ROWS = 2_000  # committed at once, so that a page can show them
MORE_ROWS = 20_000
_TAIL = 256  # bytes before the end of what is indexed, by which a rewritten file is noticed
_META = b',"meta":{"id":'
_SCHEMA = f"""
CREATE TABLE file (inode, modified_ns, size, tail);
CREATE TABLE drops (drop_id INTEGER PRIMARY KEY, stage TEXT, filter TEXT);
CREATE TABLE names (name_id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE rows (position INTEGER PRIMARY KEY, start INTEGER, meta INTEGER, stop INTEGER, id TEXT,
  item TEXT, parent TEXT, drop_id INTEGER, content INTEGER);
CREATE INDEX rows_by_id ON rows (id);
CREATE INDEX rows_by_parent ON rows (parent);
CREATE INDEX rows_by_drop ON rows (drop_id);
CREATE TABLE scores (name_id INTEGER, value REAL, position INTEGER, drop_id INTEGER,
  PRIMARY KEY (name_id, value, position)) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
"""


class RowIndex:
    """The index of one file of rows. One thread of a process calls `update`; any thread may read."""

    def __init__(
        self,
        rows: Path,
        folder: Path,
        name: str = "",
        as_row: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    ) -> None:
        self.rows = rows
        self.path = folder / f"{name or rows.stem}.sqlite3"
        self.as_row = as_row
        """Gives a line of the file the form of a record's row."""
        self.whole = False
        """Whether the file of rows is finished, and all of it is in the index."""
        self._drops: dict[tuple[str, str], int] = {}
        self._names: dict[str, int] = {}

    def open(self) -> IO[bytes]:
        """Open the file of rows: the finished one, or the one that is being written."""
        if (stream := open_rows(self.rows)) is None:
            raise FileNotFoundError(f"there is no file '{self.rows}'")
        return stream

    def update(self, most_s: float = 1e9) -> bool:
        """Index rows that are new since the last call, for at most so many seconds; return whether there may
        be more. A file that was written anew is indexed from its beginning.
        """
        end = time.monotonic() + most_s
        if (stream := open_rows(self.rows)) is None:
            return False
        with stream, self._opened(stream) as database:
            start, position = database.execute(
                "SELECT size, (SELECT ifnull(max(position) + 1, 0) FROM rows) FROM file"
            ).fetchone()
            stream.seek(start)
            count = MORE_ROWS if position else FIRST_ROWS
            while lines := _whole_lines(stream, count):
                self._add(database, lines, start, position)
                start, position, count = start + sum(map(len, lines)), position + len(lines), MORE_ROWS
                _note(database, stream, start)
                if time.monotonic() > end:
                    return True
            _note(database, stream, start)
            self.whole = stream.name == str(self.rows) and start == os.fstat(stream.fileno()).st_size
        return False

    @contextmanager
    def _opened(self, stream: IO[bytes]) -> Iterator[sqlite3.Connection]:
        """Open the index to write it, one process at a time; begin it anew if it is of another file."""
        self.path.parent.mkdir(exist_ok=True)
        with open_folder(self.path.parent) as folder:
            lock(folder, wait=True)
            try:
                database = self._begin(stream)
            except sqlite3.DatabaseError:  # it is damaged
                for suffix in ("", "-wal", "-shm"):
                    self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
                database = self._begin(stream)
            with closing(database):
                self._drops = {
                    (stage, name): drop_id for drop_id, stage, name in database.execute("SELECT * FROM drops")
                }
                self._names = {name: name_id for name_id, name in database.execute("SELECT * FROM names")}
                yield database

    def _begin(self, stream: IO[bytes]) -> sqlite3.Connection:
        """Open the index; if it is of another file, empty it in one transaction: no reader sees half."""
        with ExitStack() as opened:
            database = _fast(opened.enter_context(closing(sqlite3.connect(self.path, timeout=30))))
            if not _is_of(database, stream):
                names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                drops = "".join(f'DROP TABLE "{name}";' for (name,) in names)
                inode = os.fstat(stream.fileno()).st_ino
                first = f"INSERT INTO file VALUES ({inode}, 0, 0, x'');"
                database.executescript(f"BEGIN IMMEDIATE; {drops} {_SCHEMA} {first} COMMIT;")
            opened.pop_all()
            return database

    def _add(self, database: sqlite3.Connection, lines: Sequence[bytes], start: int, position: int) -> None:
        rows, scores = [], []
        for row_position, line in enumerate(lines, position):
            cut, meta = self._meta_of(line)
            drop, parents = meta.get("dropped"), meta["parents"]
            drop_id = self._drop(database, drop["stage"], drop["filter"]) if drop else 0
            content = int.from_bytes(hashlib.blake2b(line[:cut], digest_size=8).digest(), "big", signed=True)
            item = meta.get("item") or meta["source"]
            place = (row_position, start, start + cut, start + len(line))
            rows.append((*place, meta["id"], item, parents[0] if parents else None, drop_id, content))
            for name, value in meta["scores"].items():
                if value is not None:  # an infinite one
                    scores.append((self._name(database, name), float(value), row_position, drop_id))
            start += len(line)
        with database:
            database.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            database.executemany("INSERT INTO scores VALUES (?, ?, ?, ?)", sorted(scores))

    def _meta_of(self, line: bytes) -> tuple[int, Mapping[str, Any]]:
        """Return where the fields of a row end, and its meta. The meta is last in rows that a run wrote."""
        cut = line.rfind(_META)
        with suppress(orjson.JSONDecodeError):
            if (
                cut >= 0
                and {"id", "parents", "scores", "source"} <= (meta := orjson.loads(line[cut + 8 : -2])).keys()
            ):
                return cut, meta
        try:
            return len(line), self.as_row(loads_own(line))[META]
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(self.rows, "it has a line that is no row") from error

    def _drop(self, database: sqlite3.Connection, stage: str, name: str) -> int:
        if (stage, name) not in self._drops:
            self._drops[stage, name] = len(self._drops) + 1
            database.execute("INSERT INTO drops VALUES (?, ?, ?)", (len(self._drops), stage, name))
        return self._drops[stage, name]

    def _name(self, database: sqlite3.Connection, name: str) -> int:
        if name not in self._names:
            self._names[name] = len(self._names) + 1
            database.execute("INSERT INTO names VALUES (?, ?)", (len(self._names), name))
        return self._names[name]

    def read(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query; none before anything of the file, as it is now, is indexed."""
        try:
            with closing(self._connected()) as database:
                if (stream := open_rows(self.rows)) is not None:
                    with stream:
                        if not _is_of(database, stream):
                            return []  # a run has written the file anew
                database.create_function("has_text", 5, _Texts(self).has)
                return list(database.execute(query, values))
        except sqlite3.DatabaseError as error:
            if any(sign in str(error) for sign in ("unable to open", "no such table", "not a database")):
                return []  # the first rows are on their way, also into the place of a damaged index
            raise

    def _connected(self) -> sqlite3.Connection:
        """Open the index to read it; do not make an empty one where there is none."""
        return sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=rw", uri=True, timeout=30)

    def snapshot(self) -> sqlite3.Connection:
        """Open the index as it is at this moment, whatever is indexed later."""
        database = self._connected()
        database.execute("BEGIN")
        return database

    def records(self, places: Sequence[tuple[int, int]]) -> list[Record]:
        """Return the records at these places in the file, each from its start to its stop.

        Raise DistillgenError if they are elsewhere by now, because a run has written the file anew.
        """
        records = []
        try:
            with self.open() as stream:
                for start, stop in places:
                    stream.seek(start)
                    records.append(Record.from_row(self.as_row(loads_own(stream.read(stop - start)))))
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise DistillgenError(
                f"a run writes '{self.rows}' anew at this moment; look at it again in a second"
            ) from error
        return records

    @property
    def count(self) -> int:
        """The number of rows in the index."""
        return int((self.read("SELECT ifnull(max(position) + 1, 0) FROM rows") or [(0,)])[0][0])


class _Texts:
    """Searches the rows of a file for a text."""

    def __init__(self, index: RowIndex) -> None:
        self._index = index
        self._bytes: mmap.mmap | None = None
        self._query: tuple[str, str] | None = None
        self._occurs: Callable[[bytes], bool] = bool

    def has(self, start: int, meta: int, stop: int, text: str, field: str) -> bool:
        """Return whether a row has a text in a field, or in any field for ""; upper and lower case are equal.

        The field `dropped` stands for the reason of the drop. A row that is elsewhere by now, because a run
        has written the file anew, has no text.
        """
        try:
            return self._has(start, meta, stop, text, field)
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return False

    def _has(self, start: int, meta: int, stop: int, text: str, field: str) -> bool:
        if self._bytes is None or len(self._bytes) < stop:
            with self._index.open() as stream:
                self._bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        if (text, field) != self._query:
            self._query, self._occurs = (text, field), _occurrence(text)
        of_reason = field == REASON and meta < stop  # or the reason stands anywhere
        if not self._occurs(self._bytes[meta if of_reason else start : stop if of_reason else meta]):
            return False
        return any(text.casefold() in part.casefold() for part in self._parts(start, stop, field))

    def _parts(self, start: int, stop: int, field: str) -> Iterator[str]:
        assert self._bytes
        row = self._index.as_row(loads_own(self._bytes[start:stop]))
        if field == REASON:
            yield (row[META].get("dropped") or {"reason": ""})["reason"]
            return
        for name, value in row.items():
            if name != META and field in ("", name):
                yield text_of(value)


REASON = "reason of the drop"
"""The name, in the place of a field's, of the reason why a record was dropped."""


def _occurrence(text: str) -> Callable[[bytes], bool]:
    """Return a quick test that no row with the text fails: it looks for one line of the text as JSON."""
    longest = max(text.split("\n"), key=len)
    if not longest.isascii():
        return lambda row: True
    needle = orjson.dumps(longest)[1:-1].lower()
    return lambda row: needle in row.lower()


def _whole_lines(stream: IO[bytes], count: int) -> list[bytes]:
    """Read up to so many lines; leave a line that has no end yet."""
    lines = []
    for line in stream:
        if not line.endswith(b"\n"):
            stream.seek(-len(line), os.SEEK_CUR)
            break
        lines.append(line)
        if len(lines) >= count:
            break
    return lines


def _note(database: sqlite3.Connection, stream: IO[bytes], size: int) -> None:
    """Note how far the file is indexed, and the bytes before that place."""
    here = stream.tell()
    stream.seek(max(0, size - _TAIL))
    tail = stream.read(min(size, _TAIL))
    stream.seek(here)
    with database:
        database.execute(
            "UPDATE file SET modified_ns = ?, size = ?, tail = ?",
            (os.fstat(stream.fileno()).st_mtime_ns, size, tail),
        )


def _is_of(database: sqlite3.Connection, stream: IO[bytes]) -> bool:
    """Return whether an index is of this file, which may have grown."""
    if database.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
        return False
    inode, modified_ns, size, tail = database.execute("SELECT * FROM file").fetchone()
    stat = os.fstat(stream.fileno())
    if (
        inode != stat.st_ino
        or size > stat.st_size
        or size == stat.st_size
        and modified_ns != stat.st_mtime_ns
    ):
        return False
    stream.seek(size - len(tail))
    return bool(stream.read(len(tail)) == tail)


def _fast(database: sqlite3.Connection) -> sqlite3.Connection:
    """Return a connection that does not wait for the disk: an index that is lost is made again."""
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = OFF")
    database.execute("PRAGMA cache_size = -200000")
    return database


def folder_for(directory: Path) -> Path:
    """Return the folder for the indexes of a run: in the run, or elsewhere if the run cannot be written."""
    folder = directory / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink(missing_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"distillgen-view-{digest(str(directory.resolve()))}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder
