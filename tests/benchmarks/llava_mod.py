"""The arms of the recipe llava-mod over several seeds: the share of wrong answers, as mean and standard error
over seeds, and paired differences with an interval of 95 % (t); and how many of the wrong answers of each
seed are swapped, that is, are what is asked for of somebody else.

Regenerate: python -m tests.benchmarks.llava_mod --seeds 5
"""

import argparse
import json
import math
from pathlib import Path
from statistics import fmean, stdev

import pytest

from tests.recipes.harness import train_here

ARMS = "big dense sparse sparse-plain train train-self train-shuffled train-plain".split()
PAIRS = [
    ("train", "sparse"),
    ("train-shuffled", "sparse"),
    ("train", "train-shuffled"),
    ("train", "train-self"),
    ("sparse", "sparse-plain"),
    ("train", "train-plain"),
]
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
GROUPS = ("true", "false")


def student(arm: str) -> str:
    """The name under which a stage's student is asked."""
    return "student" if arm == "train" else f"student-{arm.removeprefix('train-')}"


def wrong(out: Path, seed: int) -> dict[str, dict[str, float]]:
    """The share of wrong answers by arm and by whether there were pairs; a finished run is not run again."""
    import distillgen

    run = distillgen.run("llava-mod", out=out / f"seed-{seed}", sets=[f"seed={seed}"])
    groups = json.loads((run.directory / "evaluation.json").read_text())["groups"]
    return {arm: {paired: 1 - groups[student(arm)][paired]["exact"] for paired in GROUPS} for arm in ARMS}


def swapped(out: Path, seed: int) -> dict[str, int]:
    """The number of wrong answers, by arm, that are another value of what is asked for."""
    from distillgen.project import home, load_function

    values = (
        load_function("data/residents.py:residents", home("data").parent)[0].__globals__["ASKED"].values()
    )
    kinds = [{f" {value}" for value in of_kind} for _, of_kind in values]
    counts = dict.fromkeys(map(student, ARMS), 0)
    for line in (out / f"seed-{seed}" / "evaluation.jsonl").read_text().splitlines():
        answer = json.loads(line)
        said, gold = answer["answer"], answer["gold"]
        counts[answer["model"]] += said != gold and any({said, gold} <= kind for kind in kinds)
    return {arm: counts[student(arm)] for arm in ARMS}


def error(values: list[float]) -> float:
    """The standard error of a mean."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/llava-mod-arms"))
    options = parser.parse_args()
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch)
        seeds = [wrong(options.out, seed) for seed in range(options.seeds)]
    print("| arm | people with pairs | people without |\n|---|---|---|")
    for arm in ARMS:
        shares = [[100 * seed[arm][paired] for seed in seeds] for paired in GROUPS]
        print(f"| `{arm}` |", " | ".join(f"{fmean(each):.1f} ± {error(each):.1f}" for each in shares), "|")
    of_seeds = [swapped(options.out, seed) for seed in range(options.seeds)]
    for arm in ARMS:
        print(f"swapped, of 180, {arm}:", [counts[arm] for counts in of_seeds])
    for arm, other in PAIRS:
        for paired in GROUPS:
            gaps = [100 * (seed[arm][paired] - seed[other][paired]) for seed in seeds]
            half = T95.get(len(gaps), 1.96) * error(gaps)
            mean = fmean(gaps)
            print(
                f"{arm} minus {other}, pairs {paired}: {mean:.1f} [{mean - half:.1f}, {mean + half:.1f}]",
                [round(gap, 1) for gap in gaps],
            )


if __name__ == "__main__":
    main()
