"""How a run is stopped by a signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator

from distillgen.runs.state import Live


@contextlib.contextmanager
def stop_on_signals(consume: asyncio.Task[None], live: Live) -> Iterator[None]:
    """The first Ctrl-C, SIGTERM or closed terminal stops cleanly; a second Ctrl-C or SIGTERM gives up what is in flight."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if not live.stopping:
            live.stopping = "interrupted"
            consume.cancel()
        elif number != signal.SIGHUP:  # which the kernel and the shell both send for one terminal
            for teacher in live.teachers.values():
                teacher.abandon()

    ends = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup leaves it
        ends.append(signal.SIGHUP)
    for number in ends:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in ends:
            loop.remove_signal_handler(number)
