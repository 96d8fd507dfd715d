"""Outcomes: ready ones, awaited ones, errors and cancelled tasks."""

import asyncio

import pytest

from distillgen.errors import Stopped
from distillgen.inference.outcome import Outcome


async def after(turns, value):
    for _ in range(turns):
        await asyncio.sleep(0)
    if isinstance(value, Exception):
        raise value
    return value


def test_a_value_is_ready_and_can_be_awaited():
    async def main():
        outcome = Outcome.of(3)
        return outcome.ready, outcome.result(), await outcome

    assert asyncio.run(main()) == (True, 3, 3)


def test_started_work_is_ready_once_it_has_ended():
    async def main():
        outcome = Outcome.start(after(3, "a"))
        before = outcome.ready
        return before, await outcome, outcome.ready, outcome.result()

    assert asyncio.run(main()) == (False, "a", True, "a")


def test_the_result_is_built_from_all_tasks():
    async def main():
        tasks = [asyncio.ensure_future(after(turns, turns)) for turns in (5, 1)]
        outcome = Outcome(lambda: sum(task.result() for task in tasks), tasks)
        while not tasks[1].done():
            await asyncio.sleep(0)
        assert not outcome.ready
        return await outcome

    assert asyncio.run(main()) == 6


def test_a_failed_task_is_never_ready_and_raises_without_waiting_for_later_ones():
    async def main():
        endless = asyncio.ensure_future(asyncio.sleep(1000))
        tasks = [asyncio.ensure_future(after(1, ValueError("planted"))), endless]
        outcome = Outcome(lambda: None, tasks)
        with pytest.raises(ValueError, match="planted"):
            async with asyncio.timeout(5):
                await outcome
        assert not outcome.ready and not endless.done()
        endless.cancel()

    asyncio.run(main())


def test_a_cancelled_await_leaves_the_task_and_a_cancelled_task_stops_the_await():
    async def main():
        task = asyncio.ensure_future(asyncio.sleep(1000))

        async def wait():
            await Outcome(task.result, [task])

        waiter = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert not task.done()
        task.cancel()
        with pytest.raises(Stopped, match="stopped before this request was sent"):
            await Outcome(task.result, [task])

    asyncio.run(main())
