"""The recipe meta-dmoe over seeds: each draws other domains, and other weights.

The recipe's own stages train the experts, the rival and the student. Then each new domain adapts here, by the
step of the stages `adapted` and `strange`, which tests/losses/test_adapt.py compares with this one.

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.meta_dmoe --seeds 10
"""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from torch.func import functional_call

import distillgen
from distillgen.networks.network import load
from distillgen.project import Project
from distillgen.runs.directory import read_records
from tests.benchmarks.over_seeds import difference, spread
from tests.recipes.harness import train_here

RATE = 0.5


def adapted(student: Any, experts: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of a student after one step towards the experts' vector of each row."""
    weights = dict(student.named_parameters())
    with torch.no_grad():
        vectors = experts(batch).features
    distance = ((functional_call(student, weights, (batch,)).features - vectors) ** 2).mean()
    gradients = torch.autograd.grad(distance, [*weights.values()], allow_unused=True)
    return {
        name: value if gradient is None else value - RATE * gradient
        for (name, value), gradient in zip(weights.items(), gradients, strict=True)
    }


def accuracies(run: Any) -> dict[str, float]:
    """The shares of right answers about all rows of the new domains that are asked."""
    project = Project(run.directory)
    erm, student, experts = (
        load(run.directory / name, project)
        for name in ("student-erm", "student-meta", "student-meta/peers/experts")
    )
    by_domain: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for record in read_records(run.directory / "stages/01-source.jsonl"):
        fields = record.fields
        if fields["role"] != "source":
            by_domain.setdefault(fields["domain"], {}).setdefault(fields["role"], []).append(fields)
    right: dict[str, list[float]] = {}
    names = [*by_domain]
    for name, rows in by_domain.items():
        asked = student.batch([{"x": row["x"]} for row in rows["asked"]])
        gold = torch.tensor([student.classes.index(row["gold"]) for row in rows["asked"]])
        strange = next(other for other in names if by_domain[other]["support"][0]["other"] == name)
        weights = {"adapted": name, "strange": strange}
        models = {
            "erm": (erm, dict(erm.named_parameters())),
            "meta": (student, dict(student.named_parameters())),
        }
        for arm, domain in weights.items():
            batch = student.batch([{"x": row["x"]} for row in by_domain[domain]["support"]])
            models[arm] = student, adapted(student, experts, batch)
        for arm, (network, at) in models.items():
            with torch.no_grad():
                said = functional_call(network, at, (asked,)).classes["class"].argmax(-1)
            right.setdefault(arm, []).append(float((said == gold).float().mean()))
    return {arm: 100 * mean(values) for arm, values in right.items()}


def main() -> None:
    """Print the figures of each seed, and the paired differences."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    seeds = parser.parse_args().seeds
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        train_here(patch)
        for seed in range(seeds):
            with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
                run = distillgen.run(
                    "meta-dmoe", out=Path(folder) / str(seed), sets=[f"seed={seed}"], until="meta"
                )
            for arm, value in accuracies(run).items():
                figures.setdefault(arm, []).append(value)
            print(seed, {arm: round(values[-1], 1) for arm, values in figures.items()}, flush=True)
    for arm, values in figures.items():
        gaps = [value - other for value, other in zip(figures["adapted"], values, strict=True)]
        print(f"{arm}: {spread(values)}; adapted less this {difference(gaps)}")


if __name__ == "__main__":
    main()
