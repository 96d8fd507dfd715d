"""The recipe mulki over the seeds of a finished run: what a student knows during and after its four domains.

average: the mean accuracy over all rounds and domains; last: over all domains after the last round; transfer:
over the domains that the student has not yet learnt.

Regenerate: distillgen run mulki --seeds 10, and then OMP_NUM_THREADS=1 python -m tests.benchmarks.mulki
"""

import argparse
import json
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

from distillgen.algorithms.sign_flips import sign_flip_p

Table = list[list[float]]
"""The accuracy after each round, by domain."""


def figures(table: Table) -> dict[str, float]:
    """Average, last and transfer of a table."""
    unseen = [right for number, row in enumerate(table) for right in row[number + 1 :]]
    return {
        "average": fmean(right for row in table for right in row),
        "last": fmean(table[-1]),
        "transfer": fmean(unseen),
    }


def tables(seed: Path) -> dict[str, Table]:
    """The tables of the students of a seed's run, and that of the first teacher, which does not change."""
    rounds: dict[str, Table] = {}
    for file in sorted(seed.glob("rounds/[0-9][0-9]/evaluation-after.json")):
        for model, groups in json.loads(file.read_bytes())["groups"].items():
            rounds.setdefault(model, []).append([groups[str(k)]["exact"] for k in range(4)])
    before = json.loads((seed / "evaluation-before.json").read_bytes())["groups"]["student-zero"]
    return rounds | {"student-zero": [[before[str(k)]["exact"] for k in range(4)]] * 4}


def with_error(values: list[float]) -> str:
    """The mean and its standard error, in percent."""
    return f"{100 * fmean(values):.1f} ± {100 * stdev(values) / sqrt(len(values)):.1f}"


def main() -> None:
    """Print each student's figures, and by how much `student` is above it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/mulki"))
    place = parser.parse_args().run
    finished = json.loads((place / "seeds.json").read_bytes())["finished"]
    seeds = [
        {model: figures(table) for model, table in tables(place / f"seed-{seed}").items()}
        for seed in finished
    ]
    print(f"{len(seeds)} seeds")
    print("| student | figure | mean | student less it | larger in | p |\n|---|---|---|---|---|---|")
    for model in seeds[0]:
        for name in seeds[0][model]:
            values = [seed[model][name] for seed in seeds]
            gains = [seed["student"][name] - value for seed, value in zip(seeds, values, strict=True)]
            wins, p = sum(gain > 0 for gain in gains), sign_flip_p(gains)
            row = [model, name, with_error(values), with_error(gains), f"{wins} of {len(gains)}", f"{p:.3f}"]
            print("|", " | ".join(row), "|")


if __name__ == "__main__":
    main()
