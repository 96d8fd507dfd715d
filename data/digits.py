"""Handwritten digits of scikit-learn (8 by 8 pixels, 1,797 of them), for students that are no text models."""

import random
from collections.abc import Iterator
from typing import Any


def digits(
    *,
    seed: int,
    train: int = 1200,
    validation: int = 0,
    labelled: int | None = None,
    label_noise: float = 0.0,
    recorded: int | None = None,
    halves: bool = False,
    imbalance: float | None = None,
    largest: int = 100,
) -> Iterator[dict[str, Any]]:
    """Yield `image` (64 numbers from 0 to 16), `gold` (the digit), `odd`, `label` and `split` of each.

    `label` is what a student sees. `label_noise` is the share of training rows with a label at random, and
    only the first `labelled` training rows of each digit have a label. `recorded` is true for so many
    training rows. With `halves` there are also `top` and `bottom`, of 32 numbers each. What is neither in
    train nor in validation is in test.

    With `imbalance`, the training rows have a long tail: at most `largest` of one digit, drawn by the seed,
    and `imbalance` times fewer of another, with equal ratios in between. Further training rows are left out.
    """
    from sklearn.datasets import load_digits

    images, gold = (values.astype(int).tolist() for values in load_digits(return_X_y=True))
    chance, counts = random.Random(seed), [0] * 10
    ranks = random.Random(f"{seed}/tail").sample(range(10), 10)
    most = [len(gold) if imbalance is None else round(largest / imbalance ** (rank / 9)) for rank in ranks]
    order = chance.sample(range(len(gold)), len(gold))
    for place, i in enumerate(order):
        split = "train" if place < train else "validation" if place < train + validation else "test"
        wrong, other = chance.random() < label_noise, chance.randrange(10)
        counts[gold[i]] += 1
        if split == "train" and counts[gold[i]] > most[gold[i]]:
            continue
        label = other if wrong and split == "train" else gold[i]
        unlabelled = split == "train" and labelled is not None and counts[gold[i]] > labelled
        row = {"image": images[i], "gold": gold[i], "odd": gold[i] % 2}
        row |= {"label": None if unlabelled else label, "split": split}
        if recorded is not None:
            row["recorded"] = place < min(recorded, train)
        if halves:
            row |= {"top": images[i][:32], "bottom": images[i][32:]}
        yield row


def pool(
    *, seed: int, known: int = 450, own: int = 60, others: int = 300, noise: int = 300
) -> Iterator[dict[str, Any]]:
    """Yield the digits 0 to 4 that a teacher learns, and a pool of other pictures, most of which are none.

    `role` is known, pool or test. Of the digits 0 to 4, `known` have a `label`; `own` without one are in the
    pool, with `others` of the digits 5 to 9 and `noise` pictures whose pixels are even draws from 0 to 16, as
    `kind` says; the remaining ones are in test. `gold` is the digit, and null for noise.
    """
    from sklearn.datasets import load_digits

    images, gold = (values.astype(int).tolist() for values in load_digits(return_X_y=True))
    chance = random.Random(f"{seed}/pool")
    low = [i for i in range(len(gold)) if gold[i] < 5]
    high = [i for i in range(len(gold)) if gold[i] >= 5]
    for place, i in enumerate(chance.sample(low, len(low))):
        role = "known" if place < known else "pool" if place < known + own else "test"
        label = gold[i] if role == "known" else None
        split = "test" if role == "test" else "train"
        yield _pooled(images[i], gold[i], "own", role) | {"label": label, "split": split}
    for i in chance.sample(high, others):
        yield _pooled(images[i], gold[i], "other", "pool")
    for _ in range(noise):
        yield _pooled([chance.randrange(17) for _ in range(64)], None, "noise", "pool")


def _pooled(image: list[int], gold: int | None, kind: str, role: str) -> dict[str, Any]:
    return {"image": image, "gold": gold, "label": None, "kind": kind, "role": role, "split": "train"}


def domains(*, seed: int, before: int = 300, train: int = 700, test: int = 100) -> Iterator[dict[str, Any]]:
    """Yield digits in four domains: as they are, with dark and light exchanged, transposed, and mirrored.

    `task` is the number of the domain, from 0. `role` is before, task or test: of `before` digits each
    domain has a noisy copy, of `train` others and of `test` others a clean one.
    """
    from sklearn.datasets import load_digits

    images, gold = (values.astype(int).tolist() for values in load_digits(return_X_y=True))
    chance = random.Random(f"{seed}/domains")
    chosen = chance.sample(range(len(gold)), before + train + test)
    for task in range(4):
        for place, i in enumerate(chosen):
            role = "before" if place < before else "task" if place < before + train else "test"
            image = _in_domain(images[i], task)
            if role == "before":
                image = [round(pixel + chance.gauss(0, 6.4), 1) for pixel in image]
            split = "test" if role == "test" else "train"
            yield {
                "image": image,
                "gold": gold[i],
                "label": gold[i],
                "task": task,
                "role": role,
                "split": split,
            }


def _in_domain(image: list[int], task: int) -> list[float]:
    rows = [image[start : start + 8] for start in range(0, 64, 8)]
    if task == 1:
        rows = [[16 - pixel for pixel in row] for row in rows]
    elif task == 2:
        rows = [list(column) for column in zip(*rows, strict=True)]
    elif task == 3:
        rows = [row[::-1] for row in rows]
    return [float(pixel) for row in rows for pixel in row]
