"""Records that repeat an item of an evaluation set (GPT-3, Brown et al. 2020, appendix C: n-grams of 13 words)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distillgen.record import text_of
from distillgen.rows.evaluation_sets import texts
from distillgen.text.ngrams import ngram_hashes
from distillgen.text.words import words

GRAM = 13  # words in a row that two texts must share
SHORTEST = 8  # words of a text that is looked for as a whole; shorter ones stand anywhere by chance
COMMON = 0.1  # of all items: what more of them share, such as an instruction, tells none of them


class OverlapIndex:
    """The items of evaluation sets: `add` them all, `settle`, then `find` what repeats one."""

    def __init__(self, n: int = GRAM, questions: Sequence[Sequence[str]] = ()) -> None:
        self._n, self._kinds = n, questions
        self._items: list[tuple[str, list[list[str]]]] = []
        self._of: dict[int, dict[int, str]] = {}
        self._questions: dict[tuple[Any, ...], str] = {}

    def add(self, name: str, item: Mapping[str, Any]) -> None:
        """An item, by its name."""
        for question in self._asked(item):
            self._questions.setdefault(question, name)
        self._items.append((name, [told for text in texts(item) if len(told := words(text)) >= SHORTEST]))

    def settle(self) -> None:
        """Learn the items' n-grams, but for stretches that too many of them have."""
        having = Counter(
            gram for _, own in self._items for gram in {gram for told in own for gram in self._grams(told)}
        )
        most = max(2, COMMON * len(self._items))
        for name, own in self._items:
            for told in own:
                length, common = min(self._n, len(told)), bytearray(len(told))
                for start, gram in enumerate(self._grams(told)):
                    if having[gram] > most:
                        common[start : start + length] = b"x" * length
                for start, gram in enumerate(self._grams(told)):
                    if not any(common[start : start + length]):
                        self._of.setdefault(length, {}).setdefault(gram, name)
        self._items.clear()

    def find(self, fields: Mapping[str, Any]) -> str:
        """Which item a record repeats, and what of it; nothing where none."""
        for question in self._asked(fields):
            if name := self._questions.get(question):
                return f"asks what {name} asks"
        for text in texts(fields):
            told = words(text)
            for length, known in self._of.items():
                for start, gram in enumerate(ngram_hashes(told, length)):
                    if name := known.get(gram):
                        return f'repeats {length} words of {name}: "{" ".join(told[start : start + length])}"'
        return ""

    def _grams(self, told: Sequence[str]) -> Iterator[int]:
        return ngram_hashes(told, min(self._n, len(told)))

    def _asked(self, fields: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        """An item's questions, levelled, those of which it has all the fields."""
        for names in self._kinds:
            if all(name in fields for name in names):
                yield (
                    *names,
                    *(tuple(words(text_of(fields[name]))) or text_of(fields[name]) for name in names),
                )
