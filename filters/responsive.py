"""Answers that respond to their question, instead of repeating it or missing it."""

import re
from collections import Counter
from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.answers.answer_type import expected_type, has_type
from distillgen.text.sentences import sentences
from distillgen.text.words import content

_LINKED = re.compile(
    r"""^\W*(?:because|since|so|to|by|from|in|on|at|for|with|without|through|along|between|within|under
    |over|up|as|if|when|once|after|before|until|about|around|at\ least|at\ most|it|its|they|their
    |he|his|she|her|these|this|both|such|many\ of|most\ of|some\ of|neither|either|you|your|keep
    |see|take|call|ask|rest|use|drink|go|get|put|stop|check|contact|speak|avoid|wait|try)\b""",
    re.I | re.X,
)

_FULL_SENTENCE = re.compile(
    r"^(?:in|on|at|for|with|under|over|by|from)\b[^,.]*,[^.]*\b(?:is|are|was|were|has|have|can|may|will)\b",
    re.I,
)


def responsive(
    *,
    field: FieldName = "answer",
    to: FieldName = "question",
    sources: list[FieldName] | None = None,
    min_share: float = 0.5,
) -> Filter:
    """Drop answers that only repeat the question, and full-sentence answers about something else.

    An answer is kept if it takes up `min_share` of the question's content words; or gives the figure, time,
    yes or no that the question asks for; or continues the question, as "because …", "by …" and "it …" do; or,
    with `sources`, says what they say in or next to the sentence that the question is about. With `sources`,
    the form alone is not enough if they lack half of the answer's words. Measures the share of words taken
    up, the number of words added, whether the form fits, how close the answer is to the place in the sources,
    and the share of added words that they contain. English. Costs nothing.

    Options:
        field: the answer
        to: the question
        sources: the fields that the answer was made from, such as a passage
        min_share: smallest share of the question's content words that a kept answer takes up
    """

    def compare(record: Record) -> dict[str, float]:
        question, answer = record.text(to).strip(), record.text(field).strip()
        question_words, answer_words = content(question), content(answer)
        numbers = {
            "share": len(question_words & answer_words) / len(question_words) if question_words else 0.0,
            "added": len(answer_words - question_words),
            "fits": fits(question, answer),
        }
        if sources is not None:
            text = "\n".join(record.text(name) for name in sources)
            source = [content(sentence) for sentence in sentences(text)]
            supported_words = (answer_words - question_words) & set[str]().union(*source)
            numbers["near"] = nearness(question_words, answer_words - question_words, source)
            numbers["known"] = len(supported_words) / max(1, len(answer_words - question_words))
        return numbers

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare(record) for record in records]

    def decide(numbers: dict[str, float]) -> str | None:
        if not numbers["added"]:
            return None if numbers["fits"] == 2 else f"only repeats the {to}"
        if (
            numbers["share"] >= min_share
            or numbers["fits"]
            and numbers.get("known", 1.0) >= 0.5
            or numbers.get("near", 0.0) >= 0.5
        ):
            return None
        return f"takes up {numbers['share']:.0%} of the {to} < {min_share:.0%}"

    return Filter(measure, decide)


def fits(question: str, answer: str) -> int:
    """Return 2 for the figure, time, yes or no asked for, 1 for an answer that continues the question, else
    0.
    """
    kind = expected_type(question)
    if kind in ("figure", "time", "yes or no") and has_type(answer, kind):
        return 2
    return int(_LINKED.match(answer) is not None and not _FULL_SENTENCE.match(answer))


def nearness(question_words: set[str], added_words: set[str], sentence_words: Sequence[set[str]]) -> float:
    """Return how much of an answer's added words a source has near the place that the question is about.

    The place is the sentence that shares most words with the question; words in the sentences beside it count
    a third. A word weighs more, the fewer sentences contain it.
    """
    counts = Counter(word for sentence in sentence_words for word in sentence)
    about = [sum(1 / counts[word] for word in question_words & sentence) for sentence in sentence_words]
    best = max(about, default=0.0)
    if not best or not added_words:
        return 0.0

    def weight(words: set[str]) -> float:
        return sum(1 / max(1, counts[word]) for word in words)

    shares = []
    for i, overlap in enumerate(about):
        if overlap >= 0.75 * best:
            beside = (
                set[str]().union(*sentence_words[max(0, i - 1) : i], *sentence_words[i + 1 : i + 2])
                - sentence_words[i]
            )
            shares.append(
                (weight(added_words & sentence_words[i]) + weight(added_words & beside) / 3)
                / weight(added_words)
            )
    return max(shares)
