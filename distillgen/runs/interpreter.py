"""Python's garbage collector and thread switching, set for a run."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from distillgen.platforms import allow_many_files

_T = TypeVar("_T")
COLLECT_AFTER = 20_000  # objects made and not freed, before the garbage collector looks for cycles among them
TURN_S = 0.00005  # after which one thread hands Python to another that waits for it


@contextlib.contextmanager
def interpreter_tuned() -> Iterator[None]:
    """Python's defaults cost a quarter of the time of asking: many rows are in flight, hardly any is part of a cycle, and
    what was imported never is garbage; and the threads of HTTP client and ledger need the interpreter for microseconds,
    but get it when the loop rests, or after 5 ms.
    """
    allow_many_files()
    collected, turn_s = gc.get_threshold(), sys.getswitchinterval()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *collected[1:])
    sys.setswitchinterval(TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(turn_s)
        gc.set_threshold(*collected)
        gc.unfreeze()


def run_loop(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in an event loop of uvloop, or of asyncio on Windows, which uvloop does not support."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)
