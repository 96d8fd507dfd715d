"""The durable store of everything that a teacher gave back, keyed by everything that was sent.

One SQLite file in WAL mode, appended to in group commits, at most 100 a second: what arrives while one is under way, or
within 10 ms of it, goes with the next. An answer is durable before `add` returns. Nothing is updated in place: asking
again appends, and the newest row of a key counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from distillgen.errors import LedgerError

COMMIT_EVERY_S = 0.01
RESERVE_BYTES = 4 << 20  # given back to the file system when it is full, so that answers in flight still fit
VERSION = 1

COUNTS = ("answers", "requests", "retries", "input_tokens", "cached_tokens", "output_tokens", "cost_usd")
_COUNTS = COUNTS[1:]  # kept with each answer
_LABELS = ("run", "stage", "model", "status")
_COLUMNS = ("key", *_LABELS, *_COUNTS, "request", "completion", "at")
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL,
    run TEXT NOT NULL, stage TEXT NOT NULL, model TEXT NOT NULL, status TEXT NOT NULL,
    requests INTEGER NOT NULL, retries INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL,
    request BLOB NOT NULL, completion BLOB NOT NULL, at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS answers_by_key ON answers (key);
CREATE INDEX IF NOT EXISTS answers_usage ON answers ({", ".join((*_LABELS, *_COUNTS))});
CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one answer or a set of them cost. Tokens as the endpoint counted them, money in US dollars.

    A request that gave several samples is counted with the first of them.
    """

    run: str = ""
    stage: str = ""
    model: str = ""
    status: str = "ok"
    answers: int = 1
    requests: int = 1
    retries: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One ledger row: `request` and `completion` are JSON; `status` is ok, length, refused or failed."""

    key: bytes
    status: str
    request: bytes
    completion: bytes
    usage: Usage = Usage()


class Ledger:
    """Open with `Ledger(path)`; use from one event loop; `await close()` makes what is pending durable."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Raises LedgerError where the file is damaged, not a ledger, or cannot be written."""
        self.path = path
        self._pending: list[tuple[list[Answer], asyncio.Future[None]]] = []
        self._commits: asyncio.Task[None] | None = None
        self._committed_at = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._reserve = path.with_name(path.name + ".reserve")
        _refuse_truncated(path)
        try:
            self._read = _connect(path, read_only)
            version = self._read.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise LedgerError(f"{path} is of another version of distillgen (format {version}, this one reads {VERSION})")
            if read_only:
                self._write = self._read
                self._read.execute("SELECT 1 FROM answers LIMIT 1")
                return
            self._read.executescript(_SCHEMA)
            self._read.execute(f"PRAGMA user_version = {VERSION}")
            self._read.commit()
            self._write = _connect(path, read_only)
            if not self._reserve.exists():
                self._reserve.write_bytes(bytes(RESERVE_BYTES))
        except (sqlite3.Error, OSError) as error:
            raise _explained(error, path) from error

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Answer]:
        """The newest answer of each key that has one."""
        found: dict[bytes, Answer] = {}
        try:
            for start in range(0, len(keys), 500):
                some = keys[start : start + 500]
                rows = self._read.execute(
                    "SELECT key, status, request, completion FROM answers"
                    f" WHERE key IN ({','.join('?' * len(some))}) ORDER BY id",
                    some,
                )
                found.update((row[0], Answer(*row)) for row in rows)
        except sqlite3.Error as error:
            raise _explained(error, self.path) from error
        return found

    async def add(self, answers: list[Answer]) -> None:
        """Append answers in one transaction; returns when they are durable."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((answers, future))
        if self._commits is None or self._commits.done():
            self._commits = asyncio.get_running_loop().create_task(self._commit_pending())
        await future

    async def _commit_pending(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            if (wait := self._committed_at + COMMIT_EVERY_S - loop.time()) > 0:
                await asyncio.sleep(wait)
            self._committed_at = loop.time()
            batch, self._pending = self._pending, []
            error: Exception | None = None
            try:
                await loop.run_in_executor(self._thread, self._commit, batch)
            except (sqlite3.Error, OSError) as failure:
                error = _explained(failure, self.path)
                error.__cause__ = failure
            for _, future in batch:
                if not future.done():
                    future.set_exception(error) if error else future.set_result(None)

    def _commit(self, batch: list[tuple[list[Answer], asyncio.Future[None]]]) -> None:
        try:
            self._append(batch)
        except sqlite3.OperationalError as error:
            if "full" not in str(error) or not self._reserve.exists():
                raise
            self._reserve.unlink()
            with contextlib.suppress(sqlite3.OperationalError):  # a checkpoint that does not fit either can wait
                self._write.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._append(batch)
            raise

    def _append(self, batch: list[tuple[list[Answer], asyncio.Future[None]]]) -> None:
        now = time.time()
        with self._write:
            self._write.executemany(_INSERT, [_values(answer, now) for answers, _ in batch for answer in answers])

    def usage(self, run: str | None = None) -> list[Usage]:
        """Totals by run, stage, model and status, over every run that has used this ledger, or of one."""
        sums = ", ".join(f"sum({name})" for name in _COUNTS)
        labels = ", ".join(_LABELS)
        try:
            rows = self._read.execute(
                f"SELECT {labels}, count(*), {sums} FROM answers WHERE run = coalesce(?, run) GROUP BY {labels}", (run,)
            ).fetchall()
        except sqlite3.Error as error:
            raise _explained(error, self.path) from error
        return [Usage(*row) for row in rows]

    def requested(self, key: bytes) -> tuple[bytes, bytes] | None:
        """The request and the completion behind a ledger key, as JSON, for lineage."""
        row: tuple[bytes, bytes] | None = self._read.execute(
            "SELECT request, completion FROM answers WHERE key = ? ORDER BY id DESC LIMIT 1", (key,)
        ).fetchone()
        return row

    def find_scores(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """Kept measurements of costly filters."""
        found: dict[bytes, Any] = {}
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
            rows = self._read.execute(f"SELECT key, value FROM scores WHERE key IN ({','.join('?' * len(some))})", some)
            found.update((key, orjson.loads(value)) for key, value in rows)
        return found

    async def add_scores(self, scores: dict[bytes, Any]) -> None:
        """Keep measurements, durably."""
        rows = [(key, orjson.dumps(value)) for key, value in scores.items()]

        def insert() -> None:
            with self._write:
                self._write.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", rows)

        await asyncio.get_running_loop().run_in_executor(self._thread, insert)

    async def close(self) -> None:
        """Commit what is pending, then close."""
        if self._commits:
            await self._commits
        self.close_now()

    def close_now(self) -> None:
        """Close without a loop, where nothing is pending."""
        self._thread.shutdown()
        if self._write is not self._read:
            self._write.close()
            self._reserve.unlink(missing_ok=True)
        self._read.close()


_INSERT = f"INSERT INTO answers ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"


def _values(answer: Answer, now: float) -> tuple[Any, ...]:
    u = answer.usage
    return (
        answer.key, u.run, u.stage, u.model, answer.status, u.requests, u.retries,
        u.input_tokens, u.cached_tokens, u.output_tokens, u.cost_usd, answer.request, answer.completion, now,
    )  # fmt: skip


def merge(into: Path, others: Sequence[Path]) -> int:
    """Append the answers of other ledgers whose keys `into` lacks; returns how many came."""
    ledger = Ledger(into)
    columns, count = ", ".join(_COLUMNS), 0
    for other in others:
        Ledger(other, read_only=True).close_now()
        ledger._write.execute("ATTACH ? AS other", (str(other),))
        with ledger._write:
            count += ledger._write.execute(
                f"INSERT INTO main.answers ({columns}) SELECT {columns} FROM other.answers AS theirs"
                " WHERE NOT EXISTS (SELECT 1 FROM main.answers AS ours WHERE ours.key = theirs.key) ORDER BY theirs.id"
            ).rowcount
        ledger._write.execute("DETACH other")
    ledger.close_now()
    return count


def salvage(path: Path) -> tuple[int, Path]:
    """Copy every readable answer of a damaged ledger to a new one in its place.

    Returns how many answers were read and where the damaged file was kept.
    """
    damaged = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            os.replace(part, damaged.with_name(damaged.name + suffix))
    ledger, count = Ledger(path), 0
    with ledger._write:
        for row in _readable(damaged):
            ledger._write.execute(_INSERT, row)
            count += 1
    ledger.close_now()
    return count, damaged


def _readable(path: Path) -> Iterator[tuple[Any, ...]]:
    """The rows that can still be read: a broken page costs the rows on it and no others."""
    query = f"SELECT id, {', '.join(_COLUMNS)} FROM answers NOT INDEXED WHERE id > ? ORDER BY id"
    with contextlib.closing(sqlite3.connect(path)) as source:
        source.execute("PRAGMA writable_schema = ON")  # or SQLite refuses a file that is shorter than its header says
        at, step = 0, 1
        while step < 1 << 40:
            try:
                for row in source.execute(query, (at,)):
                    at, step = row[0], 1
                    yield row[1:]
                return
            except sqlite3.DatabaseError:
                at, step = at + step, step * 2


def _connect(path: Path, read_only: bool) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=30)
    if not read_only:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -8000")
    return connection


def _refuse_truncated(path: Path) -> None:
    """SQLite notices a missing page only when it reads it; the header tells at once."""
    try:
        with path.open("rb") as stream:
            header = stream.read(100)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _explained(error, path) from error
    if not header:
        return
    if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
        raise _damaged(path, "it does not begin as a ledger does; if it is another file, give another --ledger")
    page = int.from_bytes(header[16:18], "big")
    page = 65536 if page == 1 else page
    pages, size = int.from_bytes(header[28:32], "big"), path.stat().st_size
    if size < pages * page and not path.with_name(path.name + "-wal").exists():
        raise _damaged(path, f"it is cut short: {size:,} of {pages * page:,} bytes")


def _damaged(path: Path, how: str) -> LedgerError:
    return LedgerError(
        f"the ledger {path} is damaged ({how}). Nothing was asked. Run again with --salvage: every answer that can "
        "still be read is copied to a new ledger, the damaged file is kept, and only what is lost is asked again"
    )


def _explained(error: Exception, path: Path) -> LedgerError:
    text = str(error)
    if "malformed" in text or "not a database" in text:
        return _damaged(path, text)
    if "full" in text or "No space" in text:
        return LedgerError(
            f"no space left on the disk of {path}. The answers that were paid for are safe; "
            "free some space and run again to go on"
        )
    if "readonly" in text or "unable to open" in text or isinstance(error, PermissionError):
        return LedgerError(f"cannot write the ledger {path}: {text}. Choose another --out, or make this one writable")
    if "locked" in text:
        return LedgerError(f"the ledger {path} is being written by another program for over 30 s: {text}")
    return LedgerError(f"the ledger {path} failed: {text}")
