"""A run where an event loop runs already, as in a notebook: in a thread, which an interrupt stops cleanly."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from distillgen.runs.execute import Watch
from distillgen.runs.state import Live


def outside_event_loop(work: Callable[[Watch | None], object], watch: Watch | None = None) -> None:
    """Do the work; in a thread of its own where an event loop runs.

    The thread gets no signals. So an interrupt of the caller stops the run as Ctrl-C stops the program: the
    first waits for requests in flight that are paid for, the second gives them up.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        in_loop = False  # the work waits, or each traceback in the log would begin with this exception
    else:
        in_loop = True
    if not in_loop:
        work(watch)
        return
    interrupts, lives = 0, list[Live]()

    async def watch_and_listen(live: Live) -> None:
        lives.append(live)
        for _ in range(interrupts):  # of before the run began
            live.stop()
        if watch:
            await watch(live)

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(contextvars.copy_context().run, work, watch_and_listen)
        while not running.done():
            try:
                running.result()
            except KeyboardInterrupt:
                interrupts += 1
                for live in lives[-1:]:
                    live.stop()
        running.result()
