"""Quotations and figures that the source does not contain."""

import re
from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.text.words import content, words

QUOTED = re.compile(r'"([^"\n]+)"|[“„]([^“”„\n]+)[”“]|«([^«»\n]+)»|「([^「」\n]+)」')
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
ELLIPSIS = re.compile(r"\[?(?:…|\.\.\.)\]?")


def quotes(*, field: FieldName = "answer", sources: list[FieldName], max_missing: int = 0) -> Filter:
    """Drop texts with quotations or numbers that do not stand in their source.

    A quotation is compared word by word, each part between ellipses for itself; single quotation marks are taken for
    apostrophes. Measures how many quotations and how many numbers are missing. Costs nothing.

    Options:
        field: the text to judge
        sources: the fields in which its quotations and numbers must stand
        max_missing: most quotations and numbers of a kept text that stand in no source
    """
    where = " and ".join(sources)

    def missing(record: Record) -> dict[str, float]:
        given = [record.text(field), "\n".join(record.text(name) for name in sources)]
        text, source = (THOUSANDS.sub("", each) for each in given)
        known, levelled = content(source), f" {' '.join(words(source))} "
        parts = {
            " ".join(words(part)) for found in QUOTED.findall(text) for part in ELLIPSIS.split("".join(found))
        }
        numbers = {word for word in content(text) if word[0].isdigit()}
        return {
            "quotations": sum(f" {part} " not in levelled for part in parts if part),
            "numbers": len(numbers - known),
        }

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [missing(record) for record in records]

    def decide(found: dict[str, float]) -> str | None:
        counts = [f"{count:.0f} {what}" for what, count in found.items() if count]
        return f"{' and '.join(counts)} not in the {where}" if sum(found.values()) > max_missing else None

    return Filter(measure, decide)
