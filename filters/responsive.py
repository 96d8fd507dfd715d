"""Answers beside the question, and answers that only repeat it."""

import re
from collections import Counter
from collections.abc import Sequence

from distillgen import FieldName, Filter, Record
from distillgen.answers.final_answer import gives, wanted
from distillgen.local_models.passages import sentences
from distillgen.text.words import content

_LINKED = re.compile(
    r"""^\W*(?:because|since|so|to|by|from|in|on|at|for|with|without|through|along|between|within|under|over|up|as|if|when|once
    |after|before|until|about|around|at\ least|at\ most|it|its|they|their|he|his|she|her|these|this|both|such|many\ of|most\ of
    |some\ of|neither|either|you|your|keep|see|take|call|ask|rest|use|drink|go|get|put|stop|check|contact|speak|avoid
    |wait|try)\b""",
    re.I | re.X,
)

_WHOLE = re.compile(
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
    """Drop answers that only repeat the question, and answers in full sentences on something else.

    Fit is an answer that takes up `min_share` of the question's content words; or is what its first words ask for: a
    figure or time, a yes or no; or goes on from the question, as "because …", "by …" and "it …" do; or, where
    `sources` are given, says what they say in the sentence that the question is about, and next to it. With them, no
    answer fits by its form alone if they lack half of its words. Measures the share taken up, the words added, whether
    the form fits, how near it stands in the sources, and the share of the added words that they have.
    English. Costs nothing.

    Options:
        field: the answer
        to: the question
        sources: the fields that the answer was made from, such as a passage
        min_share: smallest share of the question's content words that a kept answer takes up
    """

    def compare(record: Record) -> dict[str, float]:
        question, answer = str(record.fields[to]).strip(), str(record.fields[field]).strip()
        asked, told = content(question), content(answer)
        found = {
            "share": len(asked & told) / len(asked) if asked else 0.0,
            "added": len(told - asked),
            "fits": fits(question, answer),
        }
        if sources is not None:
            text = "\n".join(str(record.fields[name]) for name in sources)
            source = [content(sentence) for sentence in sentences(text)]
            known = (told - asked) & set[str]().union(*source)
            found["near"] = nearness(asked, told - asked, source)
            found["known"] = len(known) / max(1, len(told - asked))
        return found

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [compare(record) for record in records]

    def decide(found: dict[str, float]) -> str | None:
        if not found["added"]:
            return None if found["fits"] == 2 else f"only repeats the {to}"
        if (
            found["share"] >= min_share
            or found["fits"]
            and found.get("known", 1.0) >= 0.5
            or found.get("near", 0.0) >= 0.5
        ):
            return None
        return f"takes up {found['share']:.0%} of the {to} < {min_share:.0%}"

    return Filter(measure, decide)


def fits(question: str, answer: str) -> int:
    """2 for the figure, time, yes or no that is asked for, 1 for an answer that goes on from the question, else 0."""
    kind = wanted(question)
    if kind in ("figure", "time", "yes or no") and gives(answer, kind):
        return 2
    return int(_LINKED.match(answer) is not None and not _WHOLE.match(answer))


def nearness(asked: set[str], added: set[str], told: Sequence[set[str]]) -> float:
    """Of an answer's own words the share that a source has in the sentence that the question is about, or by a third next to
    it. Words count the more, the fewer sentences have them.
    """
    counts = Counter(word for sentence in told for word in sentence)
    about = [sum(1 / counts[word] for word in asked & sentence) for sentence in told]
    best = max(about, default=0.0)
    if not best or not added:
        return 0.0

    def weight(words: set[str]) -> float:
        return sum(1 / max(1, counts[word]) for word in words)

    shares = []
    for i, own in enumerate(about):
        if own >= 0.75 * best:
            beside = set[str]().union(*told[max(0, i - 1) : i], *told[i + 1 : i + 2]) - told[i]
            shares.append((weight(added & told[i]) + weight(added & beside) / 3) / weight(added))
    return max(shares)
