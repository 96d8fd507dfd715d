"""Blend: a student of averaged weights, over the training and with those that it began with."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Blend(BaseModel):
    """At the end, the weights are start · those of the beginning + (1 − start) · a moving average."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: float = Field(0.0, ge=0, lt=1, description="share of the weights with which the training began")
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the average so far in the average after a step; 0: those of the last step",
    )
