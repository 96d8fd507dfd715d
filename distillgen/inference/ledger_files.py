"""Merge, verify, compact and export ledgers, and save what a damaged one still holds."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from distillgen.errors import LedgerError
from distillgen.inference.ledger import (
    ADD,
    ADD_BATCH,
    ADD_LINE,
    ADD_SCORE,
    COUNTS,
    UNANSWERED,
    Answer,
    Ledger,
    as_ledger_errors,
)
from distillgen.inference.logprobs import unpack
from distillgen.state_files import PARTIAL

BESIDE = ("scores", "batches", "batch_lines")  # tables that `merge` copies besides the answers
STATUSES = ("ok", "length", "refused", "failed", *UNANSWERED)
MOST_FAULTS = 20  # that `verify` names


class Verdict(NamedTuple):
    """What `verify` found: the number of rows of each status, and each fault in words."""

    rows: dict[str, int]
    faults: list[str]


class Compaction(NamedTuple):
    """What `compact` did: the number of answers whose texts it deleted, and the bytes before and after."""

    superseded: int
    before: int
    after: int


def merge(into: Path, others: Sequence[Path], *, renamed: Mapping[str, str] | None = None) -> int:
    """Copy answers, scores and batches of other ledgers into one; return the number of answers copied.

    `renamed` gives runs another name in the copies.
    An answer is copied if `into` has none to its request, or only failed ones. Raise LedgerError if a file is
    no ledger.
    """
    if any(other.resolve() == into.resolve() for other in others):
        raise LedgerError(f"the ledger {into} cannot be merged into itself")
    for other in others:
        Ledger(other, read_only=True).close_now()
    ledger, count = Ledger(into), 0
    with as_ledger_errors(into):
        for other in others:
            ledger.connection.execute("ATTACH ? AS other", (str(other),))
            columns = _columns_of(ledger.connection, "other")
            with ledger.connection:
                count += ledger.connection.execute(
                    f"INSERT INTO main.answers ({columns}) SELECT {_without_texts(columns, renamed)}"
                    " FROM other.answers AS theirs WHERE NOT EXISTS ("
                    "SELECT 1 FROM main.answers AS ours WHERE ours.key = theirs.key"
                    " AND (ours.status = 'ok' OR theirs.status != 'ok')) ORDER BY theirs.id"
                ).rowcount
                for (table,) in ledger.connection.execute(
                    "SELECT name FROM other.sqlite_master WHERE type = 'table'"
                ):
                    if table in BESIDE:
                        ledger.connection.execute(
                            f"INSERT OR IGNORE INTO main.{table} SELECT * FROM other.{table}"
                        )
            ledger.connection.execute("DETACH other")
    ledger.close_now()
    return count


def salvage(path: Path) -> tuple[int, Path]:
    """Replace a damaged ledger by a new one with every answer, score and batch that can still be read.

    Return the number of answers and the new path of the damaged file.
    """
    damaged = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            os.replace(part, damaged.with_name(damaged.name + suffix))
    ledger = Ledger(path)
    with ledger.connection:
        with contextlib.closing(sqlite3.connect(damaged)) as source:
            source.execute("PRAGMA writable_schema = ON")
            columns = _columns_of(source)
        rows = (Answer(*row) for row in _readable(damaged, "answers", _without_texts(columns), "key"))
        count = ledger.connection.executemany(ADD.text(), (row for row in rows if _is_complete(row))).rowcount
        ledger.connection.executemany(
            ADD_BATCH.text(), _readable(damaged, "batches", "uuid, file, batch", "uuid")
        )
        ledger.connection.executemany(
            ADD_LINE.text(), _readable(damaged, "batch_lines", "custom_id, uuid", "custom_id")
        )
        ledger.connection.executemany(ADD_SCORE.text(), _readable_scores(damaged))
    ledger.close_now()
    return count, damaged


def verify(path: Path) -> Verdict:
    """Read every page and every row of a ledger. Raise LedgerError if it cannot be read at all."""
    faults: list[str] = []
    rows: Counter[str] = Counter()
    ledger = Ledger(path, read_only=True)
    try:
        with as_ledger_errors(path):
            for (line,) in ledger.connection.execute(f"PRAGMA integrity_check({MOST_FAULTS})"):
                if line != "ok":
                    faults.append(f"SQLite: {line}")
            columns = ", ".join(Answer._fields)
            for number, *values in ledger.connection.execute(
                f"SELECT id, {columns} FROM answers ORDER BY id"
            ):
                answer = Answer(*values)
                rows[answer.status] += 1
                if len(faults) < MOST_FAULTS and (fault := _fault(answer)):
                    faults.append(f"row {number}: {fault}")
    finally:
        ledger.close_now()
    return Verdict(dict(rows), faults)


def _fault(answer: Answer) -> str:
    """Say what is wrong with a row, or return an empty text."""
    if not isinstance(answer.key, bytes) or len(answer.key) not in (16, 32):
        return "its key is no SHA-256"
    if answer.status not in STATUSES:
        return f"its status is '{answer.status}'"
    if answer.completion and not _is_complete(answer):
        return "its request or its completion is not whole"
    counts = [getattr(answer, name) for name in COUNTS[1:]]
    if not all(isinstance(count, int | float) and math.isfinite(count) and count >= 0 for count in counts):
        return "a count of requests, tokens or money is not a number from 0 on"
    if answer.signals is not None:
        try:
            unpack(answer.signals)
        except Exception as error:
            return f"its log-probabilities or its embedding cannot be read: {type(error).__name__}"
    return ""


def compact(path: Path) -> Compaction:
    """Delete the texts of superseded answers, and give the freed space back to the disk.

    An answer is superseded if its request was asked again and was answered: no run reads the older one. Its
    row stays, with its key, its tokens and its cost, so that all sums are as before, and a run whose rows
    came from it still notices. Raise LedgerError if another process uses the ledger.
    """
    before, ledger = _bytes(path), Ledger(path)
    try:
        with as_ledger_errors(path):
            connection = ledger.connection
            if connection.execute("SELECT EXISTS (SELECT 1 FROM owners)").fetchone()[0]:
                raise LedgerError(
                    f"the ledger {path} is in use by another run; wait for it before you compact"
                )
            with connection:
                superseded = connection.execute(
                    "UPDATE answers SET request = x'', completion = x'', signals = NULL"
                    " WHERE completion != x'' AND EXISTS (SELECT 1 FROM answers AS newer"
                    " WHERE newer.key = answers.key AND newer.id > answers.id AND newer.status = 'ok')"
                ).rowcount
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        ledger.close_now()
    return Compaction(superseded, before, _bytes(path))


def export(path: Path, file: Path) -> int:
    """Write the rows of a ledger as JSON lines, in the order in which they were stored; return their number.

    A line has the columns of a row, the request and the completion as objects, the key in hexadecimal, and
    `superseded` where a newer row has the same key. A half-written file does not stay.
    """
    count, partial = 0, file.with_name(file.name + PARTIAL)
    columns = [name for name in Answer._fields if name not in ("key", "request", "completion", "signals")]
    query = (
        f"SELECT key, request, completion, signals, at, id < (SELECT max(id) FROM answers AS newer"
        f" WHERE newer.key = answers.key), {', '.join(columns)} FROM answers ORDER BY id"
    )
    ledger = Ledger(path, read_only=True)
    try:
        with as_ledger_errors(path), partial.open("wb") as stream:
            for key, request, completion, signals, at, superseded, *values in ledger.connection.execute(
                query
            ):
                logprobs, embedding = unpack(signals) if signals else ((), ())
                row = {
                    "key": key.hex(),
                    **dict(zip(columns, values, strict=True)),
                    "at": at,
                    **({"superseded": True} if superseded else {}),
                    "request": orjson.Fragment(request or b"null"),
                    "completion": orjson.Fragment(completion or b"null"),
                    **({"logprobs": logprobs} if logprobs else {}),
                    **({"embedding": embedding} if embedding else {}),
                }
                stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
                count += 1
            stream.close()
            os.replace(partial, file)
    finally:
        ledger.close_now()
        partial.unlink(missing_ok=True)
    return count


def _bytes(path: Path) -> int:
    """Return the size of a ledger's files."""
    files = (path.with_name(path.name + suffix) for suffix in ("", "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def _columns_of(connection: sqlite3.Connection, database: str = "main") -> str:
    """Return the columns of the answers in a file; format 2 lacks some."""
    present = {row[1] for row in connection.execute(f"PRAGMA {database}.table_info(answers)")}
    return ", ".join(name for name in Answer._fields if name in present)


def _without_texts(columns: str, renamed: Mapping[str, str] | None = None) -> str:
    """Return the SQL that reads the columns for a copy. An answer whose texts `compact` deleted gets a random
    key: without the newer answer, its key would be that of an empty text.
    """
    names = "".join(f" WHEN {_quoted(old)} THEN {_quoted(new)}" for old, new in (renamed or {}).items())
    read = {
        "run": f"CASE run{names} ELSE run END" if names else "run",
        "key": "CASE completion WHEN x'' THEN randomblob(16) ELSE key END",
        "request": "CASE request WHEN x'' THEN CAST('{}' AS BLOB) ELSE request END",
        "completion": "CASE completion WHEN x'' THEN CAST('{}' AS BLOB) ELSE completion END",
    }
    return ", ".join(read.get(name, name) for name in columns.split(", "))


def _quoted(text: str) -> str:
    """Return a text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _is_complete(answer: Answer) -> bool:
    """Return whether a row is complete; SQLite reads zeros beyond the end of a file."""
    try:
        return isinstance(orjson.loads(answer.request), dict) and isinstance(
            orjson.loads(answer.completion), dict
        )
    except (orjson.JSONDecodeError, TypeError):
        return False


def _readable(path: Path, table: str, columns: str, key: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows that can be read. A broken page costs only the rows on it; rows of a blank page, which
    have no key, are left out.
    """
    query = (
        f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE rowid > ? AND {key} NOT NULL ORDER BY rowid"
    )
    with contextlib.closing(sqlite3.connect(path)) as source:
        source.execute("PRAGMA writable_schema = ON")  # else SQLite refuses a file that is cut short
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
    """Yield the scores before the first broken page and after the last one."""
    with contextlib.closing(sqlite3.connect(path)) as source:
        source.execute("PRAGMA writable_schema = ON")
        for order in ("ASC", "DESC"):
            with contextlib.suppress(sqlite3.DatabaseError):
                for key, value in source.execute(f"SELECT key, value FROM scores ORDER BY key {order}"):
                    with contextlib.suppress(orjson.JSONDecodeError):
                        orjson.loads(value)
                        yield key, value
                return
