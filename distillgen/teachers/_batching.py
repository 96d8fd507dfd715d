"""Models in the process of the run that answer in batches: what waits is answered together, in one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from threading import Event
from typing import Any

from distillgen.inference.endpoint import Endpoint
from distillgen.inference.faults import TeacherDown
from distillgen.inference.request import Completion, Request
from distillgen.inference.weights import local_name


@dataclass(frozen=True, eq=False)
class Waiting:
    """A request that waits for a batch, with the indices of its samples."""

    request: Request
    samples: Sequence[int]
    done: asyncio.Future[list[Completion]]

    @property
    def n(self) -> int:
        """The number of its samples."""
        return len(self.samples)


class Batching(Endpoint):
    """Loads its model with the first request: a run that only replays answers loads none.

    A subclass implements `load`, `answer_batch` and `kind`. The first two run in the thread.
    """

    paid = False

    def load(self) -> Any:
        """Return the model. Any error ends the run."""
        raise NotImplementedError

    def answer_batch(self, batch: Sequence[Waiting]) -> Sequence[list[Completion] | Exception]:
        """Return the completions of each request, or the error that it fails with."""
        raise NotImplementedError

    def kind(self, entry: Waiting) -> bytes:
        """Return what the requests of a batch have in common."""
        raise NotImplementedError

    def most(self, entry: Waiting) -> int:
        """Return how many requests such as this one go into a batch."""
        return self.spec.max_concurrency or 1

    @cached_property
    def model(self) -> str:
        """The model's name on the Hub, or the name of its folder and a digest of its weights."""
        return local_name(self.spec.model, self.services.root)

    def model_name(self, reported: str) -> str:
        """Return the name of the model, wherever its files are."""
        return self.model

    @cached_property
    def _queue(self) -> list[Waiting]:
        return []

    @cached_property
    def _stop_event(self) -> Event:
        return Event()

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix=self.name)

    _working: asyncio.Task[None] | None = None

    async def answer(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Answer in a batch."""
        done: asyncio.Future[list[Completion]] = asyncio.get_running_loop().create_future()
        self._queue.append(Waiting(request, samples, done))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await done

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            await asyncio.sleep(0)  # requests of the same turn join the batch
            self._queue[:] = [entry for entry in self._queue if not entry.done.done()]
            if not self._queue:
                break
            first = self._queue[0]
            kind = self.kind(first)
            alike = [entry for entry in self._queue if self.kind(entry) == kind]
            batch = alike[: self.most(first)]
            self._queue[:] = [entry for entry in self._queue if entry not in batch]
            try:
                answers: Sequence[Any] = await loop.run_in_executor(self._thread, self.answer_batch, batch)
            except Exception as error:
                answers = [error] * len(batch)
            for entry, answer in zip(batch, answers, strict=True):
                if entry.done.done():
                    continue
                if isinstance(answer, Exception):
                    entry.done.set_exception(answer)
                else:
                    entry.done.set_result(answer)

    @cached_property
    def _model(self) -> Any:
        self.activity.note = f"loading {self.spec.model}"
        try:
            return self.load()
        except Exception as error:  # the packages raise many kinds of errors
            raise TeacherDown(
                f"model '{self.name}': '{self.spec.model}' cannot be loaded: {error}"
            ) from error
        finally:
            self.activity.note = ""

    def stop(self, reason: Exception) -> None:
        """End the batch as soon as it can end; its answers are lost."""
        self._stop_event.set()

    async def close(self) -> None:
        """End the thread, and free the model."""
        self._stop_event.set()
        self._thread.shutdown(cancel_futures=True)
        self.__dict__.pop("_model", None)
