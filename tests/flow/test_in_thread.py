"""A long calculation ends soon after the run is stopped, wherever it is."""

import asyncio
import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from types import SimpleNamespace

import pytest

from distillgen.flow.condition import run_stage
from distillgen.flow.in_thread import in_thread

LONG_S = 60.0  # of a calculation that nothing ends; a stop takes a small part of it


def busy(begun, until):
    begun.set()
    while time.monotonic() < until:
        sum(range(100))


def deaf(begun, until):
    """Goes on after errors, as a loop over bad rows does, and after an exception that Python loses."""

    class Hidden:
        def __del__(self):
            busy(threading.Event(), time.monotonic() + 0.3)

    begun.set()
    Hidden()
    while time.monotonic() < until:
        with suppress(Exception):
            busy(begun, time.monotonic() + 0.01)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("calculate", [busy, deaf])
def test_a_calculation_ends_when_its_task_is_cancelled(calculate):
    async def stopped():
        begun, until = threading.Event(), time.monotonic() + LONG_S
        task = asyncio.create_task(in_thread(calculate, begun, until))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() < until
        assert calculate.__name__ not in {thread.name for thread in threading.enumerate()}

    asyncio.run(stopped())


def test_a_result_and_an_error_are_those_of_the_calculation():
    def failing(error):
        raise error

    async def results():
        assert await in_thread(divmod, 7, 2) == (3, 1)
        assert await in_thread(sorted, [1, 2], reverse=True) == [2, 1]
        with pytest.raises(KeyError, match="missing"):
            await in_thread(failing, KeyError("missing"))
        with pytest.raises(RuntimeError, match="StopIteration"):
            await in_thread(failing, StopIteration())
        of_the_task.set("seen")
        assert await in_thread(of_the_task.get) == "seen"

    of_the_task = ContextVar("of_the_task")
    asyncio.run(results())


def test_a_result_that_comes_as_its_task_is_cancelled_is_no_error():
    async def stopped():
        errors = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        task = asyncio.create_task(in_thread(divmod, 7, 2))
        await asyncio.sleep(0)  # the thread begins
        time.sleep(0.05)  # the result waits for this event loop
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert not errors

    asyncio.run(stopped())


def stage_of(run):
    return SimpleNamespace(foreign=False, stage=SimpleNamespace(when=None), run=run)


def test_a_stage_ends_when_nobody_wants_more_of_it():
    ended = []

    async def endless(chunks, job):
        try:
            while True:
                yield []
        finally:
            ended.append(True)

    async def stopped():
        chunks = run_stage(stage_of(endless), None, None)
        await anext(chunks)
        await chunks.aclose()
        assert ended == [True]

    asyncio.run(stopped())


def test_a_stage_that_never_waits_gives_a_stop_its_turn():
    """Rows that are read from the disk, or compared with one another, make nobody wait."""

    async def never_waits(chunks, job):
        for _ in range(3000):
            time.sleep(0.01)
            yield []

    async def stopped():
        stage, left = stage_of(never_waits), []

        async def consume():
            async for chunk in run_stage(stage, None, None):
                left.append(chunk)

        task = asyncio.create_task(consume())
        asyncio.get_running_loop().call_later(0.05, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(left) < 3000

    asyncio.run(stopped())
