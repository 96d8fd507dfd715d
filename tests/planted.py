"""A planted truth for critics: triples of which a share is invalid, and a person's labels of them with a
share of mistakes.

Words tell valid tails from invalid ones, but for the `AMBIGUOUS` share of tails, which any triple may have.
"""

import random
from dataclasses import dataclass

RELATIONS = {"xWant": "wants", "xNeed": "needs", "xEffect": "gets"}
AMBIGUOUS, LABEL_NOISE = 0.3, 0.08

_SYLLABLES = (
    "ba be bi bo bu da de di do du ka ke ki ko ku la le li lo lu ma me mi mo mu na ne ni no nu ra re ri ro ru"
).split()
_made = random.Random(17)
_WORDS = sorted({"".join(_made.choices(_SYLLABLES, k=3)) for _ in range(900)})
_made.shuffle(_WORDS)
VALID, INVALID, EITHER, HEADS = _WORDS[:200], _WORDS[200:400], _WORDS[400:500], _WORDS[500:800]


@dataclass(frozen=True)
class Triples:
    """Invalid at rate `error`; the same number gives the same triple."""

    error: float
    seed: int = 0

    def triple(self, number: int) -> dict:
        draw = random.Random(f"{self.seed}/{number}")
        truth = draw.random() >= self.error
        tail = EITHER if draw.random() < AMBIGUOUS else VALID if truth else INVALID
        words = [*draw.choices(tail, k=2), *draw.choices(HEADS, k=1)]
        draw.shuffle(words)
        head = "PersonX " + " ".join(draw.choices(HEADS, k=2))
        return {
            "head": head,
            "relation": draw.choice(list(RELATIONS)),
            "tail": " ".join(words),
            "truth": truth,
        }

    def labels(self, count: int, *, shuffled: bool = False) -> list[dict]:
        """What a person says, wrong in 8 % of cases, in ATOMIC's grades; triples of negative numbers, so that
        no run has them.
        """
        draw = random.Random(f"labels {self.seed}")
        triples = [self.triple(-1 - i) for i in range(count)]
        said = [triple["truth"] != (draw.random() < LABEL_NOISE) for triple in triples]
        if shuffled:
            draw.shuffle(said)
        grades = [draw.choice((1, 2)) if valid else draw.choice((-1, -2, -9)) for valid in said]
        rows = [{name: value for name, value in triple.items() if name != "truth"} for triple in triples]
        return [{**row, "label": grade} for row, grade in zip(rows, grades, strict=True)]
