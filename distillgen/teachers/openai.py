"""Any OpenAI-compatible endpoint: chat and completions, online, in batches, or in the background."""

from __future__ import annotations

from distillgen.inference.endpoint import Services
from distillgen.inference.spec import Spec
from distillgen.teachers._batches import BatchClient
from distillgen.teachers._openai_background import Background
from distillgen.teachers._openai_batch import OpenAIBatches
from distillgen.teachers._openai_client import OpenAIClient
from distillgen.teachers._openai_spec import OpenAISpec


class OpenAI(BatchClient, OpenAIClient):
    """Answers one by one over HTTP, as lines of a batch, or as responses in the background."""

    spec_type = OpenAISpec
    spec: OpenAISpec
    batch_api = OpenAIBatches

    def __init__(self, name: str, spec: Spec, services: Services) -> None:
        super().__init__(name, spec, services)
        self.identity = f"{self.spec.identity}#{self.spec.api}"
        self._background: Background | None = None
        if self.spec.mode == "background":
            self._background = Background(self)
            self.ask = self._background.ask  # type: ignore[method-assign]

    def stop(self, reason: Exception) -> None:
        """Stop waiting for batches and responses: the endpoint finishes them, and the next run gets them."""
        super().stop(reason)
        if self._background:
            self._background.stop(reason)

    async def close(self) -> None:
        """Close the connections."""
        await super().close()
        if self._background:
            await self._background.close()
