"""A ledger in a SQLite file, in WAL mode, for the processes of one machine."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from distillgen.errors import LedgerError
from distillgen.inference.places import salvaged
from distillgen.inference.store import ENOUGH, Row, Session, Statement, Store, T, insert
from distillgen.platforms import network_file_system

RESERVE_BYTES = 4 << 20  # freed when the disk is full, so that answers in flight still fit
TRIES, TRY_S = 3000, 0.01  # to begin the log of a new file, while another process does; 30 s in all
VERSION = 3
_LATER = ("cache_write_tokens", "reasoning_tokens")  # columns that format 2 lacks
_UPGRADE = [
    *(f"ALTER TABLE answers ADD COLUMN {name} DEFAULT 0" for name in _LATER),
    "DROP INDEX IF EXISTS answers_usage",
]
_AS_NOW = (
    f"CREATE TEMP VIEW answers AS SELECT *, {', '.join(f'0 AS {name}' for name in _LATER)} FROM main.answers"
)


_OTHER = "Give the file of a ledger, or a new name"


def schema(columns: Sequence[str], usage: Sequence[str]) -> str:
    """Return the SQL of the tables; `usage` are the columns that sums are made of."""
    return f"""
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY, {", ".join(columns)}, at DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX IF NOT EXISTS answers_by_key ON answers (key);
CREATE INDEX IF NOT EXISTS answers_usage ON answers ({", ".join(usage)});
CREATE TABLE IF NOT EXISTS scores (key PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (uuid PRIMARY KEY, file, batch);
CREATE TABLE IF NOT EXISTS batch_lines (custom_id PRIMARY KEY, uuid);
CREATE TABLE IF NOT EXISTS owners (
    id INTEGER PRIMARY KEY AUTOINCREMENT, host, pid, lease_until, newest_known
);
CREATE TABLE IF NOT EXISTS claims (key PRIMARY KEY, owner, run, stage, model, cost_usd) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS promises (key PRIMARY KEY, run, cost_usd);
PRAGMA user_version = {VERSION};
"""


class SqliteStore(Store):
    """An open file. Reading and writing have a connection each."""

    random_key = "randomblob(16)"
    order = "id"
    numbers_rows = True
    beat_s = 0.25

    def __init__(
        self, path: Path, columns: Sequence[str], usage: Sequence[str], *, read_only: bool = False
    ) -> None:
        """Open or create the file. Raise LedgerError if it is damaged, not a ledger, or cannot be written."""
        self.place = self._path = path
        self.read_only = read_only
        self._reserve = path.with_name(path.name + ".reserve")
        with self.errors(), contextlib.ExitStack() as opened:
            if not read_only:
                _refuse_network(path)
            _refuse_damaged(path)
            _refuse_foreign(path, read_only)
            self._read = opened.enter_context(contextlib.closing(connect(path, read_only)))
            version = self._read.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, 2, VERSION):
                raise LedgerError(
                    f"{path} is of another version of distillgen (format {version}, this one reads {VERSION})"
                )
            if version == 2:
                self._read.execute(_AS_NOW) if read_only else _upgrade(self._read)
            if not read_only:
                self._read.executescript(schema(columns, usage))
                if not self._reserve.exists():
                    self._reserve.write_bytes(bytes(RESERVE_BYTES))
            self.connection = self._read
            if not read_only:
                self.connection = opened.enter_context(contextlib.closing(connect(path, read_only)))
            self._opened = opened.pop_all()

    @property
    def now(self) -> str:
        """The time since the machine started: no change of its clock moves it."""
        return repr(time.monotonic())

    def holds(self, left_s: float) -> bool:
        """Return whether a lease with so many seconds left holds. The monotonic clock starts again with the
        machine, so a lease from before is too far in the future.
        """
        return 0 < left_s <= self.lease_s

    def add(self, columns: Sequence[str]) -> Statement:
        """Return the INSERT of answers."""
        return insert(f"INSERT INTO answers ({', '.join(columns)})", len(columns))

    def errors(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that raises errors of SQLite and the file system as a LedgerError."""
        return as_ledger_errors(self._path)

    def rows(self, query: str, values: Sequence[object] = ()) -> list[Row]:
        """Return the rows of a query, all of them committed."""
        with self.errors():
            return self._read.execute(query, values).fetchall()

    def has(self, table: str) -> bool:
        """Return whether there is a table."""
        return bool(self.rows("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)))

    def stream(self, query: str) -> Iterator[Row]:
        """Yield the rows of a long query without holding them all."""
        with self.errors():
            rows = self._read.execute(query)
            while part := rows.fetchmany(1000):
                yield from part

    def transact(self, work: Callable[[Session], T], *, alone: bool = False) -> T:
        """Do work in one transaction. If the disk is full, the reserve is freed for it, and LedgerError is
        raised all the same, so that nothing more is asked.
        """
        with self.errors():
            try:
                return self._once(work, alone)
            except sqlite3.OperationalError as error:
                if "full" not in str(error):
                    raise
                self._reserve.unlink(missing_ok=True)  # another process may have freed it just now
                with contextlib.suppress(sqlite3.OperationalError):  # a checkpoint that does not fit can wait
                    self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                self._once(work, alone)
                raise  # the answers are stored; the run asks no more

    def _once(self, work: Callable[[Session], T], alone: bool) -> T:
        with self.connection:
            if alone:
                self.connection.execute("BEGIN IMMEDIATE")
            return work(self.connection)

    def execute(self, session: Session, statement: Statement, rows: Sequence[Row]) -> None:
        """Insert many rows in one step: each step costs a hand-over of the GIL from the thread that asks."""
        if not statement.placeholders:
            session.executemany(statement.sql, rows)
            return
        for start in range(0, len(rows), ENOUGH):
            part = rows[start : start + ENOUGH]
            session.execute(statement.text(len(part)), list(chain.from_iterable(part)))

    def last_id(self) -> int:
        """Return the id of the newest row of any process."""
        return int(self.rows("SELECT coalesce(max(id), 0) FROM answers")[0][0])

    def tidy(self) -> None:
        """Write the file anew without free pages."""
        with self.errors():
            self.connection.execute("VACUUM")
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def faults(self, most: int) -> Iterator[str]:
        """Yield what SQLite finds wrong with the file."""
        lines = (line for (line,) in self.rows(f"PRAGMA integrity_check({most})"))
        return (f"SQLite: {line}" for line in lines if line != "ok")

    def size(self) -> int:
        """Return the size of the files in bytes."""
        files = (self._path.with_name(self._path.name + suffix) for suffix in ("", "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        """Close both connections. The last process that asks removes the reserve, which is for all."""
        others = False
        with contextlib.suppress(LedgerError):  # a damaged file is closed, too
            others = bool(self.rows("SELECT 1 FROM owners LIMIT 1"))
        self._opened.close()
        if not (self.read_only or others):
            self._reserve.unlink(missing_ok=True)


def _upgrade(connection: sqlite3.Connection) -> None:
    """Upgrade a file of format 2, unless another process has done so."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 2:
            for statement in _UPGRADE:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")


def connect(path: Path, read_only: bool) -> sqlite3.Connection:
    """Open the file. SQLite creates it if it is not `read_only`.

    Where no file can be made beside it, a ledger that no process has open is read as one that nobody changes.
    """
    uri = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    if read_only and not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists():
        uri += "&immutable=1"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=30)
    try:
        if not read_only:
            _keep_log(connection)
            connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -8000")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _keep_log(connection: sqlite3.Connection) -> None:
    """Let a file have a write-ahead log. SQLite does not wait for another process that does so, too."""
    for tries_left in reversed(range(TRIES)):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or not tries_left:
                raise
        time.sleep(TRY_S)


def _as_it_is(path: Path) -> sqlite3.Connection:
    """Open a file without a change of its mode. As it reads the file, SQLite takes back what a killed process
    had half written, for which it must be able to write.
    """
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=30)


def _refuse_network(path: Path) -> None:
    """Raise LedgerError on a network file system: SQLite's shared memory and locks are for one machine, and a
    file that two write is damaged.
    """
    if kind := network_file_system(path.parent):
        raise LedgerError(
            f"the ledger {path} is on a network file system ({kind}), where SQLite can lose answers. For "
            "many machines, give a database: --ledger postgresql://HOST/NAME. For this one, give a file on "
            "its own disk; distillgen ledger merge brings such ledgers together"
        )


def _refuse_damaged(path: Path) -> None:
    """Raise LedgerError if the file is cut short, or is being replaced by a salvaged one. SQLite notices a
    missing page only when it reads it.
    """
    if salvaged(path).exists():
        raise _damaged(path, "a --salvage of it was interrupted")
    if (how := _damage(path)) and (how := _damage(path)):  # between two looks, another process compacts it
        raise _damaged(path, how)


def _damage(path: Path) -> str:
    """Return what the size of a file shows to be wrong with it, or "" if it looks whole. Raise LedgerError if
    it is no database.
    """
    try:
        with path.open("rb") as stream:
            header = stream.read(100)
    except FileNotFoundError:
        return ""
    if not header:
        return ""
    page = int.from_bytes(header[16:18], "big")
    promised = int.from_bytes(header[28:32], "big") * (65536 if page == 1 else page)
    if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
        raise LedgerError(f"'{path}' is no ledger: it does not begin as a ledger does. {_OTHER}")
    if (size := path.stat().st_size) < promised and not path.with_name(path.name + "-wal").exists():
        return f"it is cut short: {size:,} of {promised:,} bytes"
    return ""


def _refuse_foreign(path: Path, read_only: bool) -> None:
    """Raise LedgerError for a database of another program, before anything is written into it."""
    if not path.exists():
        return
    with contextlib.closing(connect(path, read_only=True) if read_only else _as_it_is(path)) as connection:
        has_tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        columns = {row[1] for row in connection.execute("PRAGMA table_info(answers)")}
    if (has_tables or read_only) and "key" not in columns:
        contents = "it is a database of another program" if has_tables else "it is empty"
        raise LedgerError(f"'{path}' is no ledger: {contents}. {_OTHER}")


def _damaged(path: Path, how: str) -> LedgerError:
    return LedgerError(
        f"the ledger {path} is damaged ({how}). Nothing was asked. Give the command distillgen run with "
        "--salvage: every answer that can still be read is copied to a new ledger, the damaged file is kept, "
        "and only what is lost is asked again"
    )


@contextlib.contextmanager
def as_ledger_errors(path: Path) -> Iterator[None]:
    """Raise errors of SQLite and the file system as a LedgerError that names the remedy."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        text = str(error)
        if "malformed" in text or "not a database" in text:
            raise _damaged(path, text) from error
        remedies = {
            "full": "no space left on the disk. The answers that were paid for are safe; free some space and "
            "run again to go on",
            "No space": "no space left on the disk. The answers that were paid for are safe; free some space "
            "and "
            "run again",
            "I/O error": "the disk reports an error. The answers that were stored before are safe; mend the "
            "disk, and run again to go on",
            "Is a directory": "it is a folder. Choose another --ledger",
            "locked": "another program has been writing it for over 30 s",
            "readonly": "it cannot be written. Choose another --ledger, or make this one writable",
            "unable to open": "it cannot be opened. Choose another --ledger, or make this one writable",
            "Permission": "it cannot be opened. Choose another --ledger, or make this one writable",
        }
        remedy = next((remedy for sign, remedy in remedies.items() if sign in text), text)
        raise LedgerError(f"the ledger {path}: {remedy}") from error
