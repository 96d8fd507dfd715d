"""autodistiller: of a planted table it recommends what is best on a data set that it has not seen."""

import itertools
import json
import random
from statistics import fmean

import pytest

import distillgen
from distillgen.algorithms.surrogate import predictions, ranks_by_group
from distillgen.located_yaml import read_yaml
from distillgen.project import home

CHOICES = [("none", "mse", "information"), ("labels", "divergence", "softened"), (0.0, 0.1, 1.0)]
BETWEEN = dict(zip(CHOICES[0], (0.0, 1.0, 4.0), strict=True))
OUTPUT = dict(zip(CHOICES[1], (0.0, 3.0, 6.0), strict=True))


def planted() -> list[dict]:
    """Trials of six data sets: a sum over the choices, in which mixtures harm where there are few classes."""
    rows = []
    for i, classes in enumerate((2, 2, 3, 10, 10, 12)):
        for between, output, mixed in itertools.product(*CHOICES):
            gain = mixed if classes > 5 else -mixed
            quality = (BETWEEN[between] + OUTPUT[output] + gain) / 100
            row = {"data": f"data {i}", "between": between, "output": output, "mixed": mixed}
            known = {"rows": 100, "inputs": 64, "classes": classes, "teacher": 0.9}
            rows.append({**row, **known, "accuracy": round(0.5 + i / 20 + quality, 4)})
    return rows


def recommended(rows: list[dict], n: int = 3) -> float:
    """The mean rank on each data set of the n trials that the others recommend."""
    names = ["between", "output", "mixed", "rows", "inputs", "classes", "teacher"]
    groups, qualities = [row["data"] for row in rows], [row["accuracy"] for row in rows]
    values = predictions([{name: row[name] for name in names} for row in rows], qualities, groups, seed=0)
    true, best = ranks_by_group(qualities, groups), []
    for group in dict.fromkeys(groups):
        own = sorted((i for i, other in enumerate(groups) if other == group), key=lambda i: -values[i])
        best += [true[i] for i in own[:n]]
    return fmean(best)


def shuffled(rows: list[dict], seed: int) -> list[dict]:
    """The rows with the accuracies of one another."""
    qualities = random.Random(seed).sample([row["accuracy"] for row in rows], len(rows))
    return [{**row, "accuracy": quality} for row, quality in zip(rows, qualities, strict=True)]


def test_what_is_recommended_is_among_the_best_and_not_by_a_shuffled_table():
    pytest.importorskip("sklearn")
    assert recommended(planted()) >= 0.9
    assert fmean(recommended(shuffled(planted(), seed)) for seed in range(3)) == pytest.approx(0.5, abs=0.1)


def test_the_recipe_recommends_three_for_a_data_set_without_trials(project):
    pytest.importorskip("sklearn")
    new = [{**row, "data": "new", "accuracy": None} for row in planted()[-27:]]
    project.write("mine.jsonl", "".join(json.dumps(row) + "\n" for row in planted() + new))
    file = home("pipelines") / "autodistiller.yaml"
    pipeline, _ = read_yaml(file.read_text(encoding="utf-8"), file)
    run = distillgen.run(pipeline, out="run", sets=["source.path=mine.jsonl"])
    rows = {row["data"]: row["recommended"] for row in run.corpus}
    assert len(rows) == 7 and all(len(three) == 3 for three in rows.values())
    assert all(one["between"] == "information" and one["output"] == "softened" for one in rows["new"])
    assert rows["new"][0]["mixed"] == 1.0 and rows["data 0"][0]["mixed"] == 0.0
