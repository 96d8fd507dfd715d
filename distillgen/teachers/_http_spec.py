"""Options of an endpoint that is reached over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from distillgen.inference.spec import ADDED_TOKENS, Spec
from distillgen.teachers._addresses import Address

LONGEST_S = 7 * 86_400  # of a wait; the clients of HTTP take no time that is very large


class HttpSpec(Address, Spec):
    """An endpoint at one or several addresses.

    `also` adds endpoints or keys that give the same answers; the ledger keeps all answers under the first
    address.
    """

    also: list[Address] = Field(
        default_factory=list, description="further addresses or keys that give the same answers"
    )
    timeout_s: float = Field(300.0, gt=0, le=LONGEST_S, description="longest wait for one answer, in seconds")

    def credentials(self) -> set[str]:
        """Return the keys of every address."""
        return super().credentials().union(*(address.credentials() for address in self.also))

    def secrets(self) -> set[str]:
        """Return the secrets of every address."""
        return super().secrets().union(*(address.secrets() for address in self.also))

    def check(self, root: Path) -> None:
        """Raise ConfigError for a malformed address."""
        super().check(root)
        for address in self.also:
            address.check(root)


class NativeSpec(HttpSpec):
    """An endpoint that speaks a provider's own protocol."""

    def added_tokens(self, *, tools: bool, schema: bool) -> int:
        """Return the most input tokens that the provider bills for words of its own: some explain schemas to
        the model, too.
        """
        return ADDED_TOKENS if tools or schema else 0

    @model_validator(mode="before")
    @classmethod
    def _same_address(cls, options: Any) -> Any:
        """Give further keys the address of the entry: they may go nowhere else."""
        if not isinstance(options, dict) or not isinstance(options.get("also"), list):
            return options
        url = options.get("base_url", cls.model_fields["base_url"].default)
        also = [{"base_url": url, **other} if isinstance(other, dict) else other for other in options["also"]]
        return {**options, "also": also}
