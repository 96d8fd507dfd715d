"""The option `chunk` of the stage source: how texts are cut into pieces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distillgen.project import Project
from distillgen.text.chunks import Piece, pieces, words
from distillgen.text.tokens import token_counter


class Cut(BaseModel):
    """Pieces of texts, of a size in words or in tokens. A row has also `headings`, the titles above its
    piece, and `start` and `end`, the place of the piece in the text in characters.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    words: int | None = Field(None, ge=10, description="largest number of words of a piece")
    tokens: int | None = Field(None, ge=10, description="largest number of tokens of a piece, instead")
    overlap: int = Field(
        0,
        ge=0,
        description="number of words or tokens, in whole sentences, that a piece repeats from the one before",
    )
    tokenizer: str | None = Field(
        None, description="for `tokens`, a tokenizer's name on the Hugging Face Hub"
    )
    tokenizer_file: str | None = Field(
        None, description="for `tokens`, a tokenizer.json in the project, instead"
    )

    @model_validator(mode="after")
    def _one_size(self) -> Cut:
        if (self.words is None) == (self.tokens is None):
            raise ValueError("give either 'words' or 'tokens', the largest size of a piece")
        if self.overlap >= (self.words or self.tokens or 0):
            raise ValueError("'overlap' must be smaller than the piece")
        if [self.tokenizer, self.tokenizer_file].count(None) != 2 - (self.tokens is not None):
            remedy = "'tokens' needs either 'tokenizer' or 'tokenizer_file'"
            raise ValueError(f"{remedy}; 'words' takes neither")
        return self

    def files(self, project: Project) -> dict[str, Path]:
        """Return the file of the tokenizer, by its name. Raise ConfigError if there is none."""
        return {self.tokenizer_file: project.file(self.tokenizer_file)} if self.tokenizer_file else {}

    def cutter(self, project: Project) -> Cutter:
        """Return what cuts a text. Raise ConfigError if the tokenizer cannot be read."""
        if self.words:
            return Cutter(self.words, self.overlap, option="chunk", shows_place=True)
        file = next(iter(self.files(project).values()), None)
        size = token_counter("chunk", self.tokenizer or "", file)
        return Cutter(self.tokens or 0, self.overlap, size, "tokens", option="chunk", shows_place=True)


@dataclass(frozen=True)
class Cutter:
    """What cuts a text into pieces, for the option of the source that it names."""

    most: int
    overlap: int = 0
    size: Callable[[str], int] = words
    unit: str = "words"
    option: str = "chunk_words"
    shows_place: bool = False

    def pieces(self, text: str, notes: list[str]) -> list[Piece]:
        """Return the text in pieces. `notes` receives what had to be cut apart."""
        return pieces(text, self.most, self.overlap, notes, self.size, self.unit)

    def place(self, piece: Piece) -> Mapping[str, Any]:
        """Return the fields that say where a piece stands; none for `chunk_words`."""
        return place_of(piece) if self.shows_place else {}


def place_of(piece: Piece) -> dict[str, Any]:
    """Return the fields that say where a piece stands in its text."""
    return {"headings": list(piece.headings), "start": piece.start, "end": piece.end}
