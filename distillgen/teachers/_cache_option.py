"""The option of a prompt cache that charges for what is written to it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

WRITING = {"5m": 1.25, "1h": 2.0}
"""Factors of the price of input, by Anthropic's page on prompt caching; Bedrock has the same for Claude."""
READING = 0.1


class CacheOption(BaseModel):
    """`cache`, and the prices that follow from it."""

    cache: Literal["5m", "1h"] | None = Field(
        None,
        description="how long the provider keeps what comes before the last message, so that further requests"
        " pay a tenth for it; writing it costs 1.25 times as much as input, or twice for 1h",
    )

    @model_validator(mode="before")
    @classmethod
    def _cache_prices(cls, options: Any) -> Any:
        """Fill the prices of the cache by the rule, unless they are set."""
        price, cache = (
            options.get(name) if isinstance(options, dict) else None for name in ("price", "cache")
        )
        if (
            cache not in WRITING
            or not isinstance(price, dict)
            or not isinstance(price.get("input"), (int, float))
        ):
            return options
        rule = {"cached_input": READING * price["input"], "cache_write": WRITING[cache] * price["input"]}
        return {**options, "price": rule | price}
