"""Texts that say something new: admission to a library by embedding distance (strategy teaching, Wang, Sudhir
and Hong 2024), and duplicates by meaning (SemDeDup, Abbas et al. 2023).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.local_models.embedder import check, embed

NAMES = {"earlier": "an earlier text", "entry": "a known entry"}


def novel(
    *, field: FieldName, beside: FieldName | None = None, max_cosine: float = 0.85, embedder: str = "minilm"
) -> Filter:
    """Drop texts that are close in meaning to a kept text before them, or to an entry that a retrieve stage
    found.

    `beside` is the field with these entries. Measures the highest cosine to an earlier text, and to an entry.
    Costs an embedding a record, and the memory of one for each kept record.

    Options:
        field: the text to compare
        beside: the field with the entries that a retrieve stage brought
        max_cosine: largest cosine to an earlier text of a kept one
        embedder: the embedding model: minilm, a folder, or a name on the Hugging Face Hub
    """
    check(embedder)
    kept: list[Any] = []

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [place(record, vector) for record, vector in zip(records, texts_of(records), strict=True)]

    def texts_of(records: Sequence[Record]) -> Any:
        return embed([record.text(field) for record in records], model=embedder) if records else []

    def place(record: Record, vector: Any) -> dict[str, float]:
        cosines = {"earlier": max((float(vector @ other) for other in kept), default=0.0)}
        if beside is not None:
            cosines["entry"] = max(
                (float(entry["cosine"]) for entry in record.fields[beside] or ()), default=0.0
            )
        if decide(cosines) is None:
            kept.append(vector)
        return cosines

    def decide(numbers: Mapping[str, float]) -> str | None:
        nearest_kind, cosine = max(numbers.items(), key=lambda pair: pair[1])
        return (
            f"cosine {cosine:.2f} to {NAMES[nearest_kind]} >= {max_cosine:g}"
            if cosine >= max_cosine
            else None
        )

    return Filter(measure, decide, whole_set=True)
