"""bag: texts as bags of hashed words, then layers (Joulin et al. 2016, Weinberger et al. 2009)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, PositiveInt

from distillgen.networks.body import Body, Sizes


class Bag(Body):
    """The mean of the vectors of a text's words, and layers over it.

    A word counts in lower case, and apart in each input. It has one of `buckets` vectors, by its hash.
    """

    reads = "texts"

    sizes: list[PositiveInt] = Field(
        min_length=1, description="width of the words' vectors, then neurons of each layer, such as [64, 32]"
    )
    buckets: int = Field(4096, ge=1, description="number of vectors that all words share")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the neurons that is dropped at random")

    def layers(self) -> int:
        """Return the number of layers over the mean."""
        return len(self.sizes) - 1

    def module(self, sizes: Sizes, networks: Mapping[str, Any]) -> Any:
        """Return the vectors and the layers."""
        from distillgen.bodies._bag import WordBag

        return WordBag(self.buckets, self.sizes, self.dropout)
