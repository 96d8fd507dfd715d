"""The trials of the recipe autodistiller: 27 configurations of distillation on each of six small data sets.

A trial is a student of at most 100 rows, a multilayer perceptron, with the loss between features `between`,
the loss by which it learns classes `output`, and the share `mixed` of mixtures. Its accuracy is that on the
test rows. A seed draws split and weights. `teacher` is the teacher's accuracy on the validation
rows. The data sets are scikit-learn's: digits; whether a digit is odd; the upper halves of digits;
digits with a third of the labels at random; breast cancer; wine.

Writes the trials of each seed into a folder, and their means (data/distillation_trials.jsonl). Then the
recipe recommends by the trials of each seed and by their means; so does the control, by trials with the
accuracies of one another, and an arm that knows nothing of the data sets.

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.autodistiller runs/trials
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import tempfile
from operator import itemgetter
from pathlib import Path
from statistics import fmean

import torch
from sklearn import datasets

import distillgen
from distillgen.algorithms.surrogate import ranks_by_group
from distillgen.rows.from_python import write_rows
from distillgen.training.mixup import Mixup
from tests.benchmarks.over_seeds import difference, spread
from tests.training.lessons import prepared

BETWEEN = {
    "none": [],
    "mse": [("features", {"teacher": "big", "weight": 0.1})],
    "information": [("information", {"teacher": "big", "alpha": 0.9, "weight": 0.1})],
}
OUTPUT = {
    "labels": [("cross_entropy", {})],
    "divergence": [("cross_entropy", {"weight": 0.3}), ("divergence", {"teacher": "big", "weight": 0.7})],
    "softened": [
        ("cross_entropy", {"weight": 0.3}),
        ("divergence", {"teacher": "big", "temperature": 4, "weight": 0.7}),
    ],
}
MIXED = [0.0, 0.1, 1.0]
CHOICES = ("between", "output", "mixed")
ALONE = ("predict.from=[between, output, mixed]",)
TEACHER = {"big": {"model": "student-big", "inputs": ["x"]}}


def tables() -> dict[str, tuple[list[list[float]], list[int]]]:
    """The data sets: numbers, and classes."""
    digits, cancer, wine = (
        load() for load in (datasets.load_digits, datasets.load_breast_cancer, datasets.load_wine)
    )
    pictures, numbers = digits.data.tolist(), digits.target.tolist()
    chance = random.Random(0)
    noisy = [chance.randrange(10) if chance.random() < 1 / 3 else number for number in numbers]
    scaled = [((one.data - one.data.mean(0)) / one.data.std(0)).tolist() for one in (cancer, wine)]
    return {
        "digits": (pictures, numbers),
        "odd": (pictures, [number % 2 for number in numbers]),
        "halves": ([picture[:32] for picture in pictures], numbers),
        "noisy": (pictures, noisy),
        "cancer": (scaled[0], cancer.target.tolist()),
        "wine": (scaled[1], wine.target.tolist()),
    }


def accuracy(loop, rows) -> float:
    """The share of rows about which the student of a loop is right."""
    network = loop.model.networks["student"].eval()
    with torch.no_grad():
        said = network.probabilities(network(network.batch([{"x": row["input.x"]} for row in rows]))).argmax(
            -1
        )
    return fmean(network.classes[i] == row["label"][0] for i, row in zip(said.tolist(), rows, strict=True))


def trials(name: str, seed: int, folder: Path):
    """Yield the choices and the accuracy of each configuration on a data set, and what is known of it."""
    inputs, classes = tables()[name]
    rows = [
        {"id": str(i), "input.x": x, "label": [str(y)]}
        for i, (x, y) in enumerate(zip(inputs, classes, strict=True))
    ]
    random.Random(seed).shuffle(rows)
    most = min(1000, len(rows) // 2)
    learnt, validation, test = rows[:most], rows[most : most + most // 5], rows[most + most // 5 :]
    if name == "noisy":  # the truth is what a student is to learn
        truth = [str(number) for number in datasets.load_digits().target.tolist()]
        test = [{**row, "label": [truth[int(row["id"])]]} for row in test]
    options = {"per_device_train_batch_size": 50, "learning_rate": 0.005, "seed": seed, "root": folder}
    big = prepared(
        learnt,
        [("cross_entropy", {})],
        folder,
        student={"mlp": [128, 32], "dropout": 0.2},
        max_steps=200,
        **options,
    )
    big.train()
    big.save_model(str(folder / "student-big"))
    known = {
        "rows": min(100, most),
        "inputs": len(inputs[0]),
        "classes": len({*classes}),
        "teacher": accuracy(big, validation),
    }
    for between, output, mixed in itertools.product(BETWEEN, OUTPUT, MIXED):
        loop = prepared(
            learnt[: known["rows"]],
            [*OUTPUT[output], *BETWEEN[between]],
            folder,
            student={"mlp": [24, 16]},
            teachers=TEACHER,
            models={"student-big": folder / "student-big"},
            mixup=Mixup(share=mixed) if mixed else None,
            max_steps=100,
            **options,
        )
        loop.train()
        yield (
            {"data": name, "between": between, "output": output, "mixed": mixed},
            known,
            accuracy(loop, test),
        )


def measured(seed: int) -> list[dict]:
    """The trials of all data sets with one seed."""
    rows = []
    for name in tables():
        with tempfile.TemporaryDirectory() as folder:
            for choices, known, right in trials(name, seed, Path(folder)):
                rows.append({**choices, **known, "accuracy": round(right, 4)})
    return rows


def average(runs: list[list[dict]]) -> list[dict]:
    """The trials with the mean over seeds of each number."""
    return [
        {
            name: value if isinstance(value, str) else round(fmean(row[name] for row in rows), 4)
            for name, value in rows[0].items()
        }
        for rows in zip(*runs, strict=True)
    ]


def shuffled(rows: list[dict]) -> list[dict]:
    """The control: trials with the accuracy of another trial on the same data set."""
    chance, result = random.Random(0), []
    for _, group in itertools.groupby(rows, key=itemgetter("data")):
        own = [*group]
        others = chance.sample([row["accuracy"] for row in own], len(own))
        result += [{**row, "accuracy": other} for row, other in zip(own, others, strict=True)]
    return result


def recommended(
    rows: list[dict], truth: list[dict], sets: tuple[str, ...] = ()
) -> dict[str, tuple[float, float]]:
    """By data set, of the three trials that the recipe recommends by `rows`: their mean rank among all
    trials on it by the accuracies of `truth`, 1 the best and a random one 0.5; and by how many points
    they are better than the mean trial.
    """
    with tempfile.TemporaryDirectory() as folder:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
            run = distillgen.run("autodistiller", rows=rows, out=Path(folder) / "run", sets=sets)
        corpus = [*run.corpus]
    places = ranks_by_group([row["accuracy"] for row in truth], [row["data"] for row in truth])
    result = {}
    for one in corpus:
        own = [i for i, row in enumerate(truth) if row["data"] == one["data"]]
        by_choice = {tuple(truth[i][name] for name in CHOICES): i for i in own}
        best = [by_choice[tuple(trial[name] for name in CHOICES)] for trial in one["recommended"]]
        gain = fmean(truth[i]["accuracy"] for i in best) - fmean(truth[i]["accuracy"] for i in own)
        result[one["data"]] = fmean(places[i] for i in best), 100 * gain
    return result


def mean_rank(one: dict[str, tuple[float, float]]) -> float:
    """The mean rank over the data sets."""
    return fmean(rank for rank, _ in one.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in range(options.seeds):
        file = options.folder / f"seed-{seed}.jsonl"
        if not file.exists():
            write_rows(measured(seed), file)
        runs.append([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()])
        print(f"seed {seed}: {len(runs[-1])} trials", flush=True)
    write_rows(average(runs), options.folder / "mean.jsonl")
    tables_of_seeds = [*runs, average(runs)]
    results = [recommended(rows, rows) for rows in tables_of_seeds]
    arms = {
        "0.5": [dict.fromkeys(tables(), (0.5, 0.0))] * len(tables_of_seeds),
        "by shuffled accuracies": [recommended(shuffled(rows), rows) for rows in tables_of_seeds],
        "by the choices alone": [recommended(rows, rows, ALONE) for rows in tables_of_seeds],
    }
    *by_seed, by_mean = results
    for name in tables():
        ranks, gains = ([one[name][i] for one in by_seed] for i in (0, 1))
        rank, gain = by_mean[name]
        print(f"| {name} | {spread(ranks, 2)} | {spread(gains, 2)} | of the means: {rank:.2f}, {gain:+.1f} |")
    *mean_ranks, of_means = map(mean_rank, results)
    print(f"the recipe: mean rank {spread(mean_ranks, 2)}, of the means {of_means:.2f}")
    for arm, others in arms.items():
        *other_ranks, of_means = map(mean_rank, others)
        gaps = [one - other for one, other in zip(mean_ranks, other_ranks, strict=True)]
        print(
            f"{arm}: {spread(other_ranks, 2)}, of the means {of_means:.2f}; the recipe less it "
            f"{difference(gaps, 2)}"
        )
    gains = [fmean(gain for _, gain in one.values()) for one in by_seed]
    print(f"points above the mean trial: {difference(gains, 2)}")


if __name__ == "__main__":
    main()
