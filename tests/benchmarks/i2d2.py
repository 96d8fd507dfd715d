"""The recipe i2d2 beside its controls: how many generics about held-out concepts are true, round by round.

Each seed draws another world of texts, other held-out concepts and other weights. A round's generics are
those of the search, before the critic. The arms `unfiltered` (a random choice, as many as the critic keeps)
and `shuffled` (a critic of shuffled labels, which keeps about as many) train with the same steps and learning
rate, from the same language model. `free` asks the language model without clauses.

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.i2d2 --seeds 1 2 3 4 5 6 7 8
"""

import argparse
import importlib.util
import json
import os
import random
import re
import shutil
import tempfile
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

import pytest

import distillgen
from distillgen.project import home
from distillgen.runs.directory import read_records
from tests.recipes.harness import train_here

SPEC = importlib.util.spec_from_file_location("generics", home("data") / "generics.py")
world = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(world)
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""By the number of seeds: the quantile of Student's distribution."""
FREE = [
    "generate.constraints=null",
    "generate.search=null",
    "generate.stop=null",  # the model ends its texts by itself
    "generate.temperature=1.0",
    "rounds.n=1",
]
LISTS = [
    (set((home("data") / f"generics/{name}.txt").read_text().split()), most)
    for name, most in (("function_words", 1), ("connectives", 0))
]


def meets(fields: dict) -> bool:
    """Whether the answer about a record meets the recipe's clauses, word by word."""
    words = re.findall(r"\w+", fields["rest"].lower())
    text = f" {' '.join(words)} "
    banned = any(f" {phrase} " in text for phrase in (fields["plural"], fields["relation"]))
    related = fields["related"] is None or fields["related"] in words
    return all(sum(w in listed for w in words) <= most for listed, most in LISTS) and not banned and related


def answers(directory: Path, number: int) -> list:
    """The records of a round that the search, or the model, has answered."""
    records = read_records(directory / f"rounds/{number:02d}/records.jsonl")
    return [record for record in records if record.fields.get("rest")]


def figures(directory: Path) -> list[dict[str, float]]:
    """Of each round: shares of true generics, of answers that meet the clauses; counts of what is kept."""
    rounds = []
    for number in range(len(list((directory / "rounds").glob("[0-9][0-9]")))):
        of_round = answers(directory, number)
        true = [world.is_true(*(r.fields[name] for name in ("plural", "relation", "rest"))) for r in of_round]
        kept = [r for r in of_round if r.dropped is None]
        rounds.append(
            {
                "answers": len(of_round),
                "valid": mean(t for t, r in zip(true, of_round, strict=True) if r.held_out),
                "valid_learnt": mean(t for t, r in zip(true, of_round, strict=True) if not r.held_out),
                "meets": mean(meets(dict(r.fields)) for r in of_round),
                "kept": sum(not r.held_out for r in kept),
                "kept_valid": mean(t for t, r in zip(true, of_round, strict=True) if r.dropped is None),
                "concepts": len({r.fields["plural"] for r in kept}),
                "texts": len({r.fields["rest"] for r in of_round}),
            }
        )
    return rounds


def shuffled_labels(folder: Path, seed: int) -> None:
    """Write shuffled.jsonl: the labels, each at another row."""
    rows = [json.loads(line) for line in (home("data") / "generics/labels.jsonl").read_text().splitlines()]
    values = [row["label"] for row in rows]
    random.Random(seed).shuffle(values)
    lines = [json.dumps({**row, "label": value}) + "\n" for row, value in zip(rows, values, strict=True)]
    (folder / "shuffled.jsonl").write_text("".join(lines))


def arms(folder: Path, seed: int, names: tuple[str, ...], sets: tuple[str, ...] = ()) -> dict[str, list]:
    """The figures of the recipe, `critic`, and of the controls named, which share its language model."""
    shuffled_labels(folder, seed)
    out, measured = folder / "run", {}

    def carry_out(name: str, *more: str) -> None:
        run = distillgen.run("i2d2", out=str(out), sets=[f"seed={seed}", *sets, *more])
        measured[name] = figures(run.directory)
        shutil.copytree(out / "rounds", folder / name, ignore=shutil.ignore_patterns("student*", "last"))

    carry_out("critic")
    critic = json.loads((out / "rounds/00/critic-critic.json").read_bytes())
    share = critic["validation"]["kept"]
    target = ["critic.target_precision=null", f"critic.target_recall={share:.3f}"]
    controls = {
        "unfiltered": ["train.on=random"],
        "shuffled": ["critic.labels=shuffled.jsonl", *target],
        "free": FREE,
    }
    for name in names:
        carry_out(name, *controls[name])
    return measured


def interval(values: list[float]) -> str:
    """The mean with its 95 % interval."""
    if len(values) < 2:
        return f"{mean(values):+.3f}"
    half = T_95[len(values)] * stdev(values) / sqrt(len(values))
    return f"{mean(values):+.3f} [{mean(values) - half:+.3f}, {mean(values) + half:+.3f}]"


def main() -> None:
    """Print the figures of each seed, and the paired differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument(
        "--keep", type=Path, help="folder for the figures of each seed, which are not measured again"
    )
    options = parser.parse_args()
    by_seed, place = [], Path.cwd()
    for seed in options.seeds:
        kept = options.keep and options.keep / f"{seed}.json"
        if kept and kept.exists():
            by_seed.append(json.loads(kept.read_bytes()))
            continue
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            train_here(patch)
            os.chdir(folder)
            by_seed.append(arms(Path(folder), seed, ("unfiltered", "shuffled", "free")))
            os.chdir(place)
        for arm, rounds in by_seed[-1].items():
            for number, values in enumerate(rounds):
                print(seed, arm, number, {k: round(v, 3) for k, v in values.items()}, flush=True)
        if kept:
            kept.write_text(json.dumps(by_seed[-1]))
    for figure in ("valid", "valid_learnt"):
        for arm in ("critic", "unfiltered", "shuffled"):
            means = [mean(s[arm][n][figure] for s in by_seed) for n in range(3)]
            steps = [interval([s[arm][n][figure] - s[arm][n - 1][figure] for s in by_seed]) for n in (1, 2)]
            print(figure, arm, " -> ".join(f"{m:.3f}" for m in means), "steps", *steps)
        for arm in ("unfiltered", "shuffled"):
            rises = [[s[a][2][figure] - s[a][0][figure] for a in ("critic", arm)] for s in by_seed]
            print(figure, "rise of critic less that of", arm, interval([a - b for a, b in rises]))


if __name__ == "__main__":
    main()
