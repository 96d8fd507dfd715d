"""Exact repetitions, after case, punctuation and spaces are normalised."""

import hashlib
from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.text.words import words


def unique(*, by: list[FieldName]) -> Filter:
    """Drop records whose fields `by` repeat those of an earlier record. Costs 16 bytes of memory a distinct
    record.

    Measures the number of earlier records with the same text.

    Options:
        by: the fields that are compared, together
    """
    counts_by_key: dict[bytes, int] = {}

    def measure(records: Sequence[Record]) -> list[float]:
        counts = []
        for record in records:
            levelled = "\0".join(" ".join(words(record.text(name))) for name in by)
            key = hashlib.blake2b(levelled.encode("utf-8", "replace"), digest_size=16).digest()
            counts.append(counts_by_key.get(key, 0))
            counts_by_key[key] = counts[-1] + 1
        return [float(count) for count in counts]

    return Filter(
        measure, lambda earlier: f"the same as {earlier:.0f} before it" if earlier else None, whole_set=True
    )
