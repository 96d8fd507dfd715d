"""The ledger: a durable store of completions, keyed by everything that was sent.

It is a SQLite file or a PostgreSQL database. Rows are appended in group commits: a commit takes the rows that
arrived during the commit before it and in the 10 ms after, as long as one arrives every millisecond and there
are fewer than 32. An answer is durable before `add` returns. No row is updated: asking again appends a row,
and the newest row of a key counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from distillgen.inference.claims import Claims
from distillgen.inference.places import Place
from distillgen.inference.postgres_store import PostgresStore
from distillgen.inference.promises import Promises
from distillgen.inference.sqlite_store import SqliteStore
from distillgen.inference.store import ENOUGH, Session, Statement, Store, replacing
from distillgen.inference.worker import Worker

GATHER_S = 0.01
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


def added(usages: Iterable[Usage], less: Iterable[Usage] = ()) -> list[Usage]:
    """Return the sums of usages by run, stage, model and status, less those in `less`."""
    sums: dict[tuple[str, ...], list[float]] = {}
    for sign, terms in ((1, usages), (-1, less)):
        for use in terms:
            counts = sums.setdefault(use[:4], [0] * len(COUNTS))
            counts[:] = [a + sign * b for a, b in zip(counts, use[4:], strict=True)]
    return [Usage(*labels, *counts) for labels, counts in sums.items()]  # type: ignore[arg-type]


ADD_BATCH = replacing("batches", "uuid", "file", "batch")
ADD_LINE = replacing("batch_lines", "custom_id", "uuid")
ADD_SCORE = replacing("scores", "key", "value")
_FORGET_BATCH = Statement("DELETE FROM batches WHERE uuid = ?")
_SUMS = ", ".join(
    f"coalesce(sum({name}), 0)" if name == "cost_usd" else f"CAST(coalesce(sum({name}), 0) AS bigint)"
    for name in COUNTS[1:]
)
_TOTALS = (
    f"SELECT {', '.join(LABELS)}, count(CASE WHEN status IN {UNANSWERED} THEN NULL ELSE 1 END), {_SUMS}"
    " FROM answers WHERE run IN ({}) GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
)
_RUNS = """
WITH RECURSIVE names (run) AS (
    SELECT min(run) FROM answers UNION ALL
    SELECT (SELECT min(run) FROM answers WHERE run > names.run) FROM names WHERE names.run IS NOT NULL
)
SELECT run FROM names WHERE run IS NOT NULL
"""
"""The names of the runs: a step in the index for each, however many answers it has."""


def open_store(place: Place, *, read_only: bool = False) -> Store:
    """Open or create the database of a ledger. Raise LedgerError if it cannot be used."""
    columns, usage = Answer._fields, (*LABELS, *COUNTS[1:])
    if isinstance(place, Path):
        return SqliteStore(place, columns, usage, read_only=read_only)
    return PostgresStore(place, columns, usage, read_only=read_only)


class Ledger:
    """An open ledger. Use it from one event loop; `await close()` commits pending rows."""

    def __init__(self, place: Place, *, read_only: bool = False) -> None:
        """Open or create it. Raise LedgerError if it is damaged, not a ledger, or cannot be written."""
        self.place = place
        self._pending: list[tuple[Statement, Sequence[tuple[Any, ...]], asyncio.Future[None]]] = []
        self._commits: asyncio.Task[None] | None = None
        self._next_commit_at = 0.0
        self._thread = Worker("ledger")
        self.store = open_store(place, read_only=read_only)
        try:
            self._add = self.store.add(Answer._fields)
            self.claims = Claims(self.store, self._thread, self._enqueue, self._rows)
            if not read_only:
                self.claims.bury()
            self.promises = Promises(self.store, self._enqueue)
            self._last_id = self.store.last_id()
            self._added: dict[tuple[str, ...], list[float]] = {}
            self._added_rows = 0
            self._before: dict[str | None, list[Usage]] = {}
            if self.store.numbers_rows:  # a file: its index is read whole, so that damage shows at once
                self.usage()
        except BaseException:
            self.store.close()
            raise

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
        return rows_of_keys(self.store, query, keys)

    def usage(self, run: str | None = None) -> list[Usage]:
        """Return totals by run, stage, model and status: of all runs, or of one run and the runs in its
        folder.

        The first call for a run sums up its answers in the ledger; what this process adds is counted on. So a
        ledger of a thousand runs takes as long as that of one.
        """
        before = next((sums for of, sums in self._before.items() if _is_in(run, of)), None)
        if before is None:
            names = [name for (name,) in self.store.rows(_RUNS) if _is_in(name, run)]
            sums = (Usage(*row) for row in self._rows(_TOTALS, names))
            before = self._before[run] = added(sums, less=self.usage_added(run))
        return added([*(use for use in before if _is_in(use.run, run)), *self.usage_added(run)])

    def usage_added(self, run: str | None = None) -> list[Usage]:
        """Return the part of the totals that this process has added."""
        sums = self._added.items()
        return [Usage(*labels, *counts) for labels, counts in sums if _is_in(labels[0], run)]  # type: ignore[arg-type]

    def spent_usd(self, run: str | None) -> float:
        """Return what all runs have cost, or one run and the runs in its folder. What requests in flight and
        promised answers may cost counts.
        """
        promises_usd = sum(self.promised_usd(run).values())
        return sum(used.cost_usd for used in self.usage(run)) + self.claims.at_risk_usd(run) + promises_usd

    def promised_usd(self, run: str | None) -> dict[bytes, float]:
        """Return what the answers may cost that earlier processes of a run left to come, by ledger key."""
        return self.promises.left(lambda name: _is_in(name, run))

    @property
    def last_id(self) -> int:
        """A number that no row of any process has yet to get: what `superseded_since` counts from."""
        return self.store.last_id()

    @property
    def is_alone(self) -> bool:
        """Whether it is known that no other process has added a row since the ledger was opened."""
        return self.store.numbers_rows and self._last_id + self._added_rows == self.last_id

    def superseded_since(self, last_id: int, run: str) -> bool:
        """Return whether another run has replaced an older answer since `last_id`, so that records made of
        the older one are out of date. Also return True if there are fewer rows than then.
        """
        now = self.last_id
        ends = "SELECT (SELECT min(run) FROM answers), (SELECT max(run) FROM answers)"
        if now <= last_id or {*self.store.rows(ends)[0]} <= {run, None}:
            return now < last_id
        query = (
            f"SELECT EXISTS (SELECT 1 FROM answers AS newer WHERE {self.store.order} > ? AND run != ? AND"
            " EXISTS (SELECT 1 FROM answers AS older WHERE older.key = newer.key AND older.id < newer.id))"
        )
        return bool(self.store.rows(query, (last_id, run))[0][0])

    @property
    def is_empty(self) -> bool:
        """Whether it holds no answer."""
        return not self.store.rows("SELECT EXISTS (SELECT 1 FROM answers)")[0][0]

    async def add(self, answers: Sequence[Answer]) -> None:
        """Append answers, and release their claims, in one transaction; return when they are durable."""
        keys = [answer.key for answer in answers]
        self.claims.release(keys)
        self.promises.end(keys)
        await self._enqueue(self._add, self.store.stamped(answers))
        self._added_rows += len(answers)
        for answer in answers:
            total = self._added.setdefault(answer[1:5], [0] * len(COUNTS))
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
                await loop.run_in_executor(self._thread, self._commit, rows_of)
            except Exception as failure:  # goes to all who wait, whatever it is: or they would wait for ever
                error = failure
            self._next_commit_at = loop.time() + GATHER_S
            for _, _, durable in batch:
                if not durable.done():
                    durable.set_exception(error) if error else durable.set_result(None)

    def _commit(self, rows_of: Mapping[Statement, Sequence[tuple[Any, ...]]]) -> None:
        def write(session: Session) -> None:
            for statement, rows in rows_of.items():
                self.store.execute(session, statement, rows)

        self.store.transact(write)

    async def close(self) -> None:
        """Commit pending rows, then close."""
        if self._commits:
            await self._commits
        self.close_now()

    def close_now(self) -> None:
        """Close without an event loop; there must be no pending rows."""
        try:
            self.claims.leave()
        finally:
            self._thread.shutdown()
            self.store.close()


def _is_in(run: str | None, folder: str | None) -> bool:
    """Return whether a run is this one, or in its folder; None stands for all runs."""
    return folder is None or (run is not None and f"{run}/".startswith(f"{folder}/"))


def rows_of_keys(store: Store, query: str, keys: Sequence[bytes | str]) -> Iterator[Any]:
    """Yield the rows of a query for many keys, which take the place of `{}`."""
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        yield from store.rows(query.format(",".join("?" * len(part))), part)


def read_answers(place: Place, keys: Sequence[bytes]) -> dict[bytes, dict[str, Any]]:
    """Return the newest answer of each key, with the columns of `answers` by name, and the request and the
    completion parsed. Only these rows are read. Raise LedgerError.
    """
    names = ["key", "stage", "model", "status", "input_tokens", "output_tokens", "cost_usd"]
    columns = f"{', '.join(names)}, CAST(at AS text), request, completion"
    query = f"SELECT {columns} FROM answers WHERE key IN ({{}}) ORDER BY id"
    answers = {}
    with contextlib.closing(open_store(place, read_only=True)) as store:
        for *values, at, request, completion in rows_of_keys(store, query, keys):
            parts = {"request": orjson.loads(request), "completion": orjson.loads(completion)}
            answers[values[0]] = {**dict(zip(names, values, strict=True)), "at": at, **parts}
    return answers
