"""Prices from a kept list: the package genai-prices, whose version dates them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any

from distillgen.errors import ConfigError
from distillgen.extras import need

_NAMES = {
    "input": ("input_mtok",),
    "output": ("output_mtok",),
    "cached_input": ("cache_read_mtok",),
    "cache_write": ("cache_write_mtok", "cache_write_1h_mtok"),
}


def prices_of(model: str, provider: str | None, options: Mapping[str, Any]) -> dict[str, float]:
    """Return US dollars for 1,000,000 tokens today: the highest, where they depend on a prompt's length or on
    how long a cache keeps it. Raise ConfigError if the list does not have the model, or is not installed.
    """
    need("'price: list'", "genai_prices")
    from genai_prices.data_snapshot import get_snapshot

    url = str(options.get("base_url", "" if provider else "https://api.openai.com/v1"))
    try:
        _, entry = get_snapshot().find_provider_model(model, None, provider, None if provider else url)
    except LookupError:
        raise ConfigError(_unlisted(model, provider, get_snapshot())) from None
    prices = entry.get_prices(datetime.now(UTC))
    amounts = {
        name: max(
            (amount for field in fields if (amount := _most(getattr(prices, field, None)))), default=None
        )
        for name, fields in _NAMES.items()
    }
    if options.get("cache") == "5m" and (amount := _most(prices.cache_write_mtok)):
        amounts["cache_write"] = amount
    return {name: amount for name, amount in amounts.items() if amount is not None}


def _most(price: Any) -> float | None:
    """Return the highest of a price and its tiers."""
    if price is None:
        return None
    tiers = [tier.price for tier in getattr(price, "tiers", ())]
    return float(max([getattr(price, "base", price), *tiers]))


def _unlisted(model: str, provider: str | None, snapshot: Any) -> str:
    names = [entry.id for one in snapshot.providers if one.id == provider for entry in one.models]
    near = get_close_matches(model, names, 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    remedy = "write them: price: {input: …, output: …}"
    return f"'price: list': the list has no prices of '{model}'{hint}; {remedy}"
