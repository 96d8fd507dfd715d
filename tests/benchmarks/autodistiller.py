"""The trials of the recipe autodistiller: 27 configurations of distillation on each of six small data sets.

A trial is a student of at most 100 rows, a multilayer perceptron, with the loss between features `between`,
the loss by which it learns classes `output`, and the share `mixed` of mixtures. Its accuracy is that on the
test rows, the mean over seeds, which draw split and weights. `teacher` is the teacher's accuracy on the
validation rows. The data sets are scikit-learn's: digits; whether a digit is odd; the upper halves of digits;
digits with a third of the labels at random; breast cancer; wine.

Regenerate: OMP_NUM_THREADS=1 python -m tests.benchmarks.autodistiller data/distillation_trials.jsonl
"""

import argparse
import itertools
import json
import random
import tempfile
from pathlib import Path
from statistics import fmean

import torch
from sklearn import datasets

from distillgen.training.mixup import Mixup
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    with options.file.open("w", encoding="utf-8") as file:
        for name in tables():
            found: dict[str, list] = {}
            for seed in range(options.seeds):
                with tempfile.TemporaryDirectory() as folder:
                    for choices, known, right in trials(name, seed, Path(folder)):
                        found.setdefault(json.dumps(choices), []).append((known, right))
            for choices, runs in found.items():
                known = {key: round(fmean(run[0][key] for run in runs), 4) for key in runs[0][0]}
                row = {**json.loads(choices), **known, "accuracy": round(fmean(run[1] for run in runs), 4)}
                file.write(json.dumps(row) + "\n")
            file.flush()
            print(name, len(found), flush=True)
