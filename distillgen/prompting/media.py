"""The fields of a record whose pictures and sounds a prompt shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distillgen.inference.parts import KINDS
from distillgen.prompting.filler import Filler
from distillgen.record import Unrenderable, is_reference


@dataclass(frozen=True)
class Media:
    """Fields with pictures and fields with sounds, in the order in which a prompt shows them.

    A field holds a reference to a file, `{"path": …, "sha256": …}`, or a list of references.
    """

    images: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()

    def __add__(self, other: Media) -> Media:
        return Media((*self.images, *other.images), (*self.audio, *other.audio))

    @property
    def fields(self) -> frozenset[str]:
        """The names of the fields."""
        return frozenset((*self.images, *self.audio))

    @property
    def kinds(self) -> dict[str, str]:
        """The type of the parts of each field."""
        return {name: kind for kind, names in self._by_kind() for name in names}

    @property
    def capabilities(self) -> list[str]:
        """What a model needs in order to take them."""
        return list(self.options)

    @property
    def options(self) -> dict[str, tuple[str, ...]]:
        """The fields of each kind that has some."""
        return {KINDS[kind]: names for kind, names in self._by_kind() if names}

    def parts(self, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the parts of a message. Raise Unrenderable for a field without a picture or a sound."""
        return [
            part for kind, names in self._by_kind() for name in names for part in _parts(kind, name, fields)
        ]

    def before(self, text: str, fields: Mapping[str, Any]) -> str | list[dict[str, Any]]:
        """Return the content of a turn: the text, after the parts if there are any. Raise Unrenderable."""
        return [*self.parts(fields), {"type": "text", "text": text}] if self.fields else text

    def _by_kind(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return ("image", self.images), ("audio", self.audio)


NO_MEDIA = Media()
_STAND_IN = {"path": "", "sha256": "0" * 64}


def _parts(kind: str, name: str, fields: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    value, word = fields.get(name), "sound" if kind == "audio" else "picture"
    references: list[Any] = value if isinstance(value, list) else [value]
    if isinstance(value, Filler):
        references = [_STAND_IN] * max(1, value.parts.total())
    if not references or not all(map(is_reference, references)):
        hint = f"; name it in `{KINDS[kind]}` of the stage that reads it" if isinstance(value, str) else ""
        raise Unrenderable(f"'{name}' holds no {word}{hint}")
    for reference in references:
        yield {"type": kind, "path": reference["path"], "sha256": reference["sha256"]}
