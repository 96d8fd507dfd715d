"""Word overlap with a reference: ROUGE (Lin 2004, sections 2 and 3), above all for summaries."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from distillgen import FieldName, Filter, Record
from distillgen.answers.compare import golds
from distillgen.text.words import words


def rouge(*, field: FieldName = "answer", gold: FieldName = "gold", min_rouge_l: float = 0.2) -> Filter:
    """Drop texts whose longest common subsequence of words with `gold` is too short. Costs nothing.

    Measures the F1 of words, of word pairs, and of the longest common subsequence (ROUGE-1, -2 and -L)
    against the closest gold text, without stemming.

    Options:
        field: the text to judge
        gold: the reference, or a list of references
        min_rouge_l: smallest ROUGE-L F1 of a kept text
    """

    def compare(record: Record) -> dict[str, float]:
        text_words = words(record.text(field))
        scores = [rouges(text_words, words(reference)) for reference in golds(record.fields[gold])]
        return max(
            scores,
            key=lambda reference: reference["rouge_l"],
            default={"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0},
        )

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare(record) for record in records]

    def decide(numbers: dict[str, float]) -> str | None:
        low = numbers["rouge_l"] < min_rouge_l
        return f"ROUGE-L {numbers['rouge_l']:.2f} with the {gold} text < {min_rouge_l:g}" if low else None

    return Filter(measure, decide)


def rouges(text_words: Sequence[str], reference_words: Sequence[str]) -> dict[str, float]:
    """Return ROUGE-1, ROUGE-2 and ROUGE-L as F1, from 0 to 1."""

    def f1(shared: int, shorter_by: int) -> float:
        return 2 * shared / max(1, len(text_words) + len(reference_words) - 2 * shorter_by)

    pairs = (Counter(pairwise(text_words)) & Counter(pairwise(reference_words))).total()
    return {
        "rouge_1": f1((Counter(text_words) & Counter(reference_words)).total(), 0),
        "rouge_2": f1(pairs, 1),
        "rouge_l": f1(common_sequence(text_words, reference_words), 0),
    }


def common_sequence(text_words: Sequence[str], reference_words: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, by the bit-parallel algorithm of Hyyrö (2004)."""
    shorter, longer = sorted((text_words, reference_words), key=len)
    where: dict[str, int] = {}
    for i, word in enumerate(shorter):
        where[word] = where.get(word, 0) | 1 << i
    free = full = (1 << len(shorter)) - 1
    for word in longer:
        matches = free & where.get(word, 0)
        free = ((free + matches) | (free - matches)) & full
    return len(shorter) - free.bit_count()
