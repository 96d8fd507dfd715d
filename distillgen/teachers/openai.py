"""Any OpenAI-compatible endpoint: chat and completions, online or through its batch API."""

from __future__ import annotations

from collections.abc import Sequence

from distillgen.inference.endpoint import Services
from distillgen.inference.request import Completion, Request
from distillgen.inference.spec import Spec
from distillgen.teachers._openai_batch import Batches
from distillgen.teachers._openai_client import OpenAIClient
from distillgen.teachers._openai_spec import OpenAISpec

BATCHES = 4  # batches at the endpoint at once, unless max_concurrency is set


class OpenAI(OpenAIClient):
    """Answers one by one over HTTP, or as lines of a batch."""

    spec_type = OpenAISpec

    def __init__(self, name: str, spec: Spec, services: Services) -> None:
        super().__init__(name, spec, services)
        self.identity = f"{self.spec.identity}#{self.spec.api}"
        self._batches: Batches | None = None
        if self.spec.mode == "batch":
            self._batches, self.durable, self.ahead = Batches(self, self._places[0]), True, 1
            self.max_concurrency = self.spec.max_concurrency or BATCHES * self.spec.batch_size

    async def ask(self, request: Request, samples: Sequence[int], attempt: int) -> list[Completion]:
        """Return the answers of the endpoint, or of a batch."""
        ask = self._batches.ask if self._batches else super().ask
        return await ask(request, samples, attempt)

    def stop(self, reason: Exception) -> None:
        """Stop waiting for batches: the endpoint finishes them, and the next run gets their answers."""
        if self._batches:
            self._batches.stop(reason)
