"""How a run is stopped by a signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator

from distillgen.runs.state import Live

HANGUP = getattr(signal, "SIGHUP", None)  # sent when a terminal is closed; Windows has no such signal


@contextlib.contextmanager
def stop_on_signals(consume: asyncio.Task[None], live: Live) -> Iterator[None]:
    """Cancel `consume` on the first Ctrl-C, SIGTERM or SIGHUP; give up requests in flight on the second.

    A second SIGHUP changes nothing: the kernel and the shell both send one when a terminal is closed. A
    thread gets no signals: there `live.stop` does what a Ctrl-C does, from any thread.
    """
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if not live.stopping:
            live.stopping = "interrupted"
            consume.cancel()
        elif number != HANGUP:
            for teacher in live.teachers.values():
                teacher.abandon()

    def stop_from_handler(number: int, _: object) -> None:
        loop.call_soon_threadsafe(stop, number)

    if threading.current_thread() is not threading.main_thread():
        live.stop = lambda: stop_from_handler(signal.SIGINT, None)
        try:
            yield
        finally:
            live.stop = lambda: None
        return
    with contextlib.ExitStack() as stack:
        for number in filter(None, (signal.SIGINT, signal.SIGTERM, HANGUP)):
            if number == HANGUP and signal.getsignal(number) == signal.SIG_IGN:  # set by nohup
                continue
            try:
                loop.add_signal_handler(number, stop, number)
                stack.callback(loop.remove_signal_handler, number)
            except NotImplementedError:  # Windows
                stack.callback(signal.signal, number, signal.signal(number, stop_from_handler))
        yield
