"""Options of an endpoint that has a batch API."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from distillgen.errors import ConfigError
from distillgen.teachers._http_spec import HttpSpec


class BatchSpec(HttpSpec):
    """An endpoint that answers online, or lines of a batch within a day."""

    mode: Literal["online", "batch"] = Field(
        "online", description="online, or batch: through the endpoint's batch API, cheaper and within a day"
    )
    batch_size: int = Field(10_000, ge=1, le=50_000, description="largest number of requests in a batch")
    gather_s: float = Field(
        10.0, gt=0, description="seconds without a new request after which a batch is sent"
    )
    poll_s: float = Field(30.0, gt=0, description="longest wait between two looks at a batch, in seconds")

    def check(self, root: Path) -> None:
        """Raise ConfigError for a malformed address, or an option that the mode does not have."""
        super().check(root)
        if self.mode != "batch":
            return
        if self.also:
            raise ConfigError(
                "'also' has no meaning with mode: batch, for a batch lies at one address; leave it out"
            )
        for name in ("rpm", "input_tpm", "output_tpm"):
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"'{name}' has no meaning with mode: batch, which has limits of its own; leave it out"
                )
        if self.max_concurrency is not None and self.max_concurrency < self.batch_size:
            more = f"a batch of {self.batch_size:,} would never fill; "
            more += "raise it, leave it out, or lower batch_size"
            raise ConfigError(f"'max_concurrency' {self.max_concurrency}: {more}")

    @property
    def asked_online(self) -> BatchSpec:
        """The entry with mode: online."""
        return self if self.mode == "online" else self.model_copy(update={"mode": "online"})

    def cost_usd(
        self, input_tokens: int, cached_tokens: int, output_tokens: int, cache_write_tokens: int = 0
    ) -> float:
        """Return the cost of these tokens, with the batch price if the batch API is used."""
        factor = self.price.batch if self.price and self.mode == "batch" else 1.0
        return factor * super().cost_usd(input_tokens, cached_tokens, output_tokens, cache_write_tokens)
