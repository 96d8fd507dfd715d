"""The recipe mend over several seeds: the share of right answers about maps that nobody has seen, and how
much of what 16 demonstrations gain the vectors keep, as mean with a 95 % interval over the seeds.

Each seed draws other held-out maps, rows and weights. An interrupted run of a seed goes on.

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.mend --seeds 0 1 2
"""

import argparse
import json
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""By the number of seeds: the quantile of Student's distribution."""
FIGURES = {
    "16 demonstrations": ("shown", "student-lm"),
    "none": ("bare", "student-lm"),
    "vectors": ("vectors", "student"),
    "`answers`": ("vectors", "student-answers"),
    "vectors, colours at random": ("random", "student"),
}


def shares(out: Path, seed: int, sets: list[str]) -> dict[str, float]:
    """The shares of right answers of one seed."""
    import distillgen

    run = distillgen.run("mend", out=str(out / f"seed-{seed}"), sets=[f"seed={seed}", *sets])
    measured = {}
    for figure, (stage, model) in FIGURES.items():
        evaluation = json.loads((run.directory / f"evaluation-{stage}.json").read_text())
        measured[figure] = evaluation["models"][model]["metrics"]["exact"]["mean"]
    gain = measured["16 demonstrations"] - measured["none"]
    measured["vectors, share of the gain"] = (measured["vectors"] - measured["none"]) / gain
    measured["`answers`, share of the gain"] = (measured["`answers`"] - measured["none"]) / gain
    measured["vectors minus `answers`"] = measured["vectors"] - measured["`answers`"]
    return measured


def interval(values: list[float]) -> str:
    """The mean with its 95 % interval, in percent."""
    if len(values) < 2:
        return f"{100 * fmean(values):.1f}"
    half = T_95[len(values)] * stdev(values) / sqrt(len(values))
    return f"{100 * fmean(values):.1f} ± {100 * half:.1f}"


def main() -> None:
    """Print a row for each figure: mean with interval, and the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/mend-seeds"))
    parser.add_argument("--set", action="append", default=[], help="as that of distillgen run")
    options = parser.parse_args()
    by_seed = [shares(options.out, seed, options.set) for seed in options.seeds]
    for figure in by_seed[0]:
        values = [measured[figure] for measured in by_seed]
        print(f"| {figure} | {interval(values)} |", ", ".join(f"{100 * v:.1f}" for v in values), "|")


if __name__ == "__main__":
    main()
