"""Length in words, characters, sentences, or tokens."""

import re
from collections.abc import Sequence
from typing import Literal

from distillgen import FieldName, FileName, Filter, Project, Record
from distillgen.text.tokens import token_counter

SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+(?=\s|$)|[。！？]++")


def length(
    *,
    field: FieldName = "response",
    unit: Literal["words", "characters", "sentences", "tokens"] = "words",
    at_least: int = 0,
    at_most: int | None = None,
    tokenizer: str | None = None,
    tokenizer_file: FileName | None = None,
    project: Project,
) -> Filter:
    """Drop texts of fewer than `at_least` or more than `at_most` words, characters, sentences or tokens.
    Costs nothing.

    Tokens are those of `tokenizer`, a name on the Hugging Face Hub, or of `tokenizer_file`, a tokenizer.json.

    Options:
        field: the text to measure
        unit: the unit to count in
        at_least: smallest count of a kept text
        at_most: largest count of a kept text; null: no bound
        tokenizer: for `unit: tokens`, a tokenizer's name on the Hugging Face Hub
        tokenizer_file: for `unit: tokens`, a tokenizer.json in the project
    """
    tokenizers = [name for name in (tokenizer, tokenizer_file) if name is not None]
    if len(tokenizers) != (unit == "tokens"):
        raise ValueError(
            "the unit 'tokens' needs either 'tokenizer' or 'tokenizer_file'; no other unit takes one"
        )
    count = {"words": words, "characters": len, "sentences": sentences}.get(unit)
    file = project.file(tokenizer_file) if tokenizer_file else None
    count = count or token_counter("filter 'length'", tokenizer or "", file)

    def measure(records: Sequence[Record]) -> list[float]:
        return [count(r.text(field)) for r in records]

    def decide(size: float) -> str | None:
        if size < at_least:
            return f"{size:.0f} {unit} < {at_least}"
        return f"{size:.0f} {unit} > {at_most}" if at_most is not None and size > at_most else None

    return Filter(measure, decide)


def words(text: str) -> int:
    """Count the parts between spaces."""
    return len(text.split())


def sentences(text: str) -> int:
    """Count the sentences, an unfinished last one included."""
    *complete, last = SENTENCE_END.split(text)
    return len(complete) + bool(last.strip())
