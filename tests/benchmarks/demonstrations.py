"""The arms of the recipe demonstrations over several seeds: the share of right answers to held-out questions
of 20 new tasks, before and after their 16 shots, as mean and standard error over seeds, and the differences
seed by seed with 95 % intervals (Student's t). Tasks, demonstrations and students differ by seed.

`gold` retrieves from the gold task alone, `permuted` shows each row with the answer of another of its task,
and `random` draws the demonstrations; all of them in the meta-training, too.

Regenerate: python -m tests.benchmarks.demonstrations --seeds 5
The teacher alone, in a few seconds a seed: python -m tests.benchmarks.demonstrations --seeds 5 --teacher
"""

import argparse
import json
import math
from pathlib import Path
from statistics import fmean, stdev

BANK = "from: here, within: phase, others: true, into: demos, keep: [question, example_answer], k: 4"
ALONE = ["meta.arms={}", "few.arms={}", "none=null"]
ARMS = {
    "retrieved": [],
    "random": [*ALONE, f"bank={{by: random, {BANK}}}", "meta.score=null", "few.score=null"],
    "gold": [*ALONE, "bank.within=guild"],
    "permuted": [*ALONE, "example.fields.example_answer={{ permuted }}"],
}
PAIRS = [("retrieved", other) for other in ("random", "none", "permuted")] + [
    ("gold", "retrieved"),
    ("random", "none"),
    ("permuted", "none"),
]
T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}
"""The 97.5 % quantile of Student's t, by the number of seeds."""


NO_STUDENT = [f"{name}=null" for name in ("meta", "few", "evaluate", "none")]


def teacher_shares(out: Path, seed: int) -> dict[str, dict[str, float]]:
    """The share of the teacher's right labels by arm, of one seed."""
    import distillgen

    found = {}
    for arm, sets in ARMS.items():
        of_bank = [each for each in sets if each.startswith(("bank", "example"))]
        sets = [f"seed={seed}", *NO_STUDENT, *of_bank]
        run = distillgen.run("demonstrations", out=out / f"teacher-{arm}-{seed}", sets=sets)
        rows = map(json.loads, (run.directory / "corpus.jsonl").read_text().splitlines())
        right = [row["labelled"] == row["answer"] for row in rows if row["split"] == "test"]
        found[arm] = {"teacher": fmean(right)}
    return found


def shares(out: Path, seed: int) -> dict[str, dict[str, float]]:
    """The shares by arm and model of one seed; a finished run is not run again."""
    import distillgen

    found: dict[str, dict[str, float]] = {}
    for arm, sets in ARMS.items():
        run = distillgen.run("demonstrations", out=out / f"{arm}-{seed}", sets=[f"seed={seed}", *sets])
        for file in run.directory.glob("evaluation*.json"):
            for model, figures in json.loads(file.read_bytes())["models"].items():
                name = "none" if model.endswith("-none") else arm
                model = "few" if model.endswith("-none") else model.removeprefix("student-")
                found.setdefault(name, {})[model] = figures["metrics"]["exact"]["mean"]
    return found


def shown(values: list[float], times: float = 1.0) -> str:
    """Mean, and standard error times a number, in percent."""
    error = f" ± {times * 100 * stdev(values) / math.sqrt(len(values)):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.1f}{error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--teacher", action="store_true", help="the teacher alone, without students")
    parser.add_argument("--out", type=Path, default=Path("runs/demonstrations-arms"))
    options = parser.parse_args()
    measure, last = (teacher_shares, "teacher") if options.teacher else (shares, "few")
    found = [measure(options.out, seed) for seed in range(options.seeds)]
    models = ("meta", "few", "teacher")
    print("| arm |", " | ".join(models), "|\n|---|" + "---|" * len(models))
    for arm in [*ARMS, "none"]:
        cells = [[of[arm][model] for of in found if model in of.get(arm, {})] for model in models]
        print(f"| `{arm}` |", " | ".join(shown(cell) if cell else "" for cell in cells), "|")
    for arm, other in PAIRS:
        gaps = [of[arm][last] - of[other][last] for of in found if {arm, other} <= of.keys()]
        if gaps:
            each = [round(100 * gap, 1) for gap in gaps]
            print(f"{arm} minus {other}:", shown(gaps, T.get(len(gaps), 2.0)), each)


if __name__ == "__main__":
    main()
