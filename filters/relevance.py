"""Texts about their subject: the relevance selector of Knowledge Card (Feng et al. 2023, section 2.2)."""

from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.local_models.embedder import check, cosines


def relevance(
    *,
    field: FieldName = "answer",
    to: FieldName | None = None,
    topic: str | None = None,
    min_cosine: float = 0.35,
    embedder: str = "minilm",
) -> Filter:
    """Drop texts that are far in meaning from another field, or from a topic in words. Costs two embeddings a
    record.

    The other field is the question, the source or any other. Measures the cosine of the two embeddings.

    Options:
        field: the text to judge
        to: the field with the subject; give this or `topic`
        topic: the subject, in words
        min_cosine: smallest cosine of a kept text
        embedder: the embedding model: minilm, a folder, or a name on the Hugging Face Hub
    """
    if (to is None) == (topic is None):
        raise ValueError("give either 'to', a field, or 'topic', a text")
    check(embedder)
    subject_name = to or f"'{topic}'"

    def measure(records: Sequence[Record]) -> list[float]:
        subjects = [topic or "" if to is None else r.text(to) for r in records]
        return cosines([r.text(field) for r in records], subjects, model=embedder)

    def decide(cosine: float) -> str | None:
        return None if cosine >= min_cosine else f"cosine {cosine:.2f} to {subject_name} < {min_cosine:g}"

    return Filter(
        measure, decide, depends_on={"field": field, "to": to, "topic": topic, "embedder": embedder}
    )
