"""A uniform sample of a stream of unknown length."""

from __future__ import annotations

import random
from typing import Generic, TypeVar

T = TypeVar("T")


class Reservoir(Generic[T]):
    """A uniform sample of at most `size` items (Vitter 1985, algorithm R)."""

    def __init__(self, size: int, chance: random.Random) -> None:
        self.items: list[T] = []
        self._size, self._chance, self._seen = size, chance, 0

    def place(self) -> int | None:
        """Draw the place of the next item of the stream; return None if the sample does not take it."""
        place = self._seen if self._seen < self._size else self._chance.randrange(self._seen + 1)
        self._seen += 1
        return place if place < self._size else None

    def put(self, place: int, item: T) -> None:
        """Put an item at a place that `place` returned."""
        self.items[place : place + 1] = [item]

    def add(self, item: T) -> None:
        """Take the next item of the stream, or leave it."""
        if (place := self.place()) is not None:
            self.put(place, item)
