"""Spearman's correlation of each model of the recipe trans-encoder with the share of words that stayed, over
all test pairs: the mean over seeds with its standard error, and paired differences.

Regenerate: distillgen run trans-encoder --seeds 10 && python -m tests.benchmarks.trans_encoder
"""

import argparse
import json
from pathlib import Path

from scipy.stats import spearmanr

from distillgen.runs.directory import read_records
from tests.benchmarks.over_seeds import difference, spread

PAIRS = [
    ("student-cross", "bi"),
    ("student", "bi"),
    ("student", "student-cross"),
    ("student-mutual", "student"),
    ("student-shuffled", "bi"),
    ("student", "student-shuffled"),
]


def correlations(directory: Path) -> dict[str, float]:
    """By model of a finished run: Spearman's correlation of its numbers with the relevances."""
    corpus = {record.source: record.fields for record in read_records(directory / "corpus.jsonl")}
    numbers: dict[str, list[float]] = {}
    relevances: dict[str, list[float]] = {}
    for line in (directory / "evaluation.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        numbers.setdefault(row["model"], []).extend(json.loads(row["answer"]))
        relevances.setdefault(row["model"], []).extend(corpus[row["source"]]["relevance"])
    return {model: spearmanr(values, relevances[model]).statistic for model, values in numbers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/trans-encoder"))
    by_seed = [correlations(path) for path in sorted(parser.parse_args().folder.glob("seed-*"))]
    by_model = {model: [one[model] for one in by_seed] for model in by_seed[0]}
    for model, values in by_model.items():
        print(f"| `{model}` | {spread(values, 3)} | {', '.join(f'{value:.3f}' for value in values)} |")
    for one, other in PAIRS:
        differences = [a - b for a, b in zip(by_model[one], by_model[other], strict=True)]
        print(f"| `{one}` less `{other}` | {difference(differences, 3)} |")


if __name__ == "__main__":
    main()
