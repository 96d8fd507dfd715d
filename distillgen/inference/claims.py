"""Who asks for what, where several processes have one ledger open: what one of them has in flight no other sends.

A process that asks is an owner, with a lease that a thread of its own renews. A claim stands in the ledger before its
request is sent, and goes with the answer, in one transaction. Whoever finds a claim of another owner waits for the answer,
and takes the claim over where its owner has died.

A process that has the ledger to itself writes no claims. One that comes later says so, and sends nothing before those
that were there have written down what they have in flight. Where a claim carries a cost, it is always written: what was
in flight when its owner was killed may be billed, and is counted as lost.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from distillgen.platforms import has_ended

log = logging.getLogger("distillgen")

LEASE_S = 30.0  # of a process that hangs, or of another machine; one of this machine that has ended is noticed at once
BEAT_S = 0.25  # how often an owner looks whether it is alone
SCHEMA = """
CREATE TABLE IF NOT EXISTS owners (id INTEGER PRIMARY KEY AUTOINCREMENT, host, pid, lease_until, newest_known);
CREATE TABLE IF NOT EXISTS claims (key PRIMARY KEY, owner, run, stage, model, cost_usd) WITHOUT ROWID;
"""
_CLAIM = "INSERT OR IGNORE INTO claims VALUES (?, ?, ?, ?, ?, ?)"
_RELEASE = "DELETE FROM claims WHERE key = ? AND owner = ?"
_COUNT_LOST = """
INSERT INTO answers (key, run, stage, model, status, requests, retries, input_tokens, cached_tokens, output_tokens, cost_usd,
request, completion) SELECT randomblob(16), run, stage, model, 'lost', 0, 0, 0, 0, 0, cost_usd, CAST('{}' AS BLOB),
CAST('{"error":"the run was killed before the answer came"}' AS BLOB) FROM claims WHERE owner = ? AND cost_usd > 0
"""

Write = Callable[[str, Sequence[tuple[Any, ...]]], "asyncio.Future[None]"]
Find = Callable[[str, Sequence[bytes]], Iterator[Any]]


class Claims:
    """The claims of one open ledger. Its `connection` is used in `thread` only; `write` is the ledger's group commit, and
    `find` reads what is committed.
    """

    def __init__(
        self, connection: sqlite3.Connection, thread: ThreadPoolExecutor, write: Write, find: Find
    ) -> None:
        self._connection, self._thread, self._write, self._find = connection, thread, write, find
        self._owner = self._newest_known = 0
        self._renewed_at = 0.0
        self._entering: asyncio.Task[None] | None = None
        self._flying: dict[bytes, tuple[Any, ...]] = {}
        self._written: set[bytes] = set()
        self._left = threading.Event()
        self._beats = threading.Thread(target=self._beat_on, name="claims", daemon=True)
        self.shared = False
        """Whether another process asks, too."""

    def take_alone(self, keys: Sequence[bytes], run: str, stage: str, model: str) -> bool:
        """Claim what is about to be sent, and is not counted when the process is killed, where no other process asks:
        then nothing has to be written. False where `take` has to decide.
        """
        if self.shared or not self._owner or self._entering:
            return False
        for key in keys:
            self._flying[key] = (key, self._owner, run, stage, model, 0.0)
        return not self.shared  # read after the line above: whoever sets it publishes what is in flight

    async def take(self, keys: Sequence[bytes], run: str, stage: str, model: str, cost_usd: float) -> bool:
        """Claim what is about to be sent, which may cost so much (of one key; 0: not counted when the process is killed).
        False where another process has one of them in flight: then none is claimed.
        """
        if not self._owner or self._entering:
            self._entering = self._entering or asyncio.create_task(self._enter_in_turn())
            await asyncio.shield(self._entering)
        rows = [(key, self._owner, run, stage, model, 0.0 if i else cost_usd) for i, key in enumerate(keys)]
        self._flying.update(zip(keys, rows, strict=True))
        if not (
            self.shared or cost_usd
        ):  # read after the line above: whoever sets it publishes what is in flight
            return True
        self._written.update(keys)
        await self._write(_CLAIM, rows)
        if self.shared and self.elsewhere(keys):
            self.release(keys)
            return False
        return True

    def elsewhere(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those that another process has in flight."""
        return {
            key
            for (key,) in self._find(
                f"SELECT key FROM claims WHERE owner != {self._owner} AND key IN ({{}})", keys
            )
        }

    def release(self, keys: Sequence[bytes]) -> None:
        """Give up claims, in the transaction of what is written next."""
        for key in keys:
            self._flying.pop(key, None)
        if self._written and (written := self._written.intersection(keys)):
            self._written -= written
            rows = [(key, self._owner) for key in written]
            self._write(_RELEASE, rows).add_done_callback(lambda done: done.cancelled() or done.exception())

    def bury(self) -> None:
        """Count what owners had in flight that have died, and take their claims away."""
        dead = [row[0] for row in self._owners() if not _is_alive(*row[1:4])]
        if dead:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                self._bury(dead)

    def leave(self) -> None:
        """Own nothing any more."""
        if not self._owner:
            return
        self._left.set()
        if self._beats.is_alive():
            self._beats.join()
        self._thread.submit(self._leave).result()

    async def _enter_in_turn(self) -> None:
        """Become an owner, and wait until those that were here before know of it."""
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(self._thread, self._enter):
            await asyncio.sleep(BEAT_S / 4)
        self._beats.start()
        self._entering = None

    def _enter(self) -> bool:
        """Whether an owner that was here before does not yet know of this one."""
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            if not self._owner:
                owner = self._connection.execute("INSERT INTO owners (newest_known) VALUES (0)").lastrowid
                assert owner is not None
                self._owner = owner
            self._renew(self._others())
        return any(known < self._owner for owner, *_, known in self._owners() if owner < self._owner)

    def _beat_on(self) -> None:
        while not self._left.wait(BEAT_S):
            try:
                self._thread.submit(self._beat).result()
            except sqlite3.Error as error:  # the run hears of it with its next answer
                log.warning("the lease in the ledger was not renewed: %s", error)

    def _beat(self) -> None:
        """Look whether this process is still alone; renew its lease."""
        owners = self._owners()
        known = max((row[0] for row in owners), default=0) <= self._newest_known and any(
            row[0] == self._owner for row in owners
        )
        self.shared = self.shared and len(owners) > 1
        if (
            known
            and all(_is_alive(*row[1:4]) for row in owners)
            and time.monotonic() - self._renewed_at < LEASE_S / 3
        ):
            return
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._renew(self._others())

    def _others(self) -> list[int]:
        """The living ones besides this one; the dead are buried."""
        others = [row for row in self._owners() if row[0] != self._owner]
        self._bury([row[0] for row in others if not _is_alive(*row[1:4])])
        return [row[0] for row in others if _is_alive(*row[1:4])]

    def _renew(self, others: Sequence[int]) -> None:
        """Publish what is in flight where somebody is here who does not know it, and say that this process lives."""
        self.shared = bool(others)  # before the next line: who claims from now on writes it
        newest = max((*others, self._owner))
        if others:
            flying = dict(self._flying)
            self._written.update(flying)
            self._connection.executemany(_CLAIM, list(flying.values()))
            over = flying.keys() - self._flying.keys()  # what was released before the line above the last
            self._written -= over
            self._connection.executemany(_RELEASE, [(key, self._owner) for key in over])
        now = time.monotonic()
        row = (self._owner, platform.node(), os.getpid(), now + LEASE_S, newest)
        self._connection.execute("INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?, ?)", row)
        self._newest_known, self._renewed_at = newest, now

    def _bury(self, dead: Sequence[int]) -> None:
        for owner in dead:
            for statement in (
                _COUNT_LOST,
                "DELETE FROM claims WHERE owner = ?",
                "DELETE FROM owners WHERE id = ?",
            ):
                self._connection.execute(statement, (owner,))

    def _leave(self) -> None:
        with self._connection:
            self._connection.execute("DELETE FROM claims WHERE owner = ?", (self._owner,))
            self._connection.execute("DELETE FROM owners WHERE id = ?", (self._owner,))

    def _owners(self) -> list[Any]:
        return self._connection.execute(
            "SELECT id, host, pid, lease_until, newest_known FROM owners"
        ).fetchall()


def _is_alive(host: str, pid: int, lease_until: float) -> bool:
    """Whether an owner holds its lease: one on this machine whose process has ended does not. After a start of the machine
    its clock begins anew, and no former lease holds.
    """
    if host == platform.node() and has_ended(pid):
        return False
    return 0 < lease_until - time.monotonic() <= LEASE_S
