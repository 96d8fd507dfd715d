"""Any OpenAI-compatible endpoint: chat and completions, online or through its batch API."""

from __future__ import annotations

from distillgen.inference.endpoint import Services
from distillgen.inference.spec import Spec
from distillgen.teachers._batches import BatchClient
from distillgen.teachers._openai_batch import OpenAIBatches
from distillgen.teachers._openai_client import OpenAIClient
from distillgen.teachers._openai_spec import OpenAISpec


class OpenAI(BatchClient, OpenAIClient):
    """Answers one by one over HTTP, or as lines of a batch."""

    spec_type = OpenAISpec
    spec: OpenAISpec
    batch_api = OpenAIBatches

    def __init__(self, name: str, spec: Spec, services: Services) -> None:
        super().__init__(name, spec, services)
        self.identity = f"{self.spec.identity}#{self.spec.api}"
