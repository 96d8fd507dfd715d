"""A graph of communities whose nodes have features: a contextual stochastic block model (Deshpande et al.
2018).
"""

import random
from collections.abc import Iterator
from typing import Any


def communities(
    *,
    seed: int,
    nodes: int = 900,
    classes: int = 6,
    width: int = 32,
    labelled: int = 20,
    validation: int = 150,
    within: float = 0.025,
    between: float = 0.002,
    signal: float = 0.55,
) -> Iterator[dict[str, Any]]:
    """Yield `node`, `features` (`width` numbers), `neighbours` (ids), `gold`, `label` and `split` of each.

    `strangers` are the neighbours of another node: a graph without a truth, for a control.

    Two nodes are joined with chance `within` if they are of one class, else `between`. Features are `signal`
    times the centre of the class, and noise of variance 1. `classes * labelled` nodes are in train.
    """
    chance = random.Random(seed)
    gold = [chance.randrange(classes) for _ in range(nodes)]
    centres = [[chance.gauss(0, 1) for _ in range(width)] for _ in range(classes)]
    neighbours: list[list[str]] = [[] for _ in range(nodes)]
    for i in range(nodes):
        for j in range(i + 1, nodes):
            if chance.random() < (within if gold[i] == gold[j] else between):
                neighbours[i].append(str(j))
                neighbours[j].append(str(i))
    place = {node: i for i, node in enumerate(chance.sample(range(nodes), nodes))}
    others = random.Random(f"{seed} strangers").sample(range(nodes), nodes)
    train = classes * labelled
    for i in range(nodes):
        split = "train" if place[i] < train else "validation" if place[i] < train + validation else "test"
        yield {
            "node": str(i),
            "features": [round(signal * centre + chance.gauss(0, 1), 4) for centre in centres[gold[i]]],
            "neighbours": neighbours[i],
            "strangers": neighbours[others[i]],
            "gold": gold[i],
            "label": gold[i] if split == "train" else None,
            "split": split,
        }
