"""Weights that learn find out which teacher is right for a row; their frozen controls do not."""

import math
import random

import pytest

from tests.training.lessons import CLASSES, prepared

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def says(name: str, likeliest: int) -> dict:
    shares = [0.9 if c == likeliest else 0.05 for c in range(3)]
    return {f"teacher.{name}.names": [*CLASSES], f"teacher.{name}.logprobs": [math.log(p) for p in shares]}


def point(draw: random.Random, ray: int, *more: float) -> list[float]:
    return [float(ray == axis) * (1 + draw.random()) + draw.gauss(0, 0.2) for axis in range(3)] + [*more]


def area(scores: list[float], right: list[bool]) -> float:
    """The share of pairs of a right and a wrong row in which the right one has the larger score."""
    pairs = [
        (a > b) + (a == b) / 2
        for a, is_right in zip(scores, right, strict=True)
        if is_right
        for b, other in zip(scores, right, strict=True)
        if not other
    ]
    return sum(pairs) / len(pairs)


def last_weights(loop, name: str):
    return torch.tensor(loop.model.values(loop.train_dataset.all_rows())[name])


def trusted(tmp_path, seed: int = 0, **options) -> float:
    """How well alpha tells rows whose teacher is right from the third in which it is wrong."""
    draw, rows, right = random.Random(0), [], []
    for i in range(240):
        ray = i % 3
        right.append(draw.random() > 0.33)
        teacher = ray if right[-1] else (ray + 1) % 3
        label = ray if draw.random() > 0.25 else draw.randrange(3)
        rows.append(
            {"id": str(i), "input.x": point(draw, ray), "label": [CLASSES[label]], **says("t", teacher)}
        )
    clean = [
        {"id": f"v{i}", "input.x": point(draw, i % 3), "label": [CLASSES[i % 3]], **says("t", i % 3)}
        for i in range(60)
    ]
    loop = prepared(
        {"train": rows, "validation": clean},
        [("divergence", {"teacher": "t", "weight": "alpha"}), ("cross_entropy", {"weight": "1 - alpha"})],
        tmp_path,
        teachers={"t": {"field": "t"}},
        weights={"alpha": ("trilateral", {"teacher": "t", "rate": 0.01, **options})},
        per_device_train_batch_size=60,
        max_steps=80,
        seed=seed,
    )
    loop.train()
    return area(last_weights(loop, "alpha").tolist(), right)


def test_a_controller_trusts_a_teacher_where_it_is_right(tmp_path):
    assert trusted(tmp_path) > 0.8
    frozen = [trusted(tmp_path, seed, frozen=True) for seed in range(3)]
    assert sum(frozen) / 3 < 0.6, "a controller as it was drawn knows nothing, on the average"


def routed(tmp_path, seed: int = 0, **options) -> float:
    """The share of rows that are sent to the teacher that is right there, as a flag in the inputs says."""
    draw, rows, flags = random.Random(1), [], []
    for i in range(240):
        ray, flag = i % 3, draw.randrange(2)
        wrong = (ray + draw.randrange(1, 3)) % 3
        label = ray if draw.random() > 0.3 else draw.randrange(3)
        teachers = says("a", ray if flag else wrong) | says("b", wrong if flag else ray)
        x = point(draw, ray, 2.0 * flag - 1)
        rows.append({"id": str(i), "input.x": x, "label": [CLASSES[label]], **teachers})
        flags.append(flag)
    loop = prepared(
        rows,
        [("cross_entropy", {}), ("divergence", {"teacher": ["a", "b"], "weight": "0.5 * route"})],
        tmp_path,
        teachers={name: {"field": name} for name in "ab"},
        weights={"route": ("gate", {"over": 2, "rate": 0.02, **options})},
        student={"mlp": [16]},
        per_device_train_batch_size=60,
        max_steps=150,
        seed=seed,
    )
    loop.train()
    return float((last_weights(loop, "route").argmax(-1) == 1 - torch.tensor(flags)).float().mean())


def test_a_soft_gate_sends_rows_to_the_teacher_that_is_right(tmp_path):
    assert routed(tmp_path) > 0.8
    hard = [routed(tmp_path, seed, soft=False) for seed in range(2)]
    assert sum(hard) / 2 < 0.6
