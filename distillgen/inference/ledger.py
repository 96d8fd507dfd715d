"""The ledger: a durable store of completions, keyed by everything that was sent.

It is a SQLite file in WAL mode. Rows are appended in group commits: a commit takes the rows that arrived
during the commit before it and in the 10 ms after, as long as one arrives every millisecond and there are
fewer than 32. An answer is durable before `add` returns. No row is updated: asking again appends a row, and
the newest row of a key counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from distillgen.errors import LedgerError
from distillgen.inference.claims import SCHEMA, Claims
from distillgen.inference.statements import Statement, insert
from distillgen.inference.worker import Worker
from distillgen.platforms import network_file_system

GATHER_S = 0.01
ENOUGH = 32  # rows that a commit does not wait beyond, and rows that one INSERT takes
RESERVE_BYTES = 4 << 20  # freed when the disk is full, so that answers in flight still fit
VERSION = 3
UNUSABLE = "unusable"  # status of a row that counts a billed answer that cannot be used
LOST = "lost"  # status of a row that counts a request without an answer, which may be billed
UNANSWERED = (UNUSABLE, LOST)


class Answer(NamedTuple):
    """A row of the ledger. `request` and `completion` are JSON, `signals` is binary. `status` is ok, length,
    refused or failed; it is unusable or lost in a row that only counts usage, under a random key. The
    endpoint counts the tokens. The usage of a request with several samples is in the row of the first.
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
    """The usage of a set of answers. Costs are in US dollars."""

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


LABELS, COUNTS = Usage._fields[:4], Usage._fields[4:]
_COLUMNS = ", ".join(Answer._fields)
_USAGE = ", ".join((*LABELS, *COUNTS[1:]))
_LATER = ("cache_write_tokens", "reasoning_tokens")  # columns that format 2 lacks
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
ADD = insert(f"INSERT INTO answers ({_COLUMNS})", len(Answer._fields))
ADD_BATCH = insert("INSERT OR REPLACE INTO batches", 3)
ADD_LINE = insert("INSERT OR REPLACE INTO batch_lines", 2)
ADD_SCORE = insert("INSERT OR REPLACE INTO scores", 2)
_FORGET_BATCH = Statement("DELETE FROM batches WHERE uuid = ?")
_SUMS = ", ".join(f"coalesce(sum({name}), 0)" for name in COUNTS[1:])
_TOTALS = (
    f"SELECT {', '.join(LABELS)}, sum(status NOT IN {UNANSWERED}), {_SUMS}, count(*) FROM answers"
    " GROUP BY 1, 2, 3, 4"
)


class Ledger:
    """An open ledger. Use it from one event loop; `await close()` commits pending rows."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open or create the file. Raise LedgerError if it is damaged, not a ledger, or cannot be written."""
        self.path = path
        self._pending: list[tuple[Statement, Sequence[tuple[Any, ...]], asyncio.Future[None]]] = []
        self._commits: asyncio.Task[None] | None = None
        self._next_commit_at = 0.0
        self._thread = Worker("ledger")
        self._reserve = path.with_name(path.name + ".reserve")
        with as_ledger_errors(path), contextlib.ExitStack() as opened:
            if not read_only:
                _refuse_network(path)
            _refuse_truncated(path)
            self._read = opened.enter_context(contextlib.closing(connect(path, read_only)))
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
            self.connection = self._read
            if not read_only:
                self.connection = opened.enter_context(contextlib.closing(connect(path, read_only)))
            self.claims = Claims(self.connection, self._thread, self._enqueue, self._rows)
            if not read_only:
                self.claims.bury()
            groups = self._read.execute(_TOTALS).fetchall()
            self._usage: dict[tuple[str, ...], list[float]] = {row[:4]: list(row[4:-1]) for row in groups}
            self._count = sum(int(row[-1]) for row in groups)
            self._opened = opened.pop_all()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, tuple[str, bytes, bytes | None]]:
        """Return the status, completion and signals of the newest answer of each key that has one."""
        rows = self._rows(
            "SELECT key, status, completion, signals FROM answers WHERE key IN ({}) ORDER BY id", keys
        )
        return {key: (status, completion, signals) for key, status, completion, signals in rows}

    def output_tokens(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Return the output tokens of the newest answer of each key. The first sample has those of its whole
        request.
        """
        return dict(self._rows("SELECT key, output_tokens FROM answers WHERE key IN ({}) ORDER BY id", keys))

    def find_scores(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """Return the stored scores of keys."""
        rows = self._rows("SELECT key, value FROM scores WHERE key IN ({})", keys)
        return {key: orjson.loads(value) for key, value in rows}

    def find_batch(self, custom_id: str) -> tuple[str, str, str] | None:
        """Return the last batch of a line: its uuid, its file and its id at the endpoint, the latter two
        possibly empty.
        """
        query = "SELECT uuid, file, batch FROM batch_lines JOIN batches USING (uuid) WHERE custom_id IN ({})"
        return next(self._rows(query, [custom_id]), None)

    def has_batch(self, batch: str) -> bool:
        """Return whether the batch with this id at the endpoint is one of the ledger's."""
        return any(self._rows("SELECT 1 FROM batches WHERE batch IN ({})", [batch]))

    def lines_of_batch(self, uuid: str) -> int:
        """Return the number of lines of a batch."""
        return int(next(self._rows("SELECT count(*) FROM batch_lines WHERE uuid IN ({})", [uuid]))[0])

    def requested(self, key: bytes) -> tuple[bytes, bytes] | None:
        """Return the request and the completion of a key as JSON, or None."""
        return next(
            self._rows(
                "SELECT request, completion FROM answers WHERE key IN ({}) ORDER BY id DESC LIMIT 1", [key]
            ),
            None,
        )

    def _rows(self, query: str, keys: Sequence[bytes | str]) -> Iterator[Any]:
        with as_ledger_errors(self.path):
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                yield from self._read.execute(query.format(",".join("?" * len(part))), part)

    def usage(self, run: str | None = None) -> list[Usage]:
        """Return totals by run, stage, model and status: of all runs, or of one run and the runs in its
        folder.
        """
        totals = [Usage(*labels, *counts) for labels, counts in self._usage.items()]  # type: ignore[arg-type]
        return [usage for usage in totals if run is None or f"{usage.run}/".startswith(f"{run}/")]

    @property
    def last_id(self) -> int:
        """The id of the newest row of any process."""
        with as_ledger_errors(self.path):
            return int(self._read.execute("SELECT ifnull(max(id), 0) FROM answers").fetchone()[0])

    def superseded_since(self, last_id: int, run: str) -> bool:
        """Return whether another run has replaced an older answer since row `last_id`, so that records made
        of the older one are out of date. Also return True if there are fewer rows than then.
        """
        if self.last_id <= last_id or {labels[0] for labels in self._usage} <= {run}:
            return self.last_id < last_id
        older = "SELECT 1 FROM answers AS older WHERE older.key = newer.key AND older.id < newer.id"
        query = (
            f"SELECT EXISTS (SELECT 1 FROM answers AS newer WHERE id > ? AND run != ? AND EXISTS ({older}))"
        )
        with as_ledger_errors(self.path):
            return bool(self._read.execute(query, (last_id, run)).fetchone()[0])

    @property
    def rows(self) -> int:
        """The number of answers. The ledger only grows, so the same number means the same answers."""
        return self._count

    async def add(self, answers: Sequence[Answer]) -> None:
        """Append answers, and release their claims, in one transaction; return when they are durable."""
        self.claims.release([answer.key for answer in answers])
        await self._enqueue(ADD, answers)
        self._count += len(answers)
        for answer in answers:
            total = self._usage.setdefault(answer[1:5], [0] * len(COUNTS))
            for i, count in enumerate((answer.status not in UNANSWERED, *answer[5:11], *answer[14:16])):
                total[i] += count

    async def add_scores(self, scores: Mapping[bytes, Any]) -> None:
        """Store scores; return when they are durable."""
        rows = [(key, orjson.dumps(value)) for key, value in scores.items()]
        await self.write(ADD_SCORE, rows)

    async def add_batch(self, uuid: str, file: str, batch: str, custom_ids: Sequence[str] = ()) -> None:
        """Store the state of a batch and its lines; return when they are durable."""
        lines = self._enqueue(ADD_LINE, [(custom_id, uuid) for custom_id in custom_ids])
        await asyncio.gather(lines, self._enqueue(ADD_BATCH, [(uuid, file, batch)]))

    async def forget_batch(self, uuid: str) -> None:
        """Delete a batch that the endpoint did not accept."""
        await self.write(_FORGET_BATCH, [(uuid,)])

    async def write(self, statement: Statement, rows: Sequence[tuple[Any, ...]]) -> None:
        """Execute a statement for every row in the next group commit; return when it is durable."""
        await self._enqueue(statement, rows)

    async def claim(
        self, keys: Sequence[bytes], run: str, stage: str, model: str, cost_usd: float = 0.0
    ) -> bool:
        """Claim the keys of a request; return False if another process has one of them."""
        with as_ledger_errors(self.path):
            return await self.claims.take(keys, run, stage, model, cost_usd)

    def _enqueue(self, statement: Statement, rows: Sequence[tuple[Any, ...]]) -> asyncio.Future[None]:
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
            rows_of: dict[Statement, list[tuple[Any, ...]]] = {}
            for statement, rows, _ in batch:
                rows_of.setdefault(statement, []).extend(rows)
            error: Exception | None = None
            try:
                with as_ledger_errors(self.path):
                    await loop.run_in_executor(self._thread, self._commit, rows_of)
            except LedgerError as failure:
                error = failure
            self._next_commit_at = loop.time() + GATHER_S
            for _, _, durable in batch:
                if not durable.done():
                    durable.set_exception(error) if error else durable.set_result(None)

    def _commit(self, rows_of: Mapping[Statement, Sequence[tuple[Any, ...]]]) -> None:
        try:
            self._execute(rows_of)
        except sqlite3.OperationalError as error:
            if "full" not in str(error) or not self._reserve.exists():
                raise
            self._reserve.unlink()
            with contextlib.suppress(sqlite3.OperationalError):  # a checkpoint that does not fit can wait
                self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._execute(rows_of)
            raise  # the answers are stored; the run asks no more

    def _execute(self, rows_of: Mapping[Statement, Sequence[tuple[Any, ...]]]) -> None:
        """Insert many rows in one step: each step costs a hand-over of the GIL from the thread that asks."""
        with self.connection:
            for statement, rows in rows_of.items():
                if not statement.placeholders:
                    self.connection.executemany(statement.text(), rows)
                    continue
                for start in range(0, len(rows), ENOUGH):
                    part = rows[start : start + ENOUGH]
                    self.connection.execute(statement.text(len(part)), list(chain.from_iterable(part)))

    async def close(self) -> None:
        """Commit pending rows, then close."""
        if self._commits:
            await self._commits
        self.close_now()

    def close_now(self) -> None:
        """Close without an event loop; there must be no pending rows."""
        try:
            with as_ledger_errors(self.path):
                self.claims.leave()
        finally:
            self._thread.shutdown()
            self._opened.close()
            if self.connection is not self._read:
                self._reserve.unlink(missing_ok=True)


def read_answers(path: Path, keys: Sequence[bytes]) -> dict[bytes, dict[str, Any]]:
    """Return the newest answer of each key, with the columns of `answers` by name, and the request and the
    completion parsed. Only these rows are read. Raise LedgerError.
    """
    names = ["key", "stage", "model", "status", "input_tokens", "output_tokens", "cost_usd", "at"]
    query = f"SELECT {', '.join(names)}, request, completion FROM answers WHERE key IN ({{}}) ORDER BY id"
    answers = {}
    with as_ledger_errors(path), contextlib.closing(connect(path, read_only=True)) as connection:
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            for row in connection.execute(query.format(",".join("?" * len(part))), part):
                *values, request, completion = row
                parts = {"request": orjson.loads(request), "completion": orjson.loads(completion)}
                answers[row[0]] = {**dict(zip(names, values, strict=True)), **parts}
    return answers


def _upgrade(connection: sqlite3.Connection) -> None:
    """Upgrade a file of format 2, unless another process has done so."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 2:
            for statement in _UPGRADE:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")


def connect(path: Path, read_only: bool) -> sqlite3.Connection:
    """Open the file. SQLite creates it if it is not `read_only`."""
    uri = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False, timeout=30)
    try:
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -8000")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _refuse_network(path: Path) -> None:
    """Raise LedgerError on a network file system: SQLite's shared memory and locks are for one machine, and a
    file that two write is damaged.
    """
    if kind := network_file_system(path.parent):
        raise LedgerError(
            f"the ledger {path} is on a network file system ({kind}), where SQLite can lose answers. Choose "
            "a folder on a disk of this machine with --ledger, and bring the ledgers of several machines "
            "together with: distillgen ledger merge"
        )


def _refuse_truncated(path: Path) -> None:
    """Raise LedgerError if the file is cut short. SQLite notices a missing page only when it reads it."""
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
        f"the ledger {path} is damaged ({how}). Nothing was asked. Run again with --salvage: every answer "
        "that "
        "can still be read is copied to a new ledger, the damaged file is kept, and only what is lost is "
        "asked "
        "again"
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
            "locked": "another program has been writing it for over 30 s",
            "readonly": "it cannot be written. Choose another --ledger, or make this one writable",
            "unable to open": "it cannot be opened. Choose another --ledger, or make this one writable",
            "Permission": "it cannot be opened. Choose another --ledger, or make this one writable",
        }
        remedy = next((remedy for sign, remedy in remedies.items() if sign in text), text)
        raise LedgerError(f"the ledger {path}: {remedy}") from error
