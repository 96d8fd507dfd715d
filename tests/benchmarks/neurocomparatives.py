"""The recipe neurocomparatives with its own small model: what the votes decide, beside the binomial majority.

python -m tests.benchmarks.neurocomparatives [--out DIR] [--seed 0] [--set generate.search.per_bucket=sample]
"""

import argparse
from collections import Counter
from pathlib import Path

import distillgen
from distillgen.algorithms.intervals import exact_interval, paired
from tests.recipes.comparisons import (
    accuracy,
    by_ones,
    facts,
    majorities,
    oracle,
    pipeline,
    right,
    said,
    stage,
)

WRONG = 0.3


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--out", default="runs/comparisons", help="the run's directory")
    options.add_argument("--seed", type=int, default=0, help="of the sentences and of the training")
    options.add_argument("--set", action="append", default=[], help="option of the recipe")
    given = options.parse_args()
    seeds = [f"source.with.seed={given.seed}", f"train.seed={given.seed}"] if given.seed else []
    run = distillgen.run(pipeline(), out=given.out, sets=[*seeds, *given.set])
    report(run.directory)


def report(directory: Path) -> None:
    """Print the figures of a run."""
    answers, of_form = stage(directory, "format"), stage(directory, "form")
    votes, before = said(of_form), said(stage(directory, "cluster"))
    kept, ones = said(stage(directory, "vote")), by_ones(directory)
    numbers = [signs.total() for signs in votes.values()]
    right_votes = sum(signs[facts(*pair)[attribute]] for (*pair, attribute), signs in votes.items())
    print(f"{len(answers):,} sentences, {len(of_form):,} of the form,", end=" ")
    print(f"{sum(numbers):,} of these about {len(votes)} comparisons")
    print(f"of these sentences right: {right_votes / sum(numbers):.3f}")
    print(f"comparisons with both directions: before the vote {of_both(before)}, after it {of_both(kept)}")
    learnt = majorities(said(stage(directory, "gather"), lambda fields: fields["heard"]))
    for name, counts in (("sizes", kept), ("counting 1", ones), ("the majority of what it learnt", learnt)):
        low, high, _ = exact_interval(sum(right(counts, counts)), len(counts))
        print(f"{name}: {len(counts)} kept, right {accuracy(counts):.3f} ({low:.3f} to {high:.3f})")
    print(f"binomial majority of votes right with {1 - WRONG:g}: {oracle(numbers, 1 - WRONG):.3f}")
    print(f"the same, right as the sentences are: {oracle(numbers, right_votes / sum(numbers)):.3f}")
    gain = paired(right(kept, votes), right(ones, votes))
    print("kept and right, of all comparisons, sizes minus counting 1:", end=" ")
    print("{difference:+.3f} ({low:+.3f} to {high:+.3f})".format(**gain))


def of_both(counts: dict[tuple[str, ...], Counter[int]]) -> int:
    return sum(len(signs) == 2 for signs in counts.values())


if __name__ == "__main__":
    main()
