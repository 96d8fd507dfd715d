"""Claims: of several processes with one ledger, only one sends a request at a time.

A process that sends requests is an owner. It has a lease, which a thread renews. A claim is written to the
ledger before its request is sent, and deleted in the transaction that stores the answer. A process that finds
the claim of another owner waits for the answer. If the owner has died, it takes the claim over.

A process that is alone writes no claims. A later process registers as an owner first, and sends nothing until
the earlier ones have written their claims. A claim with a cost is always written: if its owner is killed, the
request may be billed, and the ledger counts it as lost.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import platform
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distillgen.inference.statements import Statement, insert
from distillgen.inference.worker import Worker
from distillgen.platforms import has_ended

log = logging.getLogger("distillgen")

LEASE_S = 30.0  # a process that hangs, or one on another machine, loses its claims after this time
BEAT_S = 0.25  # seconds between two looks at the other owners
SCHEMA = """
CREATE TABLE IF NOT EXISTS owners (
    id INTEGER PRIMARY KEY AUTOINCREMENT, host, pid, lease_until, newest_known
);
CREATE TABLE IF NOT EXISTS claims (key PRIMARY KEY, owner, run, stage, model, cost_usd) WITHOUT ROWID;
"""
_CLAIM = insert("INSERT OR IGNORE INTO claims", 6)
_SECURE = Statement("UPDATE claims SET cost_usd = 0 WHERE key = ?")
_RELEASE = Statement("DELETE FROM claims WHERE key = ? AND owner = ?")
_COUNT_LOST = """
INSERT INTO answers (key, run, stage, model, status, requests, retries, input_tokens, cached_tokens,
output_tokens, cost_usd, request, completion)
SELECT randomblob(16), run, stage, model, 'lost', 0, 0, 0, 0, 0, cost_usd, CAST('{}' AS BLOB),
CAST('{"error":"the run was killed before the answer came"}' AS BLOB)
FROM claims WHERE owner = ? AND cost_usd > 0
"""

Write = Callable[[Statement, Sequence[tuple[Any, ...]]], "asyncio.Future[None]"]
Find = Callable[[str, Sequence[bytes]], Iterator[Any]]


class Claims:
    """The claims of one open ledger. `connection` is used in `thread` only; `write` adds rows to the next
    group commit, and `find` reads committed rows.
    """

    def __init__(self, connection: sqlite3.Connection, thread: Worker, write: Write, find: Find) -> None:
        self._connection, self._thread, self._write, self._find = connection, thread, write, find
        self._owner = self._newest_known = 0
        self._known: set[int] = set()
        """The living owners when the lease was renewed."""
        self._renewed_at = 0.0
        self._entering: asyncio.Task[None] | None = None
        self._flying: dict[bytes, tuple[Any, ...]] = {}
        self._written: set[bytes] = set()
        self._end_beats: Callable[[], None] = lambda: None
        self.shared = False
        """Whether another process sends requests, too."""

    @property
    def period(self) -> int:
        """A number of the time in which this process is alone; 0 while another may send requests.

        If it is the same before a look into the ledger and after a claim, no other process has stored an
        answer in between.
        """
        return 0 if self.shared else self._newest_known

    def take_alone(self, keys: Sequence[bytes], run: str, stage: str, model: str) -> bool:
        """Claim keys without a cost in memory and return True, if no other process sends requests. Else
        return False: call `take`.
        """
        if self.shared or not self._owner or self._entering:
            return False
        for key in keys:
            self._flying[key] = (key, self._owner, run, stage, model, 0.0)
        return (
            not self.shared
        )  # read after the line above: the thread that sets it writes the claims in memory

    async def take(self, keys: Sequence[bytes], run: str, stage: str, model: str, cost_usd: float) -> bool:
        """Claim the keys of a request and return True; return False, and claim none, if another process has
        one of them.

        `cost_usd` is what the request may cost if the process is killed; 0 means that it is not counted then.
        """
        if not self._owner or self._entering:
            self._entering = self._entering or asyncio.create_task(self._enter_in_turn())
            await asyncio.shield(self._entering)
        rows = [(key, self._owner, run, stage, model, 0.0 if i else cost_usd) for i, key in enumerate(keys)]
        self._flying.update(zip(keys, rows, strict=True))
        if not (self.shared or cost_usd):  # read after the line above, as in take_alone
            return True
        self._written.update(keys)
        await self._write(_CLAIM, rows)
        if not self._holds(keys):
            self.release(keys)
            return False
        return True

    def _holds(self, keys: Sequence[bytes]) -> bool:
        """Return whether the claims of all keys are this process's.

        A key is nobody's if the claim that stood in the way has been given up since, by another process or
        by this one: a transaction deletes claims after it has added others.
        """
        query = f"SELECT key FROM claims WHERE owner = {self._owner} AND key IN ({{}})"
        return {key for (key,) in self._find(query, keys)} == {*keys}

    def elsewhere(self, keys: Sequence[bytes]) -> set[bytes]:
        """Return the keys that another process has claimed."""
        return {
            key
            for (key,) in self._find(
                f"SELECT key FROM claims WHERE owner != {self._owner} AND key IN ({{}})", keys
            )
        }

    async def secure(self, keys: Sequence[bytes]) -> None:
        """Take the cost back from claims whose answers come even if the process is killed."""
        await self._write(_SECURE, [(key,) for key in keys])

    def release(self, keys: Sequence[bytes]) -> None:
        """Give up claims in the next transaction."""
        for key in keys:
            self._flying.pop(key, None)
        if self._written and (written_keys := self._written.intersection(keys)):
            self._written -= written_keys
            rows = [(key, self._owner) for key in written_keys]
            self._write(_RELEASE, rows).add_done_callback(lambda done: done.cancelled() or done.exception())

    def at_risk_usd(self, run: str | None) -> float:
        """Return what the claimed requests of all runs may cost, or of one run and the runs in its folder.

        A run has one process at a time. So the claims of a run that begins are of a killed process, even if
        its lease is not over, or if another process has its number now.
        """
        claims = self._connection.execute("SELECT run, cost_usd FROM claims WHERE cost_usd > 0").fetchall()
        return math.fsum(cost for name, cost in claims if run is None or f"{name}/".startswith(f"{run}/"))

    def bury(self) -> None:
        """Delete the claims of dead owners; count their requests with a cost as lost."""
        dead = [row[0] for row in self._owners() if not _is_alive(*row[1:4])]
        if dead:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._bury(dead)

    def leave(self) -> None:
        """Give up all claims and the lease."""
        if not self._owner:
            return
        self._end_beats()
        self._thread.submit(self._leave).result()

    async def _enter_in_turn(self) -> None:
        """Register as an owner, and wait until the earlier owners know of it."""
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(self._thread, self._enter):
            await asyncio.sleep(BEAT_S / 4)
        self._end_beats = self._thread.every(BEAT_S, self._beat)
        self._entering = None

    def _enter(self) -> bool:
        """Register, if not done; return whether an earlier owner does not know of this one yet."""
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            if not self._owner:
                owner = self._connection.execute("INSERT INTO owners (newest_known) VALUES (0)").lastrowid
                assert owner is not None
                self._owner = owner
            self._renew(self._others())
        return any(
            newest_known < self._owner for owner, *_, newest_known in self._owners() if owner < self._owner
        )

    def _beat(self) -> None:
        try:
            self._look_around()
        except sqlite3.Error as error:  # the run gets the same error with its next answer
            log.warning("the lease in the ledger was not renewed: %s", error)

    def _look_around(self) -> None:
        """Check whether this process is alone; renew its lease."""
        owners = self._owners()
        self.shared = self.shared and len(owners) > 1
        if (
            self._known.issuperset(row[0] for row in owners)
            and any(row[0] == self._owner for row in owners)
            and all(_is_alive(*row[1:4]) for row in owners)
            and time.monotonic() - self._renewed_at < LEASE_S / 3
        ):
            return
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._renew(self._others())

    def _others(self) -> list[int]:
        """Return the other living owners, and bury the dead ones."""
        others = [row for row in self._owners() if row[0] != self._owner]
        self._bury([row[0] for row in others if not _is_alive(*row[1:4])])
        return [row[0] for row in others if _is_alive(*row[1:4])]

    def _renew(self, others: Sequence[int]) -> None:
        """Write the claims in memory if there are other owners; renew the lease."""
        self.shared = bool(others)  # before the next line: later claims are written at once
        newest = max((*others, self._owner, self._newest_known))  # or an earlier period would come again
        if others:
            flying = dict(self._flying)
            self._written.update(flying)
            self._connection.executemany(_CLAIM.text(), list(flying.values()))
            released = flying.keys() - self._flying.keys()  # since `flying` was copied
            self._written -= released
            self._connection.executemany(_RELEASE.text(), [(key, self._owner) for key in released])
        now = time.monotonic()
        row = (self._owner, platform.node(), os.getpid(), now + LEASE_S, newest)
        self._connection.execute("INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?, ?)", row)
        self._newest_known, self._renewed_at, self._known = newest, now, {*others, self._owner}

    def _bury(self, dead: Sequence[int]) -> None:
        for owner in dead:
            for statement in (
                _COUNT_LOST,
                "DELETE FROM claims WHERE owner = ?",
                "DELETE FROM owners WHERE id = ?",
            ):
                self._connection.execute(statement, (owner,))

    def _leave(self) -> None:
        """A claim that is left is of a request whose usage could not be stored."""
        with self._connection:
            self._bury([self._owner])

    def _owners(self) -> list[Any]:
        return self._connection.execute(
            "SELECT id, host, pid, lease_until, newest_known FROM owners"
        ).fetchall()


def _is_alive(host: str, pid: int, lease_until: float) -> bool:
    """Return whether an owner holds its lease. A process of this machine that has ended does not. The
    monotonic clock starts again with the machine, so a lease from before is too far in the future.
    """
    if host == platform.node() and has_ended(pid):
        return False
    return 0 < lease_until - time.monotonic() <= LEASE_S
