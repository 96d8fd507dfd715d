"""The recipe comd and its control over several seeds: the share of right answers to the test before the
rounds and after each, apart for the two weak skills and the six others.

The control has the same first student, and in each round as many questions bring new
ones, but drawn at random.

A difference is over paired seeds, with an interval of 95 % (Student's t).

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.comd --seeds 0 1 2
"""

import argparse
import json
import shutil
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev

import pytest

from distillgen.runs.directory import read_records
from tests.recipes.harness import train_here

T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""By the number of seeds: the quantile of Student's distribution."""
WEAK = ("colour", "line")


def rounds(directory: Path) -> list[Path]:
    """The folders of the rounds, without that of the last one by another name."""
    return sorted(path for path in (directory / "rounds").iterdir() if path.name.isdigit())


def pooled(folder: Path) -> list[dict]:
    """The rows of the pool that a round trained on, each with `new`: whether this round made it."""
    number = int(folder.name)
    rows = [record.fields for record in read_records(folder / "records.jsonl") if not record.dropped]
    return [
        row | {"new": row["picture"] in row["spare"][2 * number : 2 * number + 2]}
        for row in rows
        if row["pool"]
    ]


def right(file: Path) -> dict[str, float]:
    """The share of right answers in percent, apart for weak and other skills."""
    hits: dict[str, list[float]] = {"weak": [], "others": []}
    for skill, figures in json.loads(file.read_text())["groups"][next(iter(models(file)))].items():
        hits["weak" if skill in WEAK else "others"].append(100 * figures["exact"])
    return {kind: fmean(shares) for kind, shares in hits.items()}  # each skill is asked equally often


def models(file: Path) -> dict:
    return json.loads(file.read_text())["models"]


def figures(directory: Path) -> dict[str, list[dict[str, float]]]:
    """The shares before the rounds and after each, and the numbers of new and of all rows of each round."""
    folders = rounds(directory)
    asked = [right(directory / "evaluation-before.json")]
    asked += [right(folder / "evaluation-asked.json") for folder in folders]
    pools = [pooled(folder) for folder in folders]
    counts = [
        {
            "new": sum(row["new"] for row in pool),
            "weak": sum(row["new"] and row["skill"] in WEAK for row in pool),
            "rows": len(pool),
        }
        for pool in pools
    ]
    return {"right": asked, "counts": counts}


def measured(out: Path, seed: int) -> dict[str, dict]:
    """The figures of a seed by arm; a finished run is not run again."""
    import distillgen

    chosen, control = out / f"seed-{seed}", out / f"control-{seed}"
    distillgen.run("comd", out=chosen, sets=[f"seed={seed}"])
    if not control.exists():
        shutil.copytree(chosen, control, symlinks=True)  # the first student is not trained again
    found = {"hard": figures(chosen)}
    size = sum(record.fields["pool"] for record in read_records(chosen / "stages/01-source.jsonl"))
    shares = [counts["new"] / 2 / size for counts in found["hard"]["counts"]]
    drawn = f"{{{{ lots[round] < {shares}[round] }}}}"
    where = json.dumps([{"where": {"name": "drawn", "true": drawn}}])
    distillgen.run("comd", out=control, sets=[f"seed={seed}", f"hard.filters={where}"])
    return found | {"random": figures(control)}


def interval(values: list[float]) -> str:
    """The mean with its 95 % interval."""
    half = f" ± {T_95[len(values)] * stdev(values) / sqrt(len(values)):.1f}" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{half}"


def main() -> None:
    """Print a row for each arm and round, and the paired differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/comd-seeds"))
    options = parser.parse_args()
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch)
        by_seed = [measured(options.out, seed) for seed in options.seeds]
    print("| arm | round | weak skills | others | new rows | of weak skills | rows |\n|" + "---|" * 7)
    for arm in ("hard", "random"):
        steps = min(len(seed[arm]["right"]) for seed in by_seed)
        for step in range(steps):
            shares = [
                interval([seed[arm]["right"][step][kind] for seed in by_seed]) for kind in ("weak", "others")
            ]
            counts = [
                ", ".join(str(seed[arm]["counts"][step - 1][kind]) for seed in by_seed) if step else ""
                for kind in ("new", "weak", "rows")
            ]
            print("|", " | ".join([arm, str(step), *shares, *counts]), "|")
    for kind in ("weak", "others"):
        last = {arm: [seed[arm]["right"][-1][kind] for seed in by_seed] for arm in ("hard", "random")}
        gaps = [hard - random for hard, random in zip(last["hard"], last["random"], strict=True)]
        print(f"{kind}, hard minus random:", interval(gaps), [round(gap, 1) for gap in gaps])
        gains = [seed["hard"]["right"][-1][kind] - seed["hard"]["right"][0][kind] for seed in by_seed]
        print(f"{kind}, after the rounds minus before:", interval(gains), [round(gain, 1) for gain in gains])


if __name__ == "__main__":
    main()
