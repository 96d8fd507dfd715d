"""Options of a model: an entry of `models` in a pipeline, and its price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from distillgen.inference.sampling import Sampling

ADDED_TOKENS = 1000  # the largest published figure is 804


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
        """Return the cost of an answer. `input_tokens` include those read from a cache and those written to
        it.
        """
        cached_price = self.input if self.cached_input is None else self.cached_input
        write_price = self.input if self.cache_write is None else self.cache_write
        fresh_tokens = input_tokens - cached_tokens - cache_write_tokens
        input_cost = (
            fresh_tokens * self.input + cached_tokens * cached_price + cache_write_tokens * write_price
        )
        return (input_cost + output_tokens * self.output) / 1e6


class Spec(Sampling):
    """An entry of `models`: where a model is, what it can do and what it costs. Its sampling options are
    defaults.
    """

    provider: str = Field(
        description="the kind of teacher: openai, anthropic, gemini, bedrock, embedded, vllm, "
        "transformers, network or scripted; or a preset, such as groq"
    )
    model: str = Field(description="name of the model at its endpoint")
    max_concurrency: int | None = Field(
        None, ge=1, description="largest number of requests in flight; default: adapted to the endpoint"
    )
    rpm: float | None = Field(None, gt=0, description="largest number of requests per minute")
    input_tpm: float | None = Field(None, gt=0, description="largest number of prompt tokens per minute")
    output_tpm: float | None = Field(None, gt=0, description="largest number of answer tokens per minute")
    price: Annotated[
        Price | None,
        BeforeValidator(lambda value: value, json_schema_input_type=Price | Literal["list"] | None),
    ] = Field(
        None,
        description="US dollars for 1,000,000 tokens, such as {input: 0.4, output: 1.6}, or list: from the "
        "package genai-prices",
    )
    tokenizer: str | None = Field(
        None, description="tokenizer of the model: a file, a folder or a name; it is kept with signals"
    )
    max_retries: int = Field(8, ge=0, description="number of further tries after a temporary fault")
    image_tokens: int | None = Field(
        None,
        ge=0,
        description="the most input tokens of a picture, by which the most that a request can cost is "
        "bounded; a model with a price needs it where a prompt has pictures",
    )
    audio_tokens: int | None = Field(
        None, ge=0, description="the most input tokens of a sound, in the same way"
    )
    finish_reasons: list[str] = Field(
        default_factory=list,
        description="further finish reasons of a complete answer, 'missing' for none; they hold for "
        "answers in the ledger, too",
    )

    @property
    def capabilities(self) -> frozenset[str]:
        """What the model gives besides text: n, logprobs, json_schema, grammar, tools, score, first_token,
        picture_score, embeddings, user_turn, images, audio, constraints, and pruned_constraints for searches
        with a finite `prune`.
        """
        return frozenset()

    @property
    def most_logprobs(self) -> int:
        """The most alternatives of a token that it records."""
        return 20

    def added_tokens(self, *, tools: bool, schema: bool) -> int:
        """Return the most input tokens that the provider bills for words of its own, where a request has
        tools or a schema.

        Anthropic's pages name 159 to 804 for tools, by the model. Most others name none, and an endpoint of
        OpenAI's protocol may pass a request on to any of them. None is known to add words about schemas.
        """
        return ADDED_TOKENS if tools else 0

    def tokens_of(self, parts: Sequence[Mapping[str, Any]]) -> int:
        """Return the most input tokens of pictures and sounds."""
        most = {"image": self.image_tokens, "audio": self.audio_tokens}
        return sum(most[part["type"]] or 0 for part in parts)

    def sampling_refusal(self, sampling: Mapping[str, Any]) -> str:
        """Return why its requests cannot have these sampling options; "" if they can."""
        most = self.most_logprobs
        if (number := sampling.get("logprobs")) is not None and number > most:
            return f"records at most {most} alternatives of a token, not logprobs: {number}"
        return ""

    def refusal(self, templates: Sequence[str]) -> str:
        """Return why it cannot answer prompts whose turns have these templates; "" if it can."""
        return ""

    def credentials(self) -> set[str]:
        """Return the keys of the endpoint. They are withheld, even where an answer repeats them."""
        return set()

    def secrets(self) -> set[str]:
        """Return the values that no message, log or file may contain, the credentials included."""
        return set()

    def check(self, root: Path) -> None:
        """Raise ConfigError if the entry cannot work. No request is sent."""

    def with_files(self, root: Path) -> Spec:
        """Return the entry with what its local files tell."""
        return self

    @property
    def asked_online(self) -> Spec:
        """The entry as it holds for requests that go through no batch API, which have the online price."""
        return self

    def cost_usd(
        self, input_tokens: int, cached_tokens: int, output_tokens: int, cache_write_tokens: int = 0
    ) -> float:
        """Return the cost of these tokens, 0 without a price."""
        if self.price is None:
            return 0.0
        return self.price.cost_usd(input_tokens, cached_tokens, output_tokens, cache_write_tokens)

    def most_usd(self, input_tokens: int, output_tokens: int) -> float:
        """Return the most that these tokens can cost, however many are read from a cache or written to it."""
        if self.price is None:
            return 0.0
        cache_uses = ((0, 0), (input_tokens, 0), (0, input_tokens))
        return max(
            self.cost_usd(input_tokens, cached, output_tokens, cache_write)
            for cached, cache_write in cache_uses
        )
