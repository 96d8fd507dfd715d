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
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distillgen.inference.store import Session, Statement, Store, Write, insert
from distillgen.inference.worker import Worker
from distillgen.platforms import has_ended, machine

log = logging.getLogger("distillgen")

_CLAIM = insert("INSERT INTO claims", 6)._replace(update="ON CONFLICT (key) DO NOTHING")
_RELEASE = Statement("DELETE FROM claims WHERE key = ? AND owner = ?")
_COUNT_LOST = """
INSERT INTO answers (key, run, stage, model, status, requests, retries, input_tokens, cached_tokens,
output_tokens, cost_usd, request, completion, cache_write_tokens, reasoning_tokens)
SELECT {}, run, stage, model, 'lost', 0, 0, 0, 0, 0, cost_usd, ?, ?, 0, 0 FROM claims
WHERE owner = ? AND cost_usd > 0
"""
_OWNERS = "SELECT id, host, pid, lease_until - {}, newest_known FROM owners ORDER BY id"
_LEASE = """
INSERT INTO owners (id, host, pid, lease_until, newest_known) VALUES (?, ?, ?, {} + ?, ?) ON CONFLICT (id)
DO UPDATE SET host = excluded.host, pid = excluded.pid, lease_until = excluded.lease_until,
newest_known = excluded.newest_known
"""
_LOST = b'{"error":"the run was killed before the answer came"}'

Find = Callable[[str, Sequence[bytes]], Iterator[Any]]


class Claims:
    """The claims of one open ledger. Transactions are made in `thread` only; `write` adds rows to the next
    group commit, and `find` reads committed rows.
    """

    def __init__(self, store: Store, thread: Worker, write: Write, find: Find) -> None:
        self._store, self._thread, self._write, self._find = store, thread, write, find
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
        claims = self._store.rows("SELECT run, cost_usd FROM claims WHERE cost_usd > 0")
        return math.fsum(cost for name, cost in claims if run is None or f"{name}/".startswith(f"{run}/"))

    def bury(self) -> None:
        """Delete the claims of dead owners; count their requests with a cost as lost."""
        if any(not self._is_alive(*row[1:4]) for row in self._store.rows(_OWNERS.format(self._store.now))):
            self._store.transact(self._others, alone=True)

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
            await asyncio.sleep(self._store.beat_s / 4)
        self._end_beats = self._thread.every(self._store.beat_s, self._beat)
        self._entering = None

    def _enter(self) -> bool:
        """Register, if not done; return whether an earlier owner does not know of this one yet."""
        return self._store.transact(self._register, alone=True)

    def _register(self, session: Session) -> bool:
        if not self._owner:
            session.execute("INSERT INTO owners (newest_known) VALUES (0)")
            self._owner = int(session.execute("SELECT max(id) FROM owners").fetchone()[0])
        self._renew(session)
        return any(newest < self._owner for owner, *_, newest in self._owners(session) if owner < self._owner)

    def _beat(self) -> None:
        try:
            self._look_around()
        except Exception as error:  # the next beat may succeed, whatever it was
            log.warning("the lease in the ledger was not renewed: %s", error)

    def _look_around(self) -> None:
        """Check whether this process is alone; renew its lease."""
        owners = self._store.transact(self._owners)
        self.shared = self.shared and len(owners) > 1
        if (
            self._known.issuperset(row[0] for row in owners)
            and any(row[0] == self._owner for row in owners)
            and all(self._is_alive(*row[1:4]) for row in owners)
            and time.monotonic() - self._renewed_at < self._store.lease_s / 3
        ):
            return
        self._store.transact(self._renew, alone=True)

    def _others(self, session: Session) -> list[int]:
        """Return the other living owners, and bury the dead ones."""
        others = [row for row in self._owners(session) if row[0] != self._owner]
        for owner in (row[0] for row in others if not self._is_alive(*row[1:4])):
            self._bury(session, owner)
        return [row[0] for row in others if self._is_alive(*row[1:4])]

    def _renew(self, session: Session) -> None:
        """Write the claims in memory if there are other owners; renew the lease."""
        others = self._others(session)
        self.shared = bool(others)  # before the next line: later claims are written at once
        newest = max((*others, self._owner, self._newest_known))  # or an earlier period would come again
        if others:
            flying = dict(self._flying)
            self._written.update(flying)
            self._store.execute(session, _CLAIM, list(flying.values()))
            released = flying.keys() - self._flying.keys()  # since `flying` was copied
            self._written -= released
            self._store.execute(session, _RELEASE, [(key, self._owner) for key in released])
        self._renewed_at = time.monotonic()
        session.execute(
            _LEASE.format(self._store.now), (self._owner, machine(), os.getpid(), self._store.lease_s, newest)
        )
        self._newest_known, self._known = newest, {*others, self._owner}

    def _leave(self) -> None:
        """A claim that is left is of a request whose usage could not be stored."""
        self._store.transact(lambda session: self._bury(session, self._owner))

    def _bury(self, session: Session, owner: int) -> None:
        session.execute(_COUNT_LOST.format(self._store.random_key), (b"{}", _LOST, owner))
        session.execute("DELETE FROM claims WHERE owner = ?", (owner,))
        session.execute("DELETE FROM owners WHERE id = ?", (owner,))

    def _owners(self, session: Session) -> list[Any]:
        return list(session.execute(_OWNERS.format(self._store.now)).fetchall())

    def _is_alive(self, host: str, pid: int, left_s: float) -> bool:
        """Return whether an owner holds its lease. A process of this machine that has ended does not."""
        if host == machine() and has_ended(pid):
            return False
        return self._store.holds(left_s)
