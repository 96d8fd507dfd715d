"""Sampling options: how a teacher draws its answer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from distillgen.inference.logprobs import MOST_ALTERNATIVES


class Sampling(BaseModel):
    """How a teacher draws its answer. An option that is not set is not sent."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    temperature: float | None = Field(
        None, ge=0, description="randomness of the choice of tokens; 0 always takes the likeliest one"
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="draw from the likeliest tokens that together have this probability"
    )
    top_k: int | None = Field(None, ge=0, description="draw from this many of the likeliest tokens")
    min_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="draw only tokens of at least this probability, relative to the likeliest one",
    )
    max_tokens: int | None = Field(None, gt=0, description="largest number of tokens of an answer")
    stop: list[str] | str | None = Field(None, description="texts that end the answer")
    presence_penalty: float | None = Field(
        None, description="lower the probability of tokens that have occurred"
    )
    frequency_penalty: float | None = Field(
        None, description="lower the probability of a token with each time that it has occurred"
    )
    seed: int | None = Field(
        None,
        description="seed that is sent to the endpoint; sample i gets seed + i, "
        "and 1,000 more for each unit of the pipeline's seed",
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MOST_ALTERNATIVES,
        description="number of likeliest alternatives to record for each token, besides the token's own "
        "probability: at most 20; at most 255 of providers transformers, network and scripted",
    )
    extra: dict[str, Any] | None = Field(None, description="further keys of the request body, sent unchanged")

    def sampling_options(self) -> dict[str, Any]:
        """Return the sampling options that are set, without the other options of a subclass."""
        return {name: value for name in Sampling.model_fields if (value := getattr(self, name)) is not None}
