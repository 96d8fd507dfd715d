"""Answers that are closer to their own question than to another one: relevance against distractors."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from distillgen import ConfigError, FieldName, FileName, Filter, Project, Record
from distillgen.local_models.embedder import check, cosines, embed
from distillgen.project import file_sha256
from distillgen.record import text_of
from distillgen.rows.jsonl import read_rows
from distillgen.text.words import words


def margin(
    *,
    field: FieldName = "answer",
    to: FieldName = "question",
    distractor: FieldName | None = None,
    others: FileName | None = None,
    key: str | None = None,
    min_margin: float = 0.0,
    embedder: str = "minilm",
    project: Project,
) -> Filter:
    """Drop texts that are not closer to their own question than to another.

    The other questions are the field `distractor`, or those in the JSONL file `others` under `key` (default:
    the name of `to`); the record's own question may be among them. Measures the cosine to its own question
    minus the highest cosine to another. Costs two or three embeddings a record.

    Options:
        field: the text to judge
        to: the field with its own question
        distractor: the field with another question; give this or `others`
        others: a .jsonl file with other questions
        key: the field of the questions in `others`; default: the name of `to`
        min_margin: smallest difference between the two cosines of a kept text
        embedder: the embedding model: minilm, a folder, or a name on the Hugging Face Hub
    """
    if (distractor is None) == (others is None):
        raise ValueError("give either 'distractor', a field, or 'others', a JSONL file of questions")
    check(embedder)
    name = key or to
    file = project.file(others) if others else None

    @cache
    def other_questions() -> tuple[list[str], Any]:
        questions = {}
        for line, row in read_rows(file) if file else ():
            if isinstance(row, str) or name not in row:
                mistake = (
                    row
                    if isinstance(row, str)
                    else f"there is no '{name}' in the row; name the right one with 'key'"
                )
                raise ConfigError(f"margin: {mistake}", path=file, line=line)
            questions[_levelled(row[name])] = text_of(row[name])
        if len(questions) < 2:
            raise ConfigError("margin: there are no other questions to compare with", path=file)
        return list(questions), embed(list(questions.values()), model=embedder)

    def highest(records: Sequence[Record], texts: Sequence[str]) -> list[float]:
        if distractor is not None:
            return cosines(texts, [r.text(distractor) for r in records], model=embedder)
        questions, vectors = other_questions()
        near = embed(texts, model=embedder) @ vectors.T
        places = {question: place for place, question in enumerate(questions)}
        for row, record in zip(near, records, strict=True):
            if (place := places.get(_levelled(record.fields[to]))) is not None:
                row[place] = -1.0
        return [float(cosine) for cosine in near.max(axis=1)]

    def measure(records: Sequence[Record]) -> list[float]:
        texts = [r.text(field) for r in records]
        own_cosines = cosines(texts, [r.text(to) for r in records], model=embedder)
        return [a - b for a, b in zip(own_cosines, highest(records, texts), strict=True)]

    def decide(lead: float) -> str | None:
        return (
            None
            if lead >= min_margin
            else f"{lead:+.2f} closer to its own {to} than to another < {min_margin:g}"
        )

    compared = {
        "field": field,
        "to": to,
        "distractor": distractor,
        "key": name,
        "others": file and file_sha256(file),
    }
    return Filter(measure, decide, depends_on={**compared, "embedder": embedder})


def _levelled(text: Any) -> str:
    return " ".join(words(text_of(text)))
