"""An entry of `models`: where a model is, what it can do, and what it costs."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from distillgen.inference.sampling import Sampling


class Price(BaseModel):
    """US dollars for 1,000,000 tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: float = Field(0.0, ge=0, description="price of input tokens")
    output: float = Field(0.0, ge=0, description="price of output tokens")
    cached_input: float | None = Field(
        None,
        ge=0,
        description="price of input tokens that are read from the provider's cache; default: input",
    )
    cache_write: float | None = Field(
        None,
        ge=0,
        description="price of input tokens that are written to the provider's cache, the highest of "
        "several; default: input",
    )
    batch: float = Field(
        1.0, ge=0, description="factor of the price of answers through the batch API; 0.5 is half the price"
    )

    def cost_usd(
        self, input_tokens: int, cached_tokens: int, output_tokens: int, cache_write_tokens: int = 0
    ) -> float:
        """What these tokens cost; those read from a cache and those written to it are among `input_tokens`."""
        cached = self.input if self.cached_input is None else self.cached_input
        written = self.input if self.cache_write is None else self.cache_write
        fresh = input_tokens - cached_tokens - cache_write_tokens
        read = fresh * self.input + cached_tokens * cached + cache_write_tokens * written
        return (read + output_tokens * self.output) / 1e6


class Spec(Sampling):
    """One entry of `models`: where a model is, what it may be asked and what it costs. Sampling options are its defaults."""

    provider: str = Field(description="the kind of teacher: openai, embedded, vllm, transformers or scripted")
    model: str = Field(description="name of the model at its endpoint")
    max_concurrency: int | None = Field(
        None, ge=1, description="largest number of requests in flight; default: adapted to the endpoint"
    )
    rpm: float | None = Field(None, gt=0, description="largest number of requests per minute")
    input_tpm: float | None = Field(None, gt=0, description="largest number of prompt tokens per minute")
    output_tpm: float | None = Field(None, gt=0, description="largest number of answer tokens per minute")
    price: Price | None = Field(
        None, description="US dollars for 1,000,000 tokens, such as {input: 0.4, output: 1.6}"
    )
    tokenizer: str | None = Field(
        None, description="tokenizer of the model: a file, a folder or a name; it is kept with signals"
    )
    max_retries: int = Field(8, ge=0, description="number of further tries after a temporary fault")
    finish_reasons: list[str] = Field(
        default_factory=list,
        description="further finish reasons of a complete answer, 'missing' for none; they hold for "
        "answers in the ledger, too",
    )

    @property
    def capabilities(self) -> frozenset[str]:
        """What may be asked besides text: n, logprobs, json_schema, grammar, tools, score, embeddings."""
        return frozenset()

    def credentials(self) -> set[str]:
        """What opens the endpoint: withheld also where an answer repeats it."""
        return set()

    def secrets(self) -> set[str]:
        """Values that must never be written in a message, a log or a file of ours, the credentials among them."""
        return set()

    def check(self, root: Path) -> None:
        """Raise ConfigError where the entry cannot work; nothing is asked."""

    def cost_usd(
        self, input_tokens: int, cached_tokens: int, output_tokens: int, cache_write_tokens: int = 0
    ) -> float:
        """What these tokens cost, 0 where no price is given."""
        if self.price is None:
            return 0.0
        return self.price.cost_usd(input_tokens, cached_tokens, output_tokens, cache_write_tokens)

    def most_usd(self, input_tokens: int, output_tokens: int) -> float:
        """The most that so many tokens can cost, whatever of them is read from a cache or written to one."""
        if self.price is None:
            return 0.0
        kinds = ((0, 0), (input_tokens, 0), (0, input_tokens))
        return max(self.cost_usd(input_tokens, read, output_tokens, written) for read, written in kinds)
