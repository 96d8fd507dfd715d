"""Merge, verify, compact and export ledgers, and save what a damaged one still holds."""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from distillgen.errors import LedgerError
from distillgen.inference.ledger import ADD_BATCH, ADD_LINE, ADD_SCORE, COUNTS, UNANSWERED, Answer, Ledger
from distillgen.inference.logprobs import unpack
from distillgen.inference.places import Place, resolved, salvaged
from distillgen.inference.promises import ADD_PROMISE
from distillgen.inference.store import Session, Store, insert
from distillgen.state_files import PARTIAL

BESIDE = {
    "scores": ("key", "value"),
    "batches": ("uuid", "file", "batch"),
    "batch_lines": ("custom_id", "uuid"),
    "promises": ("key", "run", "cost_usd"),
}
"""The tables that `merge` copies besides the answers, with their columns."""
COPIED = 500  # rows that `merge` copies at once
STATUSES = ("ok", "length", "refused", "failed", *UNANSWERED)
MOST_FAULTS = 20  # that `verify` names
_ANSWERS = f"SELECT {', '.join(Answer._fields)}, id FROM answers ORDER BY id"


class Verdict(NamedTuple):
    """What `verify` found: the number of rows of each status, and each fault in words."""

    rows: dict[str, int]
    faults: list[str]


class Compaction(NamedTuple):
    """What `compact` did: the number of answers whose texts it deleted, and the bytes before and after."""

    superseded: int
    before: int
    after: int


def merge(into: Place, others: Sequence[Place], *, renamed: Mapping[str, str] | None = None) -> int:
    """Copy answers, scores and batches of other ledgers into one; return the number of answers copied.

    `renamed` gives runs another name in the copies. An answer is copied if `into` has none to its request, or
    only failed ones. Raise LedgerError if a place is no ledger.
    """
    if any(resolved(other) == resolved(into) for other in others):
        raise LedgerError(f"the ledger {into} cannot be merged into itself")
    with contextlib.ExitStack() as opened:
        sources = [opened.enter_context(_opened(other, read_only=True)) for other in others]
        target = opened.enter_context(_opened(into))
        return sum(target.transact(_Copy(source, target, renamed or {})) for source in sources)


@dataclass(frozen=True)
class _Copy:
    """The transaction that copies a ledger into another."""

    source: Store
    target: Store
    renamed: Mapping[str, str]

    def __call__(self, session: Session) -> int:
        count, add = 0, self.target.add(Answer._fields)
        (newest,) = session.execute("SELECT coalesce(max(id), 0) FROM answers").fetchone()
        answers = (Answer(*values) for *values, _ in self.source.stream(_ANSWERS))
        while part := list(islice(answers, COPIED)):
            keys = ", ".join("?" * len(part))
            query = f"SELECT key, status FROM answers WHERE id <= ? AND key IN ({keys})"
            is_ok: dict[bytes, bool] = {}  # whether one of the answers of a key is
            for key, status in session.execute(query, (newest, *(answer.key for answer in part))).fetchall():
                is_ok[key] = is_ok.get(key, False) or status == "ok"
            lacking = [a for a in part if a.key not in is_ok or (a.status == "ok" and not is_ok[a.key])]
            self.target.execute(
                session, add, self.target.stamped([self._copied(answer) for answer in lacking])
            )
            count += len(lacking)
        for table, columns in BESIDE.items():
            if not self.source.has(table):
                continue
            statement = insert(f"INSERT INTO {table} ({', '.join(columns)})", len(columns))
            statement = statement._replace(update=f"ON CONFLICT ({columns[0]}) DO NOTHING")
            rows = self.source.stream(f"SELECT {', '.join(columns)} FROM {table}")
            while beside := list(islice(rows, COPIED)):
                self.target.execute(session, statement, beside)
        return count

    def _copied(self, answer: Answer) -> Answer:
        """Return the copy of an answer, under the new name of its run."""
        return _with_texts(answer)._replace(run=self.renamed.get(answer.run, answer.run))


def salvage(path: Path) -> tuple[int, Path]:
    """Replace a damaged ledger by a new one with every answer, score and batch that can still be read.

    Return the number of answers and the new path of the damaged file. If the process is killed, the next call
    goes on. From the moment when the new ledger is whole until it is in its place, neither can be opened.
    Raise LedgerError, and leave the file where it is, if no answer can be read.
    """
    salvaged_file = salvaged(path)
    if not salvaged_file.exists():
        partial = salvaged_file.with_name(salvaged_file.name + PARTIAL)
        for part in (*_files_of(partial), partial.with_name(partial.name + ".reserve")):
            part.unlink(missing_ok=True)  # of a process that was killed
        _copy_readable(path, partial)
        os.replace(partial, salvaged_file)
    damaged = path.with_name(f"{path.name}.damaged-{int(salvaged_file.stat().st_mtime)}")
    for part, kept in zip(reversed(_files_of(path)), reversed(_files_of(damaged)), strict=True):
        with contextlib.suppress(FileNotFoundError):
            os.replace(part, kept)
    os.replace(salvaged_file, path)
    with _opened(path, read_only=True) as store:
        return int(store.rows("SELECT count(*) FROM answers")[0][0]), damaged


def _files_of(path: Path) -> list[Path]:
    """Return the files of a database: its own, then its log and the index of the log."""
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]


def _copy_readable(path: Path, into: Path) -> None:
    """Copy what can be read of a damaged ledger into a new one. Raise LedgerError if nothing can."""
    columns = ""
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.suppress(sqlite3.DatabaseError):
        source.execute("PRAGMA writable_schema = ON")
        columns = _columns_of(source)
    if "key" not in columns:
        raise LedgerError(
            f"'{path}' is no ledger, or one that has lost its beginning: no answer can be read from it. "
            "Restore a copy of it, or give another --ledger"
        )

    def copy(session: Session) -> None:
        rows = (Answer(*row) for row in _readable(path, "answers", columns, "key"))
        answers = (_with_texts(row) for row in rows if row.completion == b"" or _is_complete(row))
        session.executemany(store.add(Answer._fields).text(), answers)
        session.executemany(ADD_BATCH.text(), _readable(path, "batches", "uuid, file, batch", "uuid"))
        lines = _readable(path, "batch_lines", "custom_id, uuid", "custom_id")
        session.executemany(ADD_LINE.text(), lines)
        promises = _readable(path, "promises", "key, run, cost_usd", "key")
        session.executemany(ADD_PROMISE.text(), promises)
        session.executemany(ADD_SCORE.text(), _readable_scores(path))

    with _opened(into) as store:
        store.transact(copy)


def verify(place: Place) -> Verdict:
    """Read every page and every row of a ledger. Raise LedgerError if it cannot be read at all."""
    rows: Counter[str] = Counter()
    with _opened(place, read_only=True) as store:
        faults = list(store.faults(MOST_FAULTS))
        for *values, number in store.stream(_ANSWERS):
            answer = Answer(*values)
            rows[answer.status] += 1
            if len(faults) < MOST_FAULTS and (fault := _fault(answer)):
                faults.append(f"row {number}: {fault}")
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


def compact(place: Place) -> Compaction:
    """Delete the texts of superseded answers, and give the freed space back to the disk.

    An answer is superseded if its request was asked again and was answered: no run reads the older one. Its
    row stays, with its key, its tokens and its cost, so that all sums are as before, and a run whose rows
    came from it still notices. Raise LedgerError if another process uses the ledger.
    """
    with _opened(place) as store:
        before = store.size()
        if store.rows("SELECT count(*) FROM owners")[0][0]:
            raise LedgerError(f"the ledger {place} is in use by another run; wait for it before you compact")
        superseded = store.transact(
            lambda session: (
                session.execute(
                    "UPDATE answers SET request = ?, completion = ?, signals = NULL"
                    " WHERE completion != ? AND EXISTS (SELECT 1 FROM answers AS newer"
                    " WHERE newer.key = answers.key AND newer.id > answers.id AND newer.status = 'ok')",
                    (b"", b"", b""),
                ).rowcount
            )
        )
        store.tidy()
        return Compaction(superseded, before, store.size())


def export(place: Place, file: Path) -> int:
    """Write the rows of a ledger as JSON lines, in the order in which they were stored; return their number.

    A line has the columns of a row, the request and the completion as objects, the key in hexadecimal, and
    `superseded` where a newer row has the same key. A half-written file does not stay.
    """
    count, partial = 0, file.with_name(file.name + PARTIAL)
    columns = [name for name in Answer._fields if name not in ("key", "request", "completion", "signals")]
    query = (
        "SELECT id, key, request, completion, signals, CAST(at AS text),"
        " id < (SELECT max(id) FROM answers AS newer"
        f" WHERE newer.key = answers.key), {', '.join(columns)} FROM answers ORDER BY id"
    )
    try:
        with _opened(place, read_only=True) as store, store.errors(), partial.open("wb") as stream:
            for number, key, request, completion, signals, at, superseded, *values in store.stream(query):
                try:
                    logprobs, embedding = unpack(signals)
                except Exception as error:
                    problem = f"the numbers in row {number} of the ledger {place} cannot be read"
                    raise LedgerError(f"{problem}; see: distillgen ledger verify") from error
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
        partial.unlink(missing_ok=True)
    return count


@contextlib.contextmanager
def _opened(place: Place, *, read_only: bool = False) -> Iterator[Store]:
    """Open the database of a ledger, with the owners that are alive."""
    ledger = Ledger(place, read_only=read_only)
    try:
        yield ledger.store
    finally:
        ledger.close_now()


def _columns_of(connection: sqlite3.Connection) -> str:
    """Return the columns of the answers in a file; format 2 lacks some."""
    present = {row[1] for row in connection.execute("PRAGMA table_info(answers)")}
    return ", ".join(name for name in Answer._fields if name in present)


def _with_texts(answer: Answer) -> Answer:
    """Return the copy of an answer. One whose texts `compact` deleted gets a random key: without the newer
    answer, its key would be that of an empty text.
    """
    if answer.completion != b"":
        return answer
    return answer._replace(key=os.urandom(16), request=b"{}", completion=b"{}")


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
