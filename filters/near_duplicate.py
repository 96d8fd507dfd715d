"""Near-duplicates by shared runs of words: MinHash with locality-sensitive hashing (Broder 1997; Lee et al.
2022, Deduplicating Training Data Makes Language Models Better, section 4.2). Every candidate is verified.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal

from distillgen import FieldName, Filter, Record
from distillgen.extras import need
from distillgen.text.words import words

if TYPE_CHECKING:
    from distillgen.algorithms.minhash import Index


def near_duplicate(
    *,
    by: list[FieldName],
    threshold: float = 0.7,
    shingle: int = 3,
    unit: Literal["word", "character"] = "word",
) -> Filter:
    """Drop records that share at least `threshold` of their shingles (runs of `shingle` words) with an
    earlier record.

    Measures the Jaccard similarity to the most similar kept record before it. For scripts without spaces
    between words, use `unit: character` and a `shingle` of about 5. Costs 60 µs a short text; each kept
    record takes 110 to 160 bytes of memory at `threshold: 0.7`, whatever its length.

    Options:
        by: the fields that are compared, together
        threshold: Jaccard similarity, between 0 and 1, from which a record is a duplicate
        shingle: words, or characters, of one shingle
        unit: the unit of a shingle
    """
    need("near_duplicate", "rensa", "numpy")
    from distillgen.algorithms import minhash

    if not 0 < threshold < 1 or shingle < 1:
        raise ValueError(
            "'threshold' lies between 0 and 1 (use 'unique' for exact repetitions); 'shingle' is at least 1"
        )

    @cache
    def index() -> "Index":
        return minhash.Index(threshold)

    def shingles(record: Record) -> list[str]:
        text = "\n".join(record.text(name) for name in by)
        return minhash.shingles(words(text) if unit == "word" else list(" ".join(words(text))), shingle)

    def measure(records: Sequence[Record]) -> list[Mapping[str, float]]:
        matches = index().add([record.id for record in records], [shingles(record) for record in records])
        return [
            {"similarity": similarity, "earlier": number}
            if similarity >= threshold
            else {"similarity": similarity}
            for number, similarity in matches
        ]

    def decide(numbers: Mapping[str, float]) -> str | None:
        if "earlier" not in numbers:
            return None
        earlier_id = index().id(int(numbers["earlier"]))
        return f"similarity {numbers['similarity']:.2f} to {earlier_id} >= {threshold:g}"

    return Filter(measure, decide, whole_set=True)
