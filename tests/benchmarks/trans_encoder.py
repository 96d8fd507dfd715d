"""Spearman's correlation of each model of the recipe trans-encoder with the share of words that stayed, over
all test pairs, and paired differences with an interval of 95 % of a bootstrap over sentences.

Regenerate: python -m tests.benchmarks.trans_encoder
"""

import argparse
import json
import random
from itertools import groupby
from pathlib import Path

PAIRS = [
    ("student-cross", "bi"),
    ("student", "bi"),
    ("student-mutual", "student"),
    ("student-shuffled", "bi"),
    ("student", "student-shuffled"),
]


def ranks(values: list[float]) -> list[float]:
    """The rank of each value; equal values have the mean of theirs."""
    places = sorted(range(len(values)), key=values.__getitem__)
    of_values, before = [0.0] * len(values), 0
    for _, tie in groupby(places, key=values.__getitem__):
        tied = [*tie]
        for place in tied:
            of_values[place] = before + (len(tied) + 1) / 2
        before += len(tied)
    return of_values


def spearman(lists: list[list[tuple[float, float]]]) -> float:
    """The correlation of the ranks in all pairs of some lists."""
    ones, others = (ranks([pair[side] for pairs in lists for pair in pairs]) for side in (0, 1))
    middle = (len(ones) + 1) / 2
    products, squares, other_squares = (
        sum((a - middle) * (b - middle) for a, b in zip(first, second, strict=True))
        for first, second in ((ones, others), (ones, ones), (others, others))
    )
    return products / (squares * other_squares) ** 0.5


def answers(out: Path, seed: int) -> dict[str, list[list[tuple[float, float]]]]:
    """By model: of each test sentence, the number of each version with its relevance."""
    import distillgen
    from distillgen.runs.directory import read_records

    run = distillgen.run("trans-encoder", out=out, sets=[f"seed={seed}"])
    corpus = {record.source: record.fields for record in read_records(run.directory / "corpus.jsonl")}
    models: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in map(json.loads, (run.directory / "evaluation.jsonl").read_text().splitlines()):
        relevance = corpus[row["source"]]["relevance"]
        pairs = [*zip(json.loads(row["answer"]), relevance, strict=True)]
        models.setdefault(row["model"], {})[row["source"]] = pairs
    return {name: [lists[source] for source in sorted(lists)] for name, lists in models.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/trans-encoder"))
    options = parser.parse_args()
    models = answers(options.out, options.seed)
    count = len(models["bi"])
    chance = random.Random(0)
    draws = [chance.choices(range(count), k=count) for _ in range(1000)]
    resampled = {
        name: [spearman([lists[i] for i in draw]) for draw in draws] for name, lists in models.items()
    }
    for name, lists in models.items():
        print(f"| `{name}` | {spearman(lists):.3f} |")
    for one, other in PAIRS:
        gaps = sorted(a - b for a, b in zip(resampled[one], resampled[other], strict=True))
        gap = spearman(models[one]) - spearman(models[other])
        print(f"{one} minus {other}: {gap:+.3f} [{gaps[24]:+.3f}, {gaps[974]:+.3f}]")


if __name__ == "__main__":
    main()
