"""Texts that repeat themselves: lines, paragraphs and n-grams (Rae et al. 2021, Gopher, Table A1), and how well they compress."""

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

from distillgen import FieldName, Filter, Record

TOP = {2: 0.20, 3: 0.18, 4: 0.16}  # most characters in the most frequent n-gram
DUPLICATE = {
    5: 0.15,
    6: 0.14,
    7: 0.13,
    8: 0.12,
    9: 0.11,
    10: 0.10,
}  # most characters in n-grams that stood before


def repetition(
    *,
    field: FieldName = "response",
    max_lines: float = 0.30,
    max_paragraphs: float = 0.30,
    max_line_characters: float = 0.20,
    max_paragraph_characters: float = 0.20,
    max_top_ngrams: dict[int, float] = TOP,
    max_duplicate_ngrams: dict[int, float] = DUPLICATE,
    min_words: int = 50,
    max_compression: float = 4.0,
) -> Filter:
    """Drop texts with too large shares of repeated lines, paragraphs or n-grams, or that compress too well. Costs 1 ms a page.

    The shares are judged from `min_words` words on: Gopher's limits are for documents, and its quality filter drops shorter
    ones. `max_compression` is bytes before over bytes after zlib, at any length; prose stays under 3.

    Options:
        field: the text to measure
        max_lines: largest share of repeated lines
        max_paragraphs: largest share of repeated paragraphs
        max_line_characters: largest share of the characters that stand in repeated lines
        max_paragraph_characters: largest share of the characters that stand in repeated paragraphs
        max_top_ngrams: by n, largest share of the characters that the most frequent n-gram takes
        max_duplicate_ngrams: by n, largest share of the characters that stand in repeated n-grams
        min_words: fewest words from which the shares are judged
        max_compression: largest ratio of bytes before and after zlib
    """
    limits = {
        "lines": max_lines,
        "paragraphs": max_paragraphs,
        "line characters": max_line_characters,
        "paragraph characters": max_paragraph_characters,
        **{f"top {n}-gram": share for n, share in max_top_ngrams.items()},
        **{f"duplicate {n}-grams": share for n, share in max_duplicate_ngrams.items()},
    }

    def numbers(text: str) -> dict[str, float]:
        words = text.split()
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        paragraphs = [part.strip() for part in re.split(r"\n\s*?\n", text) if part.strip()]
        raw = text.encode("utf-8", "replace")
        return {
            "words": len(words),
            "compression": len(raw) / len(zlib.compress(raw)),
            "lines": repeated(lines)[0],
            "line characters": repeated(lines)[1],
            "paragraphs": repeated(paragraphs)[0],
            "paragraph characters": repeated(paragraphs)[1],
            **{f"top {n}-gram": top(words, n) for n in max_top_ngrams},
            **{f"duplicate {n}-grams": duplicate(words, n) for n in max_duplicate_ngrams},
        }

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [numbers(r.text(field)) for r in records]

    def decide(found: dict[str, float]) -> str | None:
        if found["compression"] > max_compression:
            return f"compresses {found['compression']:.1f} times > {max_compression:g}"
        if found["words"] < min_words:
            return None
        return next(
            (f"{n}: {found[n]:.0%} repeated > {most:.0%}" for n, most in limits.items() if found[n] > most),
            None,
        )

    return Filter(measure, decide)


def repeated(parts: Sequence[str]) -> tuple[float, float]:
    """The share of parts that stood before, and that of their characters."""
    seen: set[str] = set()
    again = [part for part in parts if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
    return len(again) / max(1, len(parts)), sum(map(len, again)) / max(1, sum(map(len, parts)))


def ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """All runs of `n` words."""
    return zip(*(words[i:] for i in range(n)), strict=False)


def top(words: Sequence[str], n: int) -> float:
    """The share of characters in the most frequent n-gram, where it occurs more than once."""
    most, count = max(Counter(ngrams(words, n)).items(), key=lambda item: item[1], default=((), 0))
    return min(1.0, count * sum(map(len, most)) / sum(map(len, words))) if count > 1 else 0.0


def duplicate(words: Sequence[str], n: int) -> float:
    """The share of characters in n-grams that stood before, each character counted once."""
    seen, covered, end = set(), 0, 0
    for i, gram in enumerate(ngrams(words, n)):
        if gram in seen:
            covered += sum(map(len, words[max(i, end) : i + n]))
            end = i + n
        seen.add(gram)
    return covered / max(1, sum(map(len, words)))
