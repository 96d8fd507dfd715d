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
