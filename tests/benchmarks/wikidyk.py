"""The arms of the recipe wikidyk over several seeds: the share of right answers to each kind of question,
as mean and standard error over seeds, and the paired differences on reliability, seed by seed.
`questions-shuffled` learns each synthetic question with the answer of another. It and the ensemble, six
students more, are of the first seeds alone.

Regenerate: python -m tests.benchmarks.wikidyk --seeds 3 --whole 1
"""

import argparse
import json
import math
from pathlib import Path
from statistics import fmean, stdev

KINDS = "reliability paraphrase generality portability factual counterfactual locality".split()
ARMS = ["base-decoder", "next-token", "questions", "base", "spans"]
WHOLE = ["questions.arms={shuffled: {on: shuffled}}"]
ALONE = [f"{name}=null" for name in ("part", "router", "route", "ensemble", "oracle")] + [
    "evaluate.answers={}"
]
PAIRS = (("spans", "next-token"), ("questions", "next-token"), ("spans", "questions"))


def shares(out: Path, seed: int, whole: bool) -> dict[str, dict[str, float]]:
    """The share of right answers by model and kind, of one seed; a finished run is not run again."""
    import distillgen

    asked = ", ".join(f"student-{arm}" for arm in [*ARMS, *(["questions-shuffled"] if whole else [])])
    sets = [f"seed={seed}", f"evaluate.models=[{asked}]", *(WHOLE if whole else ALONE)]
    run = distillgen.run("wikidyk", out=out / f"seed-{seed}", ledger=out / "ledger.sqlite3", sets=sets)
    groups = json.loads((run.directory / "evaluation.json").read_text())["groups"]
    return {
        model.removeprefix("student-"): {kind: by_kind[kind]["contains"] for kind in KINDS}
        for model, by_kind in groups.items()
    }


def shown(values: list[float]) -> str:
    """Mean and standard error, in percent."""
    error = f" ± {100 * stdev(values) / math.sqrt(len(values)):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.1f}{error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--whole", type=int, default=1, help="seeds with the ensemble and the shuffled arm")
    parser.add_argument("--out", type=Path, default=Path("runs/wikidyk-arms"))
    options = parser.parse_args()
    found = [shares(options.out, seed, seed < options.whole) for seed in range(options.seeds)]
    print("| arm |", " | ".join(KINDS), "|\n|---|" + "---|" * len(KINDS))
    for arm in [*ARMS, "questions-shuffled", "ensemble", "oracle"]:
        of_arm = [seed[arm] for seed in found if arm in seed]
        if of_arm:
            print(f"| `{arm}` |", " | ".join(shown([each[kind] for each in of_arm]) for kind in KINDS), "|")
    for arm, other in PAIRS:
        gaps = [seed[arm]["reliability"] - seed[other]["reliability"] for seed in found]
        print(f"{arm} minus {other}, reliability:", shown(gaps), [round(100 * gap, 1) for gap in gaps])


if __name__ == "__main__":
    main()
