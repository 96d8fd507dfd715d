"""The classes that the gold answers of a set name, and which of them an answer is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from distillgen.answers.final_answer import normalised


class Classes:
    """The classes of a set: the stripped texts of its gold answers."""

    def __init__(self, golds: Iterable[str]) -> None:
        self._names = {gold.strip() for gold in golds}
        self._levelled = defaultdict[str, list[str]](list)
        for name in sorted(self._names):
            self._levelled[normalised(name)].append(name)

    def of(self, answer: str) -> str | None:
        """Return the class that an answer is: the same text, or the one class that is the same apart from
        case, punctuation, articles and spaces. None for another answer.
        """
        text = answer.strip()
        if text in self._names:
            return text
        alike = self._levelled.get(normalised(text), [])
        return alike[0] if len(alike) == 1 else None
