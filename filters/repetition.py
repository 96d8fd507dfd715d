"""Texts that repeat lines, paragraphs or n-grams (Gopher, Rae et al. 2021, Table A1), or that compress too
well.
"""

import re
import zlib
from collections import Counter
from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.text.ngrams import ngrams

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
    """Drop texts with too much repetition: lines, paragraphs, n-grams, or bytes that compress too well. Costs
    1 ms a page.

    The shares are judged for texts of at least `min_words` words: the limits of Gopher are for documents, and
    its quality filter drops shorter ones. `max_compression` is the ratio of bytes before and after zlib,
    judged at any length; prose stays below 3.

    Options:
        field: the text to measure
        max_lines: largest share of repeated lines
        max_paragraphs: largest share of repeated paragraphs
        max_line_characters: largest share of characters in repeated lines
        max_paragraph_characters: largest share of characters in repeated paragraphs
        max_top_ngrams: by n, largest share of characters in the most frequent n-gram
        max_duplicate_ngrams: by n, largest share of characters in repeated n-grams
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

    def decide(numbers: dict[str, float]) -> str | None:
        if numbers["compression"] > max_compression:
            return f"compresses {numbers['compression']:.1f} times > {max_compression:g}"
        if numbers["words"] < min_words:
            return None
        return next(
            (
                f"{n}: {numbers[n]:.0%} repeated > {most:.0%}"
                for n, most in limits.items()
                if numbers[n] > most
            ),
            None,
        )

    return Filter(measure, decide)


def repeated(parts: Sequence[str]) -> tuple[float, float]:
    """Return the share of parts that repeat an earlier part, and the share of their characters."""
    repeats = {part: count - 1 for part, count in Counter(parts).items()}
    characters = sum(len(part) * count for part, count in repeats.items())
    return sum(repeats.values()) / max(1, len(parts)), characters / max(1, sum(map(len, parts)))


def top(words: Sequence[str], n: int) -> float:
    """Return the share of characters in the most frequent n-gram, 0 if it occurs once."""
    most, count = max(Counter(ngrams(words, n)).items(), key=lambda item: item[1], default=((), 0))
    return min(1.0, count * sum(map(len, most)) / sum(map(len, words))) if count > 1 else 0.0


def duplicate(words: Sequence[str], n: int) -> float:
    """Return the share of characters in n-grams that occurred before; each character counts once."""
    earlier_grams, covered, end = set(), 0, 0
    for i, gram in enumerate(ngrams(words, n)):
        if gram in earlier_grams:
            covered += sum(map(len, words[max(i, end) : i + n]))
            end = i + n
        earlier_grams.add(gram)
    return covered / max(1, sum(map(len, words)))
