"""Texts that share too few words with a reference: ROUGE (Lin 2004, sections 2 and 3), for summaries above all."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from distillgen import FieldName, Filter, Record
from distillgen.answers.final_answer import golds
from distillgen.text.words import words


def rouge(*, field: FieldName = "answer", gold: FieldName = "gold", min_rouge_l: float = 0.2) -> Filter:
    """Drop texts whose longest common sequence of words with the `gold` one is too short. Costs nothing.

    Measures, of the gold text that is nearest, the F1 of words, of pairs of words, and of the longest common sequence
    (ROUGE-1, -2 and -L), without stemming.

    Options:
        field: the text to judge
        gold: the reference, or a list of references
        min_rouge_l: smallest ROUGE-L F1 of a kept text
    """

    def compare(record: Record) -> dict[str, float]:
        told = words(record.text(field))
        found = [rouges(told, words(each)) for each in golds(record.fields[gold])]
        return max(
            found, key=lambda each: each["rouge_l"], default={"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0}
        )

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare(record) for record in records]

    def decide(found: dict[str, float]) -> str | None:
        low = found["rouge_l"] < min_rouge_l
        return f"ROUGE-L {found['rouge_l']:.2f} with the {gold} text < {min_rouge_l:g}" if low else None

    return Filter(measure, decide)


def rouges(said: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """The three, from 0 to 1."""

    def f1(shared: int, shorter_by: int) -> float:
        return 2 * shared / max(1, len(said) + len(wanted) - 2 * shorter_by)

    pairs = (Counter(pairwise(said)) & Counter(pairwise(wanted))).total()
    return {
        "rouge_1": f1((Counter(said) & Counter(wanted)).total(), 0),
        "rouge_2": f1(pairs, 1),
        "rouge_l": f1(common_sequence(said, wanted), 0),
    }


def common_sequence(said: Sequence[str], wanted: Sequence[str]) -> int:
    """The length of the longest common subsequence, with a bit for each word (Hyyrö 2004), so that long texts are no matter."""
    shorter, longer = sorted((said, wanted), key=len)
    where: dict[str, int] = {}
    for i, word in enumerate(shorter):
        where[word] = where.get(word, 0) | 1 << i
    free = full = (1 << len(shorter)) - 1
    for word in longer:
        found = free & where.get(word, 0)
        free = ((free + found) | (free - found)) & full
    return len(shorter) - free.bit_count()
