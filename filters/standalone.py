"""Texts that nobody can understand without the one that they were made from."""

import re
from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.text import content, words

POINTERS = re.compile(r"\b(?:the|this) (?:text|passage|article|author)\b|\baccording to\b", re.I)
PRONOUNS = frozenset("it its he his him she her they them their this these those".split())
POINTING = PRONOUNS | {"the"}


def standalone(*, fields: list[FieldName], subject: FieldName) -> Filter:
    """Drop records whose `fields` point outside themselves: "the text", a pronoun before anything it could stand for.

    Also "the" or a pronoun with neither a name nor a word of `subject` anywhere. Measures how often. English. Costs nothing.

    Options:
        fields: the texts that must stand alone
        subject: the field with the subject's name, such as a title
    """

    def pointers(record: Record) -> float:
        texts = [record.text(name) for name in fields]
        together = " ".join(texts)
        count = len(POINTERS.findall(together))
        for text in texts:
            told = words(text)
            count += sum(word in PRONOUNS and not content(" ".join(told[:i])) for i, word in enumerate(told))
        named = re.search(r"\S\s+[A-Z\d]", texts[0]) or content(record.text(subject)) & content(together)
        return count + (not named and not POINTING.isdisjoint(words(together)))

    def measure(records: Sequence[Record]) -> list[float]:
        return [pointers(record) for record in records]

    return Filter(measure, lambda count: f"points outside itself {count:.0f} times" if count else None)
