"""The durable store of everything that a teacher gave back, keyed by everything that was sent.

One SQLite file in WAL mode, appended to in group commits: what arrives while one is under way, and in the 10 ms after it as
long as something arrives every millisecond and there are fewer than 32, goes with the next. An answer is durable before `add`
returns. Nothing is updated in place: asking again appends, and the newest row of a key counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from distillgen.errors import LedgerError
from distillgen.inference.claims import SCHEMA, Claims

GATHER_S = 0.01
ENOUGH = 32  # answers that are not kept waiting for more; and rows that are inserted in one step
RESERVE_BYTES = 4 << 20  # given back to the file system when it is full, so that answers in flight still fit
VERSION = 3
UNUSABLE = "unusable"  # the status of a row that counts what an endpoint billed, though no answer came of it
LOST = "lost"  # and of one that counts what a request may be billed for of which nothing came back
UNANSWERED = (UNUSABLE, LOST)


class Answer(NamedTuple):
    """One ledger row. `request` and `completion` are JSON, `signals` numbers in binary; `status` is ok, length, refused
    or failed, and unusable or lost in a row that counts what no answer came of, whose key nothing has. Tokens are as the
    endpoint counted them, money is in US dollars; a request that gave several samples is counted with the first of them.
    """

    key: bytes
    run: str
    stage: str
    model: str
    status: str
    requests: int
    retries: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float
    request: bytes
    completion: bytes
    signals: bytes | None = None
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


class Usage(NamedTuple):
    """What a set of answers cost."""

    run: str
    stage: str
    model: str
    status: str
    answers: int
    requests: int
    retries: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float
    cache_write_tokens: int
    reasoning_tokens: int


BESIDE = ("scores", "batches", "batch_lines")  # tables that are brought along where answers are
LABELS, COUNTS = Usage._fields[:4], Usage._fields[4:]
_COLUMNS = ", ".join(Answer._fields)
_USAGE = ", ".join((*LABELS, *COUNTS[1:]))
_LATER = ("cache_write_tokens", "reasoning_tokens")  # columns that format 2 has not
_UPGRADE = [
    *(f"ALTER TABLE answers ADD COLUMN {name} DEFAULT 0" for name in _LATER),
    "DROP INDEX IF EXISTS answers_usage",
]
_AS_NOW = (
    f"CREATE TEMP VIEW answers AS SELECT *, {', '.join(f'0 AS {name}' for name in _LATER)} FROM main.answers"
)
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS answers (id INTEGER PRIMARY KEY, {_COLUMNS}, at DEFAULT CURRENT_TIMESTAMP);
CREATE INDEX IF NOT EXISTS answers_by_key ON answers (key);
CREATE INDEX IF NOT EXISTS answers_usage ON answers ({_USAGE});
CREATE TABLE IF NOT EXISTS scores (key PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (uuid PRIMARY KEY, file, batch);
CREATE TABLE IF NOT EXISTS batch_lines (custom_id PRIMARY KEY, uuid);
{SCHEMA}
PRAGMA user_version = {VERSION};
"""
_ADD = f"INSERT INTO answers ({_COLUMNS}) VALUES ({', '.join('?' * len(Answer._fields))})"
_ADD_BATCH = "INSERT OR REPLACE INTO batches VALUES (?, ?, ?)"
_ADD_LINE = "INSERT OR REPLACE INTO batch_lines VALUES (?, ?)"
_ADD_SCORE = "INSERT OR REPLACE INTO scores VALUES (?, ?)"
_SUMS = ", ".join(f"coalesce(sum({name}), 0)" for name in COUNTS[1:])
_TOTALS = f"SELECT {', '.join(LABELS)}, sum(status NOT IN {UNANSWERED}), {_SUMS}, count(*) FROM answers GROUP BY 1, 2, 3, 4"


class Ledger:
    """Open with `Ledger(path)`; use from one event loop; `await close()` makes what is pending durable."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Raises LedgerError where the file is damaged, not a ledger, or cannot be written."""
        self.path = path
        self._pending: list[tuple[str, Sequence[tuple[Any, ...]], asyncio.Future[None]]] = []
        self._commits: asyncio.Task[None] | None = None
        self._next_commit_at = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._reserve = path.with_name(path.name + ".reserve")
        with _explained(path):
            _refuse_truncated(path)
            self._read = _connect(path, read_only)
            version = self._read.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, 2, VERSION):
                raise LedgerError(
                    f"{path} is of another version of distillgen (format {version}, this one reads {VERSION})"
                )
            if version == 2:
                self._read.execute(_AS_NOW) if read_only else _upgrade(self._read)
            if not read_only:
                self._read.executescript(_SCHEMA)
                if not self._reserve.exists():
                    self._reserve.write_bytes(bytes(RESERVE_BYTES))
            self._write = self._read if read_only else _connect(path, read_only)
            self.claims = Claims(self._write, self._thread, self._enqueue, self._rows)
            if not read_only:
                self.claims.bury()
            groups = self._read.execute(_TOTALS).fetchall()
            self._usage: dict[tuple[str, ...], list[float]] = {row[:4]: list(row[4:-1]) for row in groups}
            self._count = sum(int(row[-1]) for row in groups)

    def find(self, keys: Sequence[bytes]) -> dict[bytes, tuple[str, bytes, bytes | None]]:
        """The newest answer of each key that has one: its status, completion and signals."""
        rows = self._rows(
            "SELECT key, status, completion, signals FROM answers WHERE key IN ({}) ORDER BY id", keys
        )
        return {key: (status, completion, signals) for key, status, completion, signals in rows}

    def output_tokens(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """How many tokens the newest answer of each key has taken; several that one request gave are counted with the first."""
        return dict(self._rows("SELECT key, output_tokens FROM answers WHERE key IN ({}) ORDER BY id", keys))

    def find_scores(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """Kept measurements of costly filters."""
        rows = self._rows("SELECT key, value FROM scores WHERE key IN ({})", keys)
        return {key: orjson.loads(value) for key, value in rows}

    def find_batch(self, custom_id: str) -> tuple[str, str, str] | None:
        """The last batch that a line was put in, as far as it is known: its uuid, its file and its id at the endpoint."""
        query = "SELECT uuid, file, batch FROM batch_lines JOIN batches USING (uuid) WHERE custom_id IN ({})"
        return next(self._rows(query, [custom_id]), None)

    def lines_of_batch(self, uuid: str) -> int:
        """How many lines were last put in a batch."""
        return int(next(self._rows("SELECT count(*) FROM batch_lines WHERE uuid IN ({})", [uuid]))[0])

    def requested(self, key: bytes) -> tuple[bytes, bytes] | None:
        """The request and the completion behind a ledger key, as JSON, for lineage."""
        return next(
            self._rows(
                "SELECT request, completion FROM answers WHERE key IN ({}) ORDER BY id DESC LIMIT 1", [key]
            ),
            None,
        )

    def _rows(self, query: str, keys: Sequence[bytes | str]) -> Iterator[Any]:
        with _explained(self.path):
            for start in range(0, len(keys), 500):
                some = keys[start : start + 500]
                yield from self._read.execute(query.format(",".join("?" * len(some))), some)

    def usage(self, run: str | None = None) -> list[Usage]:
        """Totals by run, stage, model and status, over every run that has used this ledger, or of one and of what lies in its
        folder.
        """
        every = [Usage(*labels, *counts) for labels, counts in self._usage.items()]  # type: ignore[arg-type]
        return [used for used in every if run is None or f"{used.run}/".startswith(f"{run}/")]

    @property
    def last_id(self) -> int:
        """The number of the newest row, which grows with every answer of any process."""
        with _explained(self.path):
            return int(self._read.execute("SELECT ifnull(max(id), 0) FROM answers").fetchone()[0])

    def superseded_since(self, last_id: int, run: str) -> bool:
        """Whether an older answer has been taken over by one that another run has got since, so that what was made of the
        older one is no longer what the ledger gives. Also where the rows are fewer than they were.
        """
        if self.last_id <= last_id or {labels[0] for labels in self._usage} <= {run}:
            return self.last_id < last_id
        older = "SELECT 1 FROM answers AS older WHERE older.key = newer.key AND older.id < newer.id"
        query = (
            f"SELECT EXISTS (SELECT 1 FROM answers AS newer WHERE id > ? AND run != ? AND EXISTS ({older}))"
        )
        with _explained(self.path):
            return bool(self._read.execute(query, (last_id, run)).fetchone()[0])

    @property
    def rows(self) -> int:
        """How many answers it holds; as it only grows, the same number means the same answers."""
        return self._count

    async def add(self, answers: Sequence[Answer]) -> None:
        """Append answers, and give up the claims to them, in one transaction; returns when they are durable."""
        self.claims.release([answer.key for answer in answers])
        await self._enqueue(_ADD, answers)
        self._count += len(answers)
        for answer in answers:
            total = self._usage.setdefault(answer[1:5], [0] * len(COUNTS))
            for i, count in enumerate((answer.status not in UNANSWERED, *answer[5:11], *answer[14:16])):
                total[i] += count

    async def add_scores(self, scores: Mapping[bytes, Any]) -> None:
        """Keep measurements, durably."""
        rows = [(key, orjson.dumps(value)) for key, value in scores.items()]
        await self.write(_ADD_SCORE, rows)

    async def add_batch(self, uuid: str, file: str, batch: str, custom_ids: Sequence[str] = ()) -> None:
        """Keep how far a batch has come, and the lines that are in it, durably."""
        await self.write(_ADD_LINE, [(custom_id, uuid) for custom_id in custom_ids])
        await self.write(_ADD_BATCH, [(uuid, file, batch)])

    async def forget_batch(self, uuid: str) -> None:
        """Of a batch that the endpoint has not taken, nothing is to be expected."""
        await self.write("DELETE FROM batches WHERE uuid = ?", [(uuid,)])

    async def write(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Carry a statement out for every row in the next group commit; returns when it is durable."""
        await self._enqueue(statement, rows)

    async def claim(
        self, keys: Sequence[bytes], run: str, stage: str, model: str, cost_usd: float = 0.0
    ) -> bool:
        """Claim what is about to be sent; False where another process has some of it in flight."""
        with _explained(self.path):
            return await self.claims.take(keys, run, stage, model, cost_usd)

    def _enqueue(self, statement: str, rows: Sequence[tuple[Any, ...]]) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        durable: asyncio.Future[None] = loop.create_future()
        self._pending.append((statement, rows, durable))
        if self._commits is None or self._commits.done():
            self._commits = loop.create_task(self._commit_pending())
        return durable

    async def _commit_pending(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            gathered = 0
            while gathered < len(self._pending) < ENOUGH and loop.time() < self._next_commit_at:
                gathered = len(self._pending)
                await asyncio.sleep(0.001)
            batch, self._pending = self._pending, []
            together: dict[str, list[tuple[Any, ...]]] = {}
            for statement, rows, _ in batch:
                together.setdefault(statement, []).extend(rows)
            error: Exception | None = None
            try:
                with _explained(self.path):
                    await loop.run_in_executor(self._thread, self._commit, together)
            except LedgerError as failure:
                error = failure
            self._next_commit_at = loop.time() + GATHER_S
            for _, _, durable in batch:
                if not durable.done():
                    durable.set_exception(error) if error else durable.set_result(None)

    def _commit(self, together: Mapping[str, Sequence[tuple[Any, ...]]]) -> None:
        try:
            self._execute(together)
        except sqlite3.OperationalError as error:
            if "full" not in str(error) or not self._reserve.exists():
                raise
            self._reserve.unlink()
            with contextlib.suppress(
                sqlite3.OperationalError
            ):  # a checkpoint that does not fit either can wait
                self._write.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._execute(together)
            raise  # what was paid for is safe; nothing more is asked

    def _execute(self, together: Mapping[str, Sequence[tuple[Any, ...]]]) -> None:
        """Insert many rows in one step: between two, this thread has to wait until the one that asks lets go of Python."""
        with self._write:
            for statement, rows in together.items():
                insert, values, row = statement.partition(" VALUES ")
                if not values:
                    self._write.executemany(statement, rows)
                    continue
                for start in range(0, len(rows), ENOUGH):
                    some = rows[start : start + ENOUGH]
                    self._write.execute(
                        insert + values + ", ".join([row] * len(some)), list(chain.from_iterable(some))
                    )

    async def close(self) -> None:
        """Commit what is pending, then close."""
        if self._commits:
            await self._commits
        self.close_now()

    def close_now(self) -> None:
        """Close without a loop, where nothing is pending."""
        self.claims.leave()
        self._thread.shutdown()
        self._read.close()
        if self._write is not self._read:
            self._write.close()
            self._reserve.unlink(missing_ok=True)


def merge(into: Path, others: Sequence[Path]) -> int:
    """Append the answers of other ledgers to requests that `into` has none for, or none that is whole, what filters measured
    and what is still at a batch API; returns how many answers came. Raises LedgerError where one is no ledger.
    """
    if any(other.resolve() == into.resolve() for other in others):
        raise LedgerError(f"the ledger {into} cannot be merged into itself")
    for other in others:
        Ledger(other, read_only=True).close_now()
    ledger, count = Ledger(into), 0
    with _explained(into):
        for other in others:
            ledger._write.execute("ATTACH ? AS other", (str(other),))
            columns = _columns_of(ledger._write, "other")
            with ledger._write:
                count += ledger._write.execute(
                    f"INSERT INTO main.answers ({columns}) SELECT {columns} FROM other.answers AS theirs WHERE NOT EXISTS ("
                    "SELECT 1 FROM main.answers AS ours WHERE ours.key = theirs.key"
                    " AND (ours.status = 'ok' OR theirs.status != 'ok')) ORDER BY theirs.id"
                ).rowcount
                for (table,) in ledger._write.execute(
                    "SELECT name FROM other.sqlite_master WHERE type = 'table'"
                ):
                    if table in BESIDE:
                        ledger._write.execute(
                            f"INSERT OR IGNORE INTO main.{table} SELECT * FROM other.{table}"
                        )
            ledger._write.execute("DETACH other")
    ledger.close_now()
    return count


def salvage(path: Path) -> tuple[int, Path]:
    """Copy every readable answer and measurement of a damaged ledger, and what is at a batch API, to a new one in its place.

    Returns how many answers were read and where the damaged file was kept.
    """
    damaged = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            os.replace(part, damaged.with_name(damaged.name + suffix))
    ledger = Ledger(path)
    with ledger._write:
        with contextlib.closing(sqlite3.connect(damaged)) as source:
            source.execute("PRAGMA writable_schema = ON")
            columns = _columns_of(source)
        rows = (Answer(*row) for row in _readable(damaged, "answers", columns))
        count = ledger._write.executemany(_ADD, (row for row in rows if _is_whole(row))).rowcount
        ledger._write.executemany(_ADD_BATCH, _readable(damaged, "batches", "uuid, file, batch"))
        ledger._write.executemany(_ADD_LINE, _readable(damaged, "batch_lines", "custom_id, uuid"))
        ledger._write.executemany(_ADD_SCORE, _readable_scores(damaged))
    ledger.close_now()
    return count, damaged


def _columns_of(connection: sqlite3.Connection, database: str = "main") -> str:
    """The columns of an answer that a file has: one of format 2 lacks some."""
    present = {row[1] for row in connection.execute(f"PRAGMA {database}.table_info(answers)")}
    return ", ".join(name for name in Answer._fields if name in present)


def _is_whole(answer: Answer) -> bool:
    """Whether the file ends in none of the row: what lies behind its end is read as zeros."""
    try:
        return isinstance(orjson.loads(answer.request), dict) and isinstance(
            orjson.loads(answer.completion), dict
        )
    except (orjson.JSONDecodeError, TypeError):
        return False


def _readable(path: Path, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """The rows that can still be read: a broken page costs the rows on it and no others; a row of a blank page is none."""
    key = columns.partition(",")[0]
    query = (
        f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE rowid > ? AND {key} NOT NULL ORDER BY rowid"
    )
    with contextlib.closing(sqlite3.connect(path)) as source:
        source.execute(
            "PRAGMA writable_schema = ON"
        )  # or SQLite refuses a file that is shorter than its header says
        at, step = 0, 1
        while step < 1 << 40:
            try:
                for row in source.execute(query, (at,)):
                    at, step = row[0], 1
                    yield row[1:]
                return
            except sqlite3.DatabaseError:
                at, step = at + step, step * 2


def _readable_scores(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """The measurements before the first broken page, and those behind the last one."""
    with contextlib.closing(sqlite3.connect(path)) as source:
        source.execute("PRAGMA writable_schema = ON")
        for order in ("ASC", "DESC"):
            with contextlib.suppress(sqlite3.DatabaseError):
                for key, value in source.execute(f"SELECT key, value FROM scores ORDER BY key {order}"):
                    with contextlib.suppress(orjson.JSONDecodeError):
                        orjson.loads(value)
                        yield key, value
                return


def _upgrade(connection: sqlite3.Connection) -> None:
    """Make a file of format 2 one of today's, unless another process has done so."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 2:
            for statement in _UPGRADE:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")


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
    if not header:
        return
    page = int.from_bytes(header[16:18], "big")
    promised = int.from_bytes(header[28:32], "big") * (65536 if page == 1 else page)
    if not header.startswith(b"SQLite format 3\0") or len(header) < 100:
        raise _damaged(
            path, "it does not begin as a ledger does; if it is another file, give another --ledger"
        )
    if path.stat().st_size < promised and not path.with_name(path.name + "-wal").exists():
        raise _damaged(path, f"it is cut short: {path.stat().st_size:,} of {promised:,} bytes")


def _damaged(path: Path, how: str) -> LedgerError:
    return LedgerError(
        f"the ledger {path} is damaged ({how}). Nothing was asked. Run again with --salvage: every answer that can "
        "still be read is copied to a new ledger, the damaged file is kept, and only what is lost is asked again"
    )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What SQLite or the file system says, as a LedgerError that names the remedy."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        text = str(error)
        if "malformed" in text or "not a database" in text:
            raise _damaged(path, text) from error
        remedies = {
            "full": "no space left on the disk. The answers that were paid for are safe; free some space and run again to go on",
            "No space": "no space left on the disk. The answers that were paid for are safe; free some space and run again",
            "locked": "another program has been writing it for over 30 s",
            "readonly": "it cannot be written. Choose another --ledger, or make this one writable",
            "unable to open": "it cannot be opened. Choose another --ledger, or make this one writable",
            "Permission": "it cannot be opened. Choose another --ledger, or make this one writable",
        }
        remedy = next((remedy for sign, remedy in remedies.items() if sign in text), text)
        raise LedgerError(f"the ledger {path}: {remedy}") from error
