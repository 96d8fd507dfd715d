"""Questions that nobody can understand without the text that they were made from."""

import re
from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.text import content, words

POINTERS = re.compile(r"\b(?:the|this) (?:text|passage|article|author)\b|\baccording to\b", re.I)
PRONOUNS = frozenset("it its he his him she her they them their this these those".split())


def standalone(*, field: FieldName = "question", subject: FieldName = "title") -> Filter:  # type: ignore[assignment]
    """Drop questions that point outside themselves. Measures how often: "the text", a pronoun before anything it could
    stand for, "the starter" with nothing named and nothing of `subject` mentioned. English. Costs nothing.
    """

    def pointers(record: Record) -> float:
        text = str(record.fields[field])
        asked = words(text)
        loose = sum(word in PRONOUNS and not content(" ".join(asked[:i])) for i, word in enumerate(asked))
        named = re.search(r"\S\s+[A-Z\d]", text) or content(str(record.fields[subject])) & content(text)
        return loose + len(POINTERS.findall(text)) + (not named and "the" in asked)

    def measure(records: Sequence[Record]) -> list[float]:
        return [pointers(record) for record in records]

    return Filter(measure, lambda count: f"points outside itself {count:.0f} times" if count else None)
