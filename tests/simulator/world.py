"""Processes on one virtual clock: the event loop, the threads and the clocks of each, driven by one seed."""

from __future__ import annotations

import asyncio
import heapq
import random
import sqlite3
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from contextlib import suppress
from itertools import count
from typing import Any

MOST_STEPS = 60_000  # of a history; one takes some thousands
TICK_S = 2e-5  # virtual time that a step takes


class Broken(AssertionError):
    """An invariant does not hold."""


class Killed(BaseException):
    """The process ends in the middle of a statement."""


class Thread(Executor):
    """A `Worker` of the product in virtual time: calls take effect one after the other, at drawn moments."""

    def __init__(self, name: str = "") -> None:
        self._process = World.running().current
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._busy = False

    def submit(self, function: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = _Result(self)
        self._calls.append((future, lambda: function(*args, **options)))
        if not self._busy:
            self._busy = True
            self._process.after(self._process.world.disk_s(), self._start)
        return future

    def every(self, seconds: float, call: Callable[[], object]) -> Callable[[], None]:
        over = False

        def beat() -> None:
            if not over:
                self.submit(call).add_done_callback(lambda _: self._process.after(seconds, beat))

        def end() -> None:
            nonlocal over
            over = True

        self._process.after(seconds, beat)
        return end

    def finish(self, future: Future[Any]) -> None:
        """Do the calls up to one, while the caller waits for it."""
        while not future.done():
            waiting, call = self._calls.popleft()
            _do(waiting, call)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        while self._calls:
            self.finish(self._calls[0][0])

    def _start(self) -> None:
        """Do a call. Who waits for it learns of it later: the process may be killed in between."""
        if not self._calls:  # the caller did not want to wait
            self._busy = False
            return
        future, call = self._calls.popleft()
        outcome: Future[Any] = Future()
        _do(outcome, call)
        self._process.after(self._process.world.disk_s(), lambda: self._end(future, outcome))

    def _end(self, future: Future[Any], outcome: Future[Any]) -> None:
        error = outcome.exception()
        future.set_exception(error) if error else future.set_result(outcome.result())
        self._start()


class _Result(Future[Any]):
    def __init__(self, thread: Thread) -> None:
        super().__init__()
        self._thread = thread

    def result(self, timeout: float | None = None) -> Any:
        self._thread.finish(self)
        return super().result()


def _do(future: Future[Any], call: Callable[[], Any]) -> None:
    try:
        result = call()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)


class VirtualLoop(asyncio.AbstractEventLoop):
    """An event loop whose time is the world's."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.ready: deque[asyncio.Handle] = deque()
        self.signal_handlers: dict[int, Callable[[], None]] = {}

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self.process.alive

    def is_closed(self) -> bool:
        return not self.process.alive

    def time(self) -> float:
        return self.process.world.monotonic()

    def call_soon(self, callback, *args, context=None):
        handle = asyncio.Handle(callback, args, self, context)
        self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay, callback, *args, context=None):
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(self, when, callback, *args, context=None):
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.process.after(when - self.time(), handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""

    def create_future(self):
        return asyncio.Future(loop=self)

    def create_task(self, coro, *, name=None, context=None):
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self.process.tasks.append(task)
        return task

    def run_in_executor(self, executor, func, *args):
        return asyncio.wrap_future((executor or Thread()).submit(func, *args), loop=self)

    def set_exception_handler(self, handler) -> None:
        """An exception that nothing handles breaks an invariant here, whatever the program would log."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.process.alive:
            self.process.world.faults.append(f"{context['message']}: {context.get('exception')!r}")

    def add_signal_handler(self, sig, callback, *args) -> None:
        self.signal_handlers[sig] = lambda: callback(*args)

    def remove_signal_handler(self, sig) -> bool:
        return self.signal_handlers.pop(sig, None) is not None


class Connection(sqlite3.Connection):
    """A connection to SQLite whose writes fail, or kill their process, when the world says so."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._process = World.running().current
        self._process.connections.append(self)

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if not statement.lstrip().startswith(("SELECT", "WITH", "PRAGMA")):
            self._process.write(statement)
        return super().execute(statement, *parameters)

    def executemany(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        self._process.write(statement)
        return super().executemany(statement, *parameters)

    def __exit__(self, *error: Any) -> Any:
        if error[0] is None and self.in_transaction:
            try:
                self._process.write("COMMIT")
            except BaseException:
                self.rollback()
                raise
        return super().__exit__(*error)


class Process:
    """A process of the simulated machine: what it has in memory is lost when it is killed."""

    def __init__(self, world: World, name: str, number: int) -> None:
        self.world, self.name, self.number = world, name, number
        self.killed = False
        self.alive, self.stopped_until, self.stopped_s = True, 0.0, 0.0
        self.loop = VirtualLoop(self)
        self.tasks: list[asyncio.Task[Any]] = []
        self.connections: list[sqlite3.Connection] = []
        self.timers: list[tuple[float, float, int, Any]] = []
        self.run, self.retry, self.complete, self.begun_at, self.failed_at = "", False, False, 0.0, 0.0
        self.interrupts = 0
        self.uncounted: list[float] = []
        """The costs that it has stored for requests without an answer."""
        self.tokens = [0, 0]
        """The tokens of its answers: of the prompts, and of the answers."""
        self.writes, self.kill_at_write, self.wrote_answers, self.dying = 0, 0, False, False
        self.failure: Callable[[str], Exception | None] = lambda statement: None
        """Returns the error of a write, if it fails."""

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        self.main = self.loop.create_task(coroutine)
        return self.main

    def after(self, seconds: float, event: Callable[[], None] | asyncio.Handle) -> None:
        """Do something that many seconds from now: a handle in the event loop, else beside it."""
        world = self.world
        order = (world.now + max(0.0, seconds), world.draw.random(), next(world.number))
        heapq.heappush(self.timers, (*order, event))

    def write(self, statement: str) -> None:
        """Note a write; raise its error, or Killed."""
        self.writes += 1
        if self.writes == self.kill_at_write:
            self.dying = True
        if self.dying:
            raise Killed
        if error := self.failure(statement):
            raise error
        self.wrote_answers = self.wrote_answers or statement.lstrip().startswith("INSERT INTO answers")

    def next_at(self) -> float:
        """When it goes on."""
        if self.loop.ready:
            return self.stopped_until
        return max(self.timers[0][0], self.stopped_until) if self.timers else float("inf")

    def step(self) -> None:
        """Do all that is due now."""
        world, ready = self.world, self.loop.ready
        world.current = self
        try:
            while self.timers and self.timers[0][0] <= world.now:
                event = heapq.heappop(self.timers)[-1]
                if isinstance(event, asyncio.Handle):
                    ready.append(event)
                else:
                    event()
            asyncio._set_running_loop(self.loop)
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle.cancelled() and not self.dying:
                    handle._run()
        except Killed:
            pass
        finally:
            asyncio._set_running_loop(None)
        if self.dying:
            world.kill(self, f"at write {self.writes}")
        if self.wrote_answers:
            self.wrote_answers = False
            world.written(self)


class World:
    """The machine: its processes, its clocks, and what happens to them from outside."""

    _running: World | None = None

    def __init__(self, seed: int) -> None:
        self.draw, self.number = random.Random(seed), count()
        self.now = self._booted_at = 1000.0
        self._wall_ahead_s = 1.7e9
        self.slow_disk = self.draw.random() < 0.1
        self.processes: list[Process] = []
        self.dead: list[Process] = []
        self.ever: list[Process] = []
        self.reused: set[int] = set()
        self.current: Process = Process(self, "outside", 0)
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.faults: list[str] = []
        """Exceptions that nothing handled."""
        self.trace: list[str] = []
        self.written: Callable[[Process], None] = lambda process: None
        self.steps = 0
        self.unsure_until = 0.0
        """Until when processes may not know of one that went on after its lease."""

    @classmethod
    def running(cls) -> World:
        """The world that runs now."""
        assert cls._running is not None
        return cls._running

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now - 1000:10.3f}  {text}")

    def monotonic(self) -> float:
        return self.now - self._booted_at + 1000

    def wall(self) -> float:
        return self.now + self._wall_ahead_s

    def disk_s(self) -> float:
        """A duration of the disk or of a thread, in seconds."""
        return self.draw.expovariate(5 if self.slow_disk else 2000)

    def send_signal(self, number: int, signal: int) -> None:
        """`os.kill` with the signal 0: raise ProcessLookupError if the process has ended."""
        if number not in self.reused and all(process.number != number for process in self.processes):
            raise ProcessLookupError(number)

    def at(self, moment: float, event: Callable[[], None]) -> None:
        """Do something from outside at a moment."""
        heapq.heappush(self.events, (moment, next(self.number), event))

    def start(self, name: str) -> Process:
        """A new process."""
        process = Process(self, name, 1000 + next(self.number))
        self.processes.append(process)
        self.ever.append(process)
        return process

    def kill(self, process: Process, how: str = "") -> None:
        """End a process without any of its code being run."""
        self.note(f"{process.name} is killed {how}")
        process.killed = True
        self.end(process)
        self.dead.append(process)
        if self.draw.random() < 0.3:  # another program gets its number: only its lease tells
            self.reused.add(process.number)

    def end(self, process: Process) -> None:
        """Take a process out of the machine."""
        process.alive = False
        self.processes.remove(process)
        for connection in process.connections:
            connection.close()

    def stop(self, process: Process, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.note(f"{process.name} is stopped for {seconds:.0f} s")
        process.stopped_until, process.stopped_s = self.now + seconds, process.stopped_s + seconds
        self.unsure_until = max(self.unsure_until, process.stopped_until + (10 if self.slow_disk else 1))

    def reboot(self) -> None:
        """Kill everything; the monotonic clock starts again."""
        self.note("the machine starts again")
        for process in [*self.processes]:
            self.kill(process)
        self.reused.clear()
        self._booted_at = self.now

    def jump(self, seconds: float) -> None:
        """Set the wall clock."""
        self.note(f"the wall clock jumps by {seconds:.0f} s")
        self._wall_ahead_s += seconds

    def run(self, over: Callable[[], bool], end: float) -> None:
        """Let time go on until something is over. Raise Broken if it is not by `end`."""
        while not over():
            self.steps += 1
            if self.steps > MOST_STEPS:
                raise Broken(f"no end after {MOST_STEPS} steps")
            if self.faults:
                raise Broken(f"an exception that nothing handles: {self.faults[0]}")
            due = [process for process in self.processes if process.next_at() <= self.now]
            if due:
                self.now += TICK_S
                (due[0] if len(due) == 1 else self.draw.choice(due)).step()
                continue
            moment = min((process.next_at() for process in self.processes), default=float("inf"))
            if self.events and self.events[0][0] <= max(moment, self.now):
                at, _, event = heapq.heappop(self.events)
                self.now = max(self.now, at)
                event()
                continue
            if moment > end:
                raise Broken("the run does not end" if moment < float("inf") else "nothing happens any more")
            self.now = moment

    def bury(self) -> None:
        """Free what killed processes held. Their code that this runs has no effect: their files are gone."""
        for process in (*self.dead, *self.processes):
            process.alive = False
            for connection in process.connections:
                connection.close()
            for task in process.tasks:
                with suppress(BaseException):
                    task.get_coro().close()
