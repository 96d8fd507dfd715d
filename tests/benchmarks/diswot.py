"""The recipe diswot with its choices by evolution, at random, or all of them, under its bound on weights.

No student is trained: the score needs none, since it draws the weights of student and teacher anew. So each
strategy is asked for its proposals here, and is told their scores. Printed are the shares of the students
within the bound that score less than the best one that a strategy finds, in percent: 100 is the best of all.

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.diswot --seeds 10 --trials 12
and, over 84 students instead of the recipe's 24, with --wide --trials 24
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from data.digits import digits
from distillgen.located_yaml import read_yaml
from distillgen.networks.network import Network
from distillgen.networks.spec import NetworkSpec
from distillgen.project import Project, home
from distillgen.record import Record
from distillgen.scores.diswot import Diswot
from distillgen.scores.parameters import Parameters
from distillgen.stages._choices import with_choices
from distillgen.stages._proposals import Proposals, Strategy, combinations
from distillgen.training.untrained import Untrained
from tests.benchmarks.over_seeds import difference, spread

WIDE = {
    "train.student.with.width": [4, 6, 8, 10, 12, 14, 16],
    "train.student.with.depth": [1, 2, 3, 4],
    "train.student.with.kernel": [1, 3, 5],
}
STRATEGIES: tuple[Strategy, ...] = ("evolution", "random")


def tables(stages: list[Any], space: Any, seed: int, folder: Path) -> dict[str, float]:
    """Return the score of each student within the bound, by its choices as JSON."""
    project = Project(home("data").parent)
    source, big, search = (next(iter(stage.values())) for stage in stages[:3])
    rows = [row for row in digits(seed=seed, **source["with"]) if row["split"] == "train"]
    records = [Record(id=str(i), fields=row) for i, row in enumerate(rows)]
    classes = sorted({str(row["label"]) for row in rows})
    torch.manual_seed(seed)
    teacher = Network(NetworkSpec.of(big["student"], project), {"image": (64,)}, classes, project)
    teacher.save(folder)
    score, size, bound = Diswot(**search["by"]["diswot"]), Parameters(), search["within"]["parameters"]
    scores = {}
    for choices in combinations(space):
        (train, _) = with_choices(search["stages"], choices)
        spec = NetworkSpec.of(train["train"]["student"], project)
        student = Untrained(spec, ["image"], "label", records, project, {score.teacher: folder}, seed)
        if size.rate(student)[""] <= bound:
            scores[json.dumps(choices)] = score.rate(student)[""]
    return scores


def best(space: Any, scores: dict[str, float], strategy: Strategy, trials: int, seed: int) -> float:
    """Return the share of the students, in percent, that score less than the best that a strategy finds."""
    proposals = Proposals(space, strategy, trials, seed, False)
    found = []
    for choices in proposals:
        value = scores.get(json.dumps(choices))
        proposals.tell(choices, value)
        found += [] if value is None else [value]
    top = max(found, default=min(scores.values()))
    return 100 * sum(value < top for value in scores.values()) / (len(scores) - 1)


def main() -> None:
    """Print the figures of each seed, their means, and the paired difference."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--wide", action="store_true")
    options = parser.parse_args()
    file = home("pipelines") / "diswot.yaml"
    stages = read_yaml(file.read_text(encoding="utf-8"), file)[0]["stages"]
    space = WIDE if options.wide else stages[2]["search"]["space"]
    figures: dict[str, list[float]] = {strategy: [] for strategy in STRATEGIES}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            scores = tables(stages, space, seed, Path(folder))
        for strategy in STRATEGIES:
            figures[strategy].append(best(space, scores, strategy, options.trials, seed))
        print(seed, len(scores), {name: round(values[-1], 1) for name, values in figures.items()}, flush=True)
    for name, values in figures.items():
        print(f"{name}: {spread(values)}")
    print("evolution less random:", difference([a - b for a, b in zip(*figures.values(), strict=True)]))


if __name__ == "__main__":
    main()
