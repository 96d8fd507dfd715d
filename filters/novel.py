"""Texts that say something new: admission to a library by embedding distance (strategy teaching, Wang, Sudhir
and Hong 2024), duplicates by meaning (SemDeDup, Abbas et al. 2023), and new instructions by ROUGE-L
(Self-Instruct, Wang et al. 2023, section 2.2).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.extras import need
from distillgen.local_models.embedder import check, embed

COSINES = {"earlier": "an earlier text", "entry": "a known entry"}
MAX_COSINE = 0.85
WORD = re.compile(r"[^\W_]+")  # for ASCII, the tokens of rouge-score, which Self-Instruct takes
LETTERS = 1_000_000  # different words of all texts; further ones share letters, and texts look more alike
CHUNK = 256


class WordSequences:
    """Texts that are compared by ROUGE-L. Each word is written as a letter, which rapidfuzz compares fast."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}
        self._texts: list[str] = []

    def encode(self, text: str) -> str:
        """Return a text with a letter for each word."""
        return "".join(self._letters.setdefault(word, self._letter()) for word in WORD.findall(text.lower()))

    def _letter(self) -> str:
        number = len(self._letters) % LETTERS + 1
        return chr(number if number < 0xD800 else number + 0x800)  # without surrogates

    def add(self, letters: str) -> None:
        """Add an encoded text."""
        if letters:
            self._texts.append(letters)

    def highest(self, letters: str) -> float:
        """Return the highest ROUGE-L (F1) to an added text, from 0 to 1."""
        from rapidfuzz.distance import Indel, LCSseq
        from rapidfuzz.process import extractOne

        nearest = extractOne(letters, self._texts, scorer=Indel.normalized_similarity) if letters else None
        if nearest is None:
            return 0.0
        return 2 * LCSseq.similarity(letters, nearest[0]) / (len(letters) + len(nearest[0]))


def novel(
    *,
    field: FieldName,
    beside: FieldName | None = None,
    max_cosine: float | None = None,
    max_rouge_l: float | None = None,
    pool: bool = False,
    embedder: str = "minilm",
) -> Filter:
    """Drop texts that are close to a kept text before them, or to an entry that a retrieve stage found.

    `beside` is the field with these entries. Measures the highest cosine to an earlier text, and to an entry;
    with `max_rouge_l`, the highest ROUGE-L. Costs an embedding a record, and the memory of one for each kept
    record; with `max_rouge_l` alone, about 0.2 µs for each kept text before the record.

    Options:
        field: the text to compare
        beside: the field with the entries that a retrieve stage brought
        max_cosine: a text with at least this cosine to a kept one is dropped; default: 0.85, or no cosine
            if there is a `max_rouge_l`
        max_rouge_l: largest ROUGE-L (F1 of the longest common sequence of words) to a kept one
        pool: inside `rounds`, compare also with the records that reach the loop and those that earlier rounds
            kept
        embedder: the embedding model: minilm, a folder, or a name on the Hugging Face Hub
    """
    if max_cosine is None and max_rouge_l is None:
        max_cosine = MAX_COSINE
    if max_cosine is None and beside is not None:
        raise ValueError("'beside' brings entries with their cosine: give 'max_cosine', too")
    if max_cosine is not None:
        check(embedder)
    if max_rouge_l is not None:
        need("novel: {max_rouge_l: …}", "rapidfuzz")
    vectors: list[Any] = []
    sequences = WordSequences()

    def placed(texts: Sequence[str]) -> list[tuple[Any, str]]:
        """Return the vector and the encoded words of each text."""
        embeddings = embed(texts, model=embedder) if texts and max_cosine is not None else [None] * len(texts)
        encoded = [sequences.encode(text) if max_rouge_l is not None else "" for text in texts]
        return list(zip(embeddings, encoded, strict=True))

    def add(vector: Any, letters: str) -> None:
        if vector is not None:
            vectors.append(vector)
        sequences.add(letters)

    def begin(records: Iterable[Record]) -> None:
        texts = (record.text(field) for record in records if record.fields.get(field) is not None)
        while part := list(islice(texts, CHUNK)):
            for vector, letters in placed(part):
                add(vector, letters)

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        places = placed([record.text(field) for record in records])
        return [judge(record, *place) for record, place in zip(records, places, strict=True)]

    def judge(record: Record, vector: Any, letters: str) -> dict[str, float]:
        numbers: dict[str, float] = {}
        if vector is not None:
            numbers["earlier"] = max((float(vector @ other) for other in vectors), default=0.0)
            if beside is not None:
                entries = record.fields[beside] or ()
                numbers["entry"] = max((float(entry["cosine"]) for entry in entries), default=0.0)
        if max_rouge_l is not None:
            numbers["rouge_l"] = sequences.highest(letters)
        if decide(numbers) is None:
            add(vector, letters)
        return numbers

    def decide(numbers: Mapping[str, float]) -> str | None:
        cosines = {kind: numbers[kind] for kind in COSINES if kind in numbers}
        nearest_kind = max(cosines, key=lambda kind: cosines[kind], default="")
        if max_cosine is not None and nearest_kind and cosines[nearest_kind] >= max_cosine:
            return f"cosine {cosines[nearest_kind]:.2f} to {COSINES[nearest_kind]} >= {max_cosine:g}"
        if max_rouge_l is not None and numbers["rouge_l"] > max_rouge_l:
            return f"ROUGE-L {numbers['rouge_l']:.2f} to an earlier text > {max_rouge_l:g}"
        return None

    return Filter(measure, decide, whole_set=True, begin=begin if pool else None)
