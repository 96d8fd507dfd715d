"""The bounded loop that keeps records in source order while work on them is in flight."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing

from distillgen.flow.stage import CHUNK, Chunk, Chunks
from distillgen.inference.outcome import Outcome
from distillgen.record import Record


def splice(chunk: Sequence[Record], replaced: Iterable[Sequence[Record]]) -> Chunk:
    """Return `chunk` with each live record replaced by its successors. Dropped records stay in place."""
    successors = iter(replaced)
    return [out for record in chunk for out in ((record,) if record.dropped else next(successors))]


async def in_order(
    chunks: Chunks, begin: Callable[[Chunk], Iterable[Outcome[Chunk]]], window: Callable[[], int]
) -> Chunks:
    """Yield the results of the work on chunks, in order. All stages share this loop.

    `begin` starts the work on a chunk and returns its outcomes. The loop reads on meanwhile, until `window`
    records that are ready, or outcomes that are not, wait to leave.
    """
    waiting: deque[tuple[Outcome[Chunk], int]] = deque()
    records_in_flight = bound = 0
    arrived, room = asyncio.Event(), asyncio.Event()

    async def feed() -> None:
        nonlocal records_in_flight, bound
        async with aclosing(chunks):
            async for chunk in chunks:
                for outcome in begin(chunk):
                    size = 1 if outcome.tasks else len(outcome.result())
                    records_in_flight += size
                    waiting.append((outcome, size))
                arrived.set()
                while records_in_flight >= (bound := window()):
                    room.clear()
                    await room.wait()

    feeder = asyncio.create_task(feed())
    feeder.add_done_callback(lambda _: arrived.set())
    try:
        while waiting or not feeder.done():
            if not waiting:
                arrived.clear()
                await arrived.wait()
                continue
            done: Chunk = []
            while waiting and len(done) < CHUNK:
                outcome, size = waiting[0]
                ready = outcome.ready
                if done and not ready:
                    break
                records_in_flight -= size
                if records_in_flight < bound:
                    room.set()
                done += outcome.result() if ready else await outcome
                waiting.popleft()
            if done:
                yield done
        await feeder  # an error of an earlier stage comes after the records before it
    finally:
        leftovers = [feeder, *(outcome.started for outcome, _ in waiting if outcome.started)]
        for task in leftovers:
            task.cancel()
        await asyncio.gather(*leftovers, return_exceptions=True)
