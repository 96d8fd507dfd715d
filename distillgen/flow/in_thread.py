"""Long calculations, which a stop of the run ends.

The event loop of a run answers Ctrl-C between two steps of its tasks. So a calculation of seconds or hours
has to run in a thread, and has to end when the run is stopped.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar, cast

_T = TypeVar("_T")
_LOOK_S = 0.02  # between two looks whether a thread has ended
_AGAIN = 50  # looks before it is told once more


class _Stop(SystemExit):
    """Ends a calculation. Python passes a SystemExit over in silence if it ends a thread."""


async def in_thread(calculate: Callable[..., _T], /, *args: Any, **options: Any) -> _T:
    """Return what a calculation returns, which has a thread of its own.

    If the task is cancelled, an exception ends the calculation at its next step of Python; a step in compiled
    code, such as a call of NumPy, comes to its end first. So `calculate` must leave nothing half done: it
    writes nothing but what it returns, or what a run that goes on makes anew.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[tuple[_T, None] | tuple[None, BaseException]] = loop.create_future()

    def settle(result: tuple[_T, None] | tuple[None, BaseException]) -> None:
        if not outcome.done():
            outcome.set_result(result)

    def work() -> None:
        result: tuple[_T, None] | tuple[None, BaseException]
        try:
            result = calculate(*args, **options), None
        except _Stop:
            return
        except BaseException as failure:
            result = None, failure
        loop.call_soon_threadsafe(settle, result)

    name = getattr(calculate, "__name__", "calculation")
    thread = threading.Thread(target=partial(copy_context().run, work), name=name, daemon=True)
    thread.start()
    try:
        value, error = await outcome
    except asyncio.CancelledError:
        looks = 0
        while thread.is_alive():
            if looks % _AGAIN == 0:  # an exception inside of __del__ or a callback is lost
                _raise(_Stop, thread)
            looks += 1
            await asyncio.sleep(_LOOK_S)
        raise
    if error is not None:
        raise error
    return cast(_T, value)


def _raise(kind: type[BaseException], thread: threading.Thread) -> None:
    """Raise an exception in a thread, between two steps of its Python code."""
    number = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(kind))
