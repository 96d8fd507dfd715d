"""The options of a stage that reads rows which name pictures and sounds by their paths."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import BaseModel, Field, model_validator

from distillgen.errors import ConfigError, did_you_mean
from distillgen.rows.media import AUDIO, IMAGE


class NamedFiles(BaseModel):
    """Which fields of rows name pictures and sounds. Their values become references."""

    images: list[str] | None = Field(
        None,
        min_length=1,
        description="fields that name pictures (PNG, JPEG, WebP or GIF) by their paths, as seen from the "
        "file of the rows or from the project: one path, or a list. The field becomes a reference to the "
        "file",
    )
    audio: list[str] | None = Field(
        None, min_length=1, description="fields that name sounds (WAV, MP3 or FLAC) in the same way"
    )

    @model_validator(mode="after")
    def _apart(self) -> NamedFiles:
        if twice := {*(self.images or ())} & {*(self.audio or ())}:
            raise ValueError(f"'{min(twice)}' is in 'images' and in 'audio'")
        return self

    @property
    def media(self) -> dict[str, str]:
        """The kind of file that each field names: `image` or `audio`."""
        return dict.fromkeys(self.images or (), IMAGE) | dict.fromkeys(self.audio or (), AUDIO)

    def check_named(self, names: Collection[str]) -> None:
        """Raise ConfigError if no row has one of the fields."""
        for option in ("images", "audio"):
            for name in getattr(self, option) or ():
                if name not in names:
                    mistake = f"'{option}' names the field '{name}', which no row has"
                    raise ConfigError(f"{mistake}{did_you_mean(name, names)}")


NAMED_FILES = frozenset(NamedFiles.model_fields)
"""The options, which change no fingerprint of a stage that has none."""
