"""Quotations and figures that the source contains."""

import re
from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.text.words import content, words

QUOTED = re.compile(r'"([^"\n]+)"|[“„]([^“”„\n]+)[”“]|«([^«»\n]+)»|「([^「」\n]+)」')
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
ELLIPSIS = re.compile(r"\[?(?:…|\.\.\.)\]?")


def quotes(*, field: FieldName = "answer", sources: list[FieldName], max_missing: int = 0) -> Filter:
    """Drop texts with quotations or numbers that their source does not contain. Costs nothing.

    A quotation is compared word by word; the parts between ellipses are compared one by one. Single quotation
    marks count as apostrophes. Measures how many quotations and how many numbers are missing.

    Options:
        field: the text to judge
        sources: the fields that must contain its quotations and numbers
        max_missing: most quotations and numbers of a kept text that no source contains
    """
    where = " and ".join(sources)

    def missing(record: Record) -> dict[str, float]:
        texts = [record.text(field), "\n".join(record.text(name) for name in sources)]
        text, source = (THOUSANDS.sub("", part_text) for part_text in texts)
        source_content, levelled = content(source), f" {' '.join(words(source))} "
        parts = {
            " ".join(words(part))
            for groups in QUOTED.findall(text)
            for part in ELLIPSIS.split("".join(groups))
        }
        numbers = {word for word in content(text) if word[0].isdigit()}
        return {
            "quotations": sum(f" {part} " not in levelled for part in parts if part),
            "numbers": len(numbers - source_content),
        }

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [missing(record) for record in records]

    def decide(numbers: dict[str, float]) -> str | None:
        counts = [f"{count:.0f} {kind}" for kind, count in numbers.items() if count]
        return f"{' and '.join(counts)} not in the {where}" if sum(numbers.values()) > max_missing else None

    return Filter(measure, decide)
