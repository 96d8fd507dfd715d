"""Bits of knowledge for each parameter of students of `biod`: well trained, hardly trained, and with more to
learn than they hold. Each is a run of the recipe with other options.

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.capacity
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import distillgen

STUDENT = "train.student={tiny: {layers: 2, width: %d, heads: %d, tokens: chars}}"
RUNS = {  # people, width, heads, epochs of 25 exposures
    "whole": (400, 32, 4, 40),
    "few": (400, 32, 4, 4),
    "hardly": (400, 32, 4, 1),
    "crowded": (1000, 16, 2, 15),
    "narrow": (400, 20, 2, 40),
}


def measured(
    people: int, width: int, heads: int, epochs: int, seed: int, out: Path
) -> dict[str, dict[str, float]]:
    """Return the measures of both stages `capacity` of a run."""
    sets = [f"source.with.n={people}", STUDENT % (width, heads), f"train.epochs={epochs}"]
    run = distillgen.run("biod", out=out, sets=[*sets, f"seed={seed}"])
    stages = json.loads((run.directory / "usage.json").read_text())["stages"]
    return {stage["name"]: stage["measured"] for stage in stages}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=RUNS, default=[*RUNS])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("python -m tests.benchmarks.capacity", *sys.argv[1:], flush=True)
    print("| people | width | parameters | exposures | R | R^max | R, shuffled | p1 | p2 | p3 | seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in options.only:
        people, width, heads, epochs = RUNS[name]
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            stages = measured(people, width, heads, epochs, options.seed, Path(folder) / "run")
        own, others = stages["capacity"], stages["shuffled"]
        figures = [own["bits_per_parameter"], own["most_bits_per_parameter"], others["bits_per_parameter"]]
        figures += [own[f"{text}_nats"] for text in ("name", "value", "string")]
        assert figures[0] <= min(2.3, figures[1]), "more than any model of the paper knows, or than there is"
        counts = (people, width, int(own["parameters"]), 25 * epochs)
        row = [
            *map("{:,}".format, counts),
            *map("{:.4f}".format, figures),
            f"{time.perf_counter() - begun:.0f}",
        ]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
