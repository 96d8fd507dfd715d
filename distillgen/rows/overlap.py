"""Find records that repeat an item of an evaluation set: its words (GPT-3, Brown et al. 2020, appendix C:
13-grams), or its arrays and pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distillgen.record import is_asked, is_reference, text_of
from distillgen.rows.arrays import numbers_in
from distillgen.rows.evaluation_sets import texts
from distillgen.text.ngrams import ngram_hashes
from distillgen.text.words import words

GRAM = 13  # consecutive words that two texts must share
SHORTEST = 8  # words, or numbers, of the shortest value that is indexed; shorter ones occur by chance
SHARED = (
    2  # items that may have an array in common; one that more have, such as a one-hot label, is not indexed
)
COMMON = (
    0.1  # share of the items: n-grams that more items share, such as those of an instruction, are not indexed
)


class OverlapIndex:
    """The items of evaluation sets. First `add` all items, then `settle`, then `find` the item that a record
    repeats.
    """

    def __init__(self, n: int = GRAM, questions: Sequence[Sequence[str]] = ()) -> None:
        """Compare n-grams of `n` words, and the values of each list of fields in `questions`."""
        self._n, self._question_fields = n, questions
        self._items: list[tuple[str, list[list[str]]]] = []
        self._names_by_gram: dict[int, dict[int, str]] = {}
        self._names_by_question: dict[tuple[Any, ...], str] = {}
        self._names_by_array: dict[str, list[str]] = {}

    def add(self, name: str, item: Mapping[str, Any]) -> None:
        """Add an item under its name."""
        for question in self._questions(item):
            self._names_by_question.setdefault(question, name)
        for array in {*_arrays(item)}:
            self._names_by_array.setdefault(array, []).append(name)
        item_texts = [text_words for text in texts(item) if len(text_words := words(text)) >= SHORTEST]
        self._items.append((name, item_texts))

    def settle(self) -> None:
        """Index the items' n-grams, except for the passages that too many items share."""
        frequency = Counter(
            gram
            for _, item_texts in self._items
            for gram in {gram for text in item_texts for gram in self._grams(text)}
        )
        most = max(2, COMMON * len(self._items))
        for name, item_texts in self._items:
            for text in item_texts:
                length, common = min(self._n, len(text)), bytearray(len(text))
                for start, gram in enumerate(self._grams(text)):
                    if frequency[gram] > most:
                        common[start : start + length] = b"x" * length
                for start, gram in enumerate(self._grams(text)):
                    if not any(common[start : start + length]):
                        self._names_by_gram.setdefault(length, {}).setdefault(gram, name)
        self._items.clear()
        shared = [array for array, names in self._names_by_array.items() if len(names) > SHARED]
        for array in shared:
            del self._names_by_array[array]

    def find(self, fields: Mapping[str, Any]) -> str:
        """Return which item a record repeats, and the words; empty if it repeats none."""
        for question in self._questions(fields):
            if name := self._names_by_question.get(question):
                return f"asks what {name} asks"
        for array in _arrays(fields) if self._names_by_array else ():
            if names := self._names_by_array.get(array):
                return f"repeats an array, or a picture, of {names[0]}"
        if not self._names_by_gram:
            return ""
        for text in texts(fields):
            text_words = words(text)
            for length, names_by_gram in self._names_by_gram.items():
                for start, gram in enumerate(ngram_hashes(text_words, length)):
                    if name := names_by_gram.get(gram):
                        passage = " ".join(text_words[start : start + length])
                        return f'repeats {length} words of {name}: "{passage}"'
        return ""

    def _grams(self, text_words: Sequence[str]) -> Iterator[int]:
        return ngram_hashes(text_words, min(self._n, len(text_words)))

    def _questions(self, fields: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        """Yield the normalised values of each list of question fields that the item has."""
        for names in self._question_fields:
            if all(name in fields for name in names):
                yield (*names, *(_normal(fields[name]) for name in names))


def _normal(value: Any) -> Any:
    """Return the words of a value, or its text if it has none; of references, what tells files apart."""
    references = value if isinstance(value, list) else [value]
    if references and all(map(is_reference, references)):
        return tuple((one["sha256"], one.get("column"), one.get("index")) for one in references)
    return tuple(words(text := text_of(value))) or text


def _arrays(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield the hashes of the arrays and files in the fields that a row is about."""
    for name, value in fields.items():
        if isinstance(value, list | Mapping) and is_asked(name):
            yield from (array for size, array in numbers_in(value) if size >= SHORTEST)
