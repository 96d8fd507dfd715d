"""Promises: requests that an endpoint answers, and bills, although no process waits for the answer.

They are the lines of a batch and the responses in the background. A promise is in the ledger before the
request is sent, and is deleted in the transaction that stores the answer. So a cap counts what an earlier
process left at the endpoint, even if no run asks for these answers again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from distillgen.inference.store import Statement, Store, Write, replacing

ADD_PROMISE = replacing("promises", "key", "run", "cost_usd")
_END = Statement("DELETE FROM promises WHERE key = ?")
_OF_CLAIM = Statement(
    "INSERT INTO promises (key, run, cost_usd) SELECT key, run, cost_usd FROM claims"
    f" WHERE key = ? AND cost_usd > 0 {ADD_PROMISE.update}"
)
_NO_RISK = Statement("UPDATE claims SET cost_usd = 0 WHERE key = ?")


class Promises:
    """The promises of one open ledger. `write` adds rows to its next group commit."""

    def __init__(self, store: Store, write: Write) -> None:
        self._write = write
        self._left: list[tuple[bytes, str, float]] = (
            [] if store.read_only else store.rows("SELECT key, run, cost_usd FROM promises")
        )
        self._keys = {key for key, *_ in self._left}

    def left(self, is_in: Callable[[str], bool]) -> dict[bytes, float]:
        """Return what the answers may cost that earlier processes left to come, by ledger key: those of the
        runs for which `is_in` is true.
        """
        return {key: cost for key, run, cost in self._left if is_in(run)}

    async def make(self, key: bytes, run: str, cost_usd: float) -> None:
        """Note that the endpoint will be asked for the answer to a key, and what it may cost."""
        self._keys.add(key)
        await self._write(ADD_PROMISE, [(key, run, cost_usd)])

    async def make_of_claims(self, keys: Sequence[bytes]) -> None:
        """Turn claims with a cost into promises: the answers come even if the process is killed."""
        self._keys.update(keys)
        rows = [(key,) for key in keys]
        await asyncio.gather(self._write(_OF_CLAIM, rows), self._write(_NO_RISK, rows))

    def end(self, keys: Sequence[bytes]) -> asyncio.Future[None] | None:
        """Delete promises in the next transaction: the answers have come, or will not come. Return what waits
        for it, or None if nothing was promised.
        """
        if not (self._keys and (over := self._keys.intersection(keys))):
            return None
        self._keys -= over
        deletion = self._write(_END, [(key,) for key in over])
        deletion.add_done_callback(lambda done: done.cancelled() or done.exception())
        return deletion
