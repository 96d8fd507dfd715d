"""The thread of a ledger: its transactions run in it one after the other, some again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Worker(ThreadPoolExecutor):
    """An executor with one thread, and a clock that wakes it."""

    def __init__(self, name: str) -> None:
        super().__init__(1, thread_name_prefix=name)
        self._name = name

    def every(self, seconds: float, call: Callable[[], object]) -> Callable[[], None]:
        """Call a function in the thread every so many seconds. Return a function that ends this; a call that
        has begun is finished first.
        """
        over = threading.Event()

        def beat() -> None:
            while not over.wait(seconds):
                self.submit(call).result()

        clock = threading.Thread(target=beat, name=f"{self._name} clock", daemon=True)
        clock.start()

        def end() -> None:
            over.set()
            clock.join()

        return end
