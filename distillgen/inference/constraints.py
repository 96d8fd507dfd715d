"""What an answer must contain, and how a model searches for answers that do: options of `generate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ZERO_SHOT: Mapping[str, Any] = {"prune": None, "beta": 1.25, "early_stop": 10.0}
"""NeuroLogic's setting for models that were not trained for the task, as in I2D2 and NeuroComparatives."""
FINE_TUNED: Mapping[str, Any] = {"prune": 50, "beta": 0.0, "early_stop": 1.5}
_SETTINGS = {"zero_shot": ZERO_SHOT, "fine_tuned": FINE_TUNED}


class ClauseOptions(BaseModel):
    """How often phrases occur in an answer. A phrase matches whole words, and also with its first letter in
    the other case.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    any: list[str] | str = Field(
        min_length=1,
        description="the phrases: templates, or the name of a text file with one phrase a line. A phrase "
        "that is empty is left out, and a clause without phrases, too",
    )
    at_least: int = Field(
        0, ge=0, description="fewest occurrences of the phrases together; default: 1 without at_most, else 0"
    )
    at_most: int | None = Field(
        None, ge=0, description="most occurrences of the phrases together; 0 bans them"
    )
    whole_words: bool = Field(True, description="false: a phrase also matches inside of words")

    @model_validator(mode="before")
    @classmethod
    def _at_least_once(cls, options: Any) -> Any:
        """Set `at_least` to 1 where the clause has no bound."""
        bounded = not isinstance(options, dict) or options.keys() & {"at_least", "at_most"}
        return options if bounded else {**options, "at_least": 1}

    @model_validator(mode="after")
    def _possible(self) -> ClauseOptions:
        if self.at_most is not None and self.at_most < self.at_least:
            raise ValueError(f"'at_most' {self.at_most} is less than 'at_least' {self.at_least}")
        if not self.at_least and self.at_most is None:
            raise ValueError("the clause allows everything; give 'at_least' or 'at_most'")
        return self


class SearchOptions(BaseModel):
    """A beam search for the likeliest answers (NeuroLogic, Lu et al. 2021). The same request has the same
    answers; the n best of them are taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    setting: Literal["zero_shot", "fine_tuned"] = Field(
        "zero_shot",
        description="published values of prune, beta and early_stop: for a model that was not trained for "
        "the task, none, 1.25 and 10; for one that was, 50, 0 and 1.5",
    )
    beam: int = Field(20, ge=1, description="texts that are continued at once")
    tolerance: int = Field(
        2, ge=0, description="clauses that a text may have met less than the text that has met most"
    )
    prune: int | None = Field(
        None, ge=2, description="rank, among all next tokens of all texts, from which a token is left out"
    )
    beta: float = Field(1.25, ge=0, description="weight of phrases that are begun")
    early_stop: float = Field(
        10.0, ge=0, description="a text may end if its end is among this many times `beam` likeliest tokens"
    )
    ngram: int = Field(
        3,
        ge=0,
        description="sequences of this many tokens occur once at most, in prompt and answer; 0 allows all",
    )
    length_penalty: float = Field(
        0.2, description="power of the number of tokens by which a text's log-probability is divided"
    )
    per_bucket: Literal["best", "sample"] = Field(
        "best", description="which of the texts of a bucket go on: the likeliest, or a uniform draw"
    )
    buckets: Literal["met", "progress"] = Field(
        "met",
        description="which texts share a bucket: those with the same clauses met, or, as in "
        "NeuroComparatives, with the same clauses met or begun",
    )
    min_tokens: int = Field(0, ge=0, description="fewest tokens of an answer")

    @model_validator(mode="before")
    @classmethod
    def _published(cls, options: Any) -> Any:
        """Set what the setting says, where no value is given."""
        setting = options.get("setting") if isinstance(options, dict) else None
        return {**_SETTINGS[setting], **options} if setting in _SETTINGS else options
