"""What stands, in a plan, in the place of a field that a stage will make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from distillgen.inference.parts import is_part
from distillgen.record import is_reference

Parts: TypeAlias = Counter[str]
"""How many pictures and sounds a value has: by the type of a part in a dialogue, and as FILE a reference."""

FILE = "file"
ONE: Parts = Counter({FILE: 1})


PIECES = 1_000  # the most parts of a list that a plan counts


class Filler(str):
    """A text in the place of a field that a stage makes, as long as the field can be.

    A template that reads the parts of a list or mapping can be rendered with it: a part that it names is the
    whole text, and a loop takes the text apart. One that calculates with a number can, too: the result is the
    whole text, and a comparison with a number holds.
    """

    __slots__ = ("parts",)
    parts: Parts
    """The pictures and sounds in the field."""

    def __new__(cls, text: str, parts: Parts = ONE) -> Filler:
        """Return a text with so many pictures and sounds."""
        filler = super().__new__(cls, text)
        filler.parts = parts
        return filler

    def _itself(self, *operands: Any) -> Filler:
        return self

    __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _itself
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __abs__ = _itself
    __round__ = _itself

    def _holds(self, other: Any) -> bool:
        return True

    __lt__ = __le__ = __gt__ = __ge__ = _holds

    def __getitem__(self, part: Any) -> Any:
        return Filler(super().__getitem__(part)) if isinstance(part, slice) else self

    def __add__(self, other: Any) -> Filler:
        return Filler(super().__add__(other)) if isinstance(other, str) else self

    def __iter__(self) -> Iterator[Filler]:
        size = -(-len(self) // PIECES)
        return (
            Filler(super(Filler, self).__getitem__(slice(i, i + size))) for i in range(0, len(self), size)
        )


def parts_of(value: Any) -> Parts:
    """Return the pictures and sounds in a value of a field."""
    if isinstance(value, Filler):
        return value.parts
    if is_part(value):
        return Counter({value["type"]: 1})
    if is_reference(value):
        return Counter({FILE: 1})
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return sum(map(parts_of, inner), Parts())
