"""The outcome of a request, or of work on several: a result that is ready, or one that can be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Generic, TypeVar

from distillgen.errors import Stopped

T = TypeVar("T")


class Outcome(Generic[T]):
    """A result that is ready once all `tasks` have ended; `result` then builds it.

    Several outcomes may wait for the same task, so cancelling an await does not cancel the task: its answer
    is paid for. `started` is the task that belongs to this outcome alone, if it has one.
    """

    __slots__ = ("result", "started", "tasks")

    def __init__(
        self,
        result: Callable[[], T],
        tasks: Sequence[asyncio.Task[Any]] = (),
        started: asyncio.Task[T] | None = None,
    ) -> None:
        self.result, self.tasks, self.started = result, tasks, started

    @classmethod
    def of(cls, value: T) -> Outcome[T]:
        """Return an outcome that is ready."""
        return cls(lambda: value)

    @classmethod
    def start(cls, work: Coroutine[Any, Any, T]) -> Outcome[T]:
        """Start a task of its own and return its outcome."""
        task = asyncio.ensure_future(work)
        return cls(task.result, (task,), task)

    @property
    def ready(self) -> bool:
        """Whether `result` can be called. It is False if a task failed: awaiting the outcome raises its
        error.
        """
        return not self.tasks or all(map(succeeded, self.tasks))

    def __await__(self) -> Generator[Any, None, T]:
        for task in self.tasks:
            if not task.done():
                yield from end_of(task)
            if task.cancelled():
                raise Stopped("stopped before this request was sent")
            task.result()  # raises the error of a task that failed, without waiting for the others
        return self.result()


def succeeded(task: asyncio.Future[Any]) -> bool:
    """Return whether a task has ended without an error."""
    return task.done() and not task.cancelled() and task.exception() is None


def end_of(task: asyncio.Task[Any]) -> asyncio.Future[None]:
    """Return a future that is done when `task` is, however it ends. Cancelling the future does not cancel the
    task; asyncio.wait does the same at five times the cost.
    """
    end: asyncio.Future[None] = task.get_loop().create_future()

    def set_end(_: asyncio.Task[Any]) -> None:
        if not end.done():
            end.set_result(None)

    task.add_done_callback(set_end)
    return end
