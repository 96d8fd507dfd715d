"""Python's garbage collector, thread switching and event loop during a run."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from distillgen.platforms import allow_many_files

_T = TypeVar("_T")
COLLECT_AFTER = 20_000  # allocations, less deallocations, between two collections
SWITCH_S = 0.00005  # after which a thread gives the interpreter to a waiting one


@contextlib.contextmanager
def interpreter_tuned() -> Iterator[None]:
    """Tune garbage collection and thread switching for a run; restore both afterwards.

    Python's defaults cost a quarter of the time of asking. The collector rarely finds cycles among the many
    rows in flight, and never among what was imported. The threads of the HTTP client and the ledger need the
    interpreter for microseconds, and would wait up to 5 ms for it.
    """
    allow_many_files()
    threshold, switch_s = gc.get_threshold(), sys.getswitchinterval()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *threshold[1:])
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(switch_s)
        gc.set_threshold(*threshold)
        gc.unfreeze()


def run_loop(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in an event loop of its own."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)


def new_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop of uvloop, or of asyncio on Windows, which uvloop does not support."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
