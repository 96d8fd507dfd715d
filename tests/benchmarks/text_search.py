"""The recipe text-search over seeds, against all combinations and a search by scores of other rows.

A reference run without a cap tries every combination, and measures each student on the test tickets, too. The
search has the recipe's trials and cap, and never sees these. Its control reads the validation answers against
topics of other tickets. A random choice is the mean of all combinations; of those that the search could pay
for, the mean over its finished trials.

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.text_search --seeds 10
"""

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

import distillgen
from data.tickets import name_topic, tickets
from distillgen.located_yaml import read_yaml
from distillgen.project import home
from distillgen.runs.directory import Run
from tests.benchmarks.over_seeds import difference, spread
from tests.recipes.harness import train_here

CONTROL = "a search by scores of other rows"
RANDOM, PAID = "a random combination", "a random one of those paid for"
BEST, VALIDATION = "the best by test tickets", "the best by validation tickets, without a cap"


class Teacher:
    """The recipe's teacher; it counts the requests that reach it."""

    def __init__(self) -> None:
        self.requests = 0

    def __call__(self, request: Any, sample: int) -> Any:
        self.requests += 1
        return name_topic(request, sample)


def recipe(seed: int, **options: Any) -> dict[str, Any]:
    """The recipe, with other options of its search."""
    file = home("pipelines") / "text-search.yaml"
    pipeline: dict[str, Any] = read_yaml(file.read_text(encoding="utf-8"), file)[0]
    pipeline["stages"][1]["search"] |= options
    return pipeline | {"seed": seed}


def searched(pipeline: Mapping[str, Any], out: Path, **limits: Any) -> tuple[Run, int]:
    """Return the run, and the number of requests that reached the teacher."""
    teacher = Teacher()
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        run = distillgen.run(pipeline, out=out, teachers={"teacher": teacher}, **limits)
    return run, teacher.requests


def trials(run: Run) -> list[dict[str, Any]]:
    """Return the rows of the finished trials."""
    lines = (run.directory / "search/trials.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["value"] is not None]


def chosen(run: Run) -> str:
    """Return the key of the choices that the search keeps."""
    best = json.loads((run.directory / "search/search.json").read_bytes())["best"]
    return next(key(row) for row in trials(run) if row["trial"] == best)


def key(row: Mapping[str, Any]) -> str:
    return json.dumps([*row["choices"].values()][:3])


def spent(run: Run) -> float:
    """Return the money of all resumes, in US dollars."""
    return sum(use["cost_usd"] for use in run.state["usage"])


def reference(seed: int, folder: Path) -> tuple[list[dict[str, Any]], float]:
    """Return the trials of all combinations, which measure test tickets, too; and the cost."""
    file = folder / "test.jsonl"
    rows = [row for row in tickets(seed=seed) if row["split"] == "test"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    stages = recipe(seed)["stages"][1]["search"]["stages"]
    validation = stages[-1]["evaluate"]
    test = {**validation, "name": "test", "data": file.name}
    del test["split"]
    options = {"stages": [*stages, {"evaluate": test}], "strategy": "all", "n": 64, "within": {}}
    run, _ = searched(recipe(seed, **options), folder / "all", until="search")
    return trials(run), spent(run)


def of_seed(seed: int, folder: Path) -> dict[str, float]:
    """Print the choice of a seed; return the right answers to test tickets in percent, by arm."""
    rows, cost = reference(seed, folder)
    test = {key(row): 100 * row["measures"]["test.student.exact"] for row in rows}
    cap = recipe(seed)["stages"][1]["search"]["within"]["usd"]
    run, requests = searched(recipe(seed), folder / "search")
    _, again = searched(recipe(seed), folder / "search")
    other, _ = searched(recipe(seed, space=_of_others(seed)), folder / "control")
    assert spent(run) <= cap and spent(other) <= cap, "the cap was exceeded"
    best = key(max(rows, key=lambda row: float(row["value"])))
    print(
        f"seed {seed}: {chosen(run)}: test {test[chosen(run)]:.1f} %, random {mean(test.values()):.1f} %, "
        f"best {max(test.values()):.1f} %; {len(trials(run))} trials, ${spent(run):.4f} of ${cap:g} "
        f"(all: ${cost:.4f}), {requests:,} requests; a second run sent {again}",
        flush=True,
    )
    return {
        "the search": test[chosen(run)],
        CONTROL: test[chosen(other)],
        RANDOM: mean(test.values()),
        PAID: mean(test[key(row)] for row in trials(run)),
        VALIDATION: test[best],
        BEST: max(test.values()),
    }


def _of_others(seed: int) -> dict[str, list[Any]]:
    space: dict[str, list[Any]] = recipe(seed)["stages"][1]["search"]["space"]
    return {**space, "validation.gold": ["other"]}


def summary(figures: Mapping[str, Sequence[float]]) -> None:
    """Print the mean of each arm, and what the search has more."""
    for arm, values in figures.items():
        gaps = [value - other for value, other in zip(figures["the search"], values, strict=True)]
        print(f"{arm}: {spread(values)} %; the search less this {difference(gaps)}")


def main() -> None:
    """Print the figures of each seed, and their means."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    print(f"$ OMP_NUM_THREADS=1 python -m tests.benchmarks.text_search --seeds {seeds}", flush=True)
    figures: dict[str, list[float]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(os.getcwd())
        train_here(patch)
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                patch.chdir(folder)  # the project of the run
                for arm, value in of_seed(seed, Path(folder)).items():
                    figures.setdefault(arm, []).append(value)
    summary(figures)


if __name__ == "__main__":
    main()
