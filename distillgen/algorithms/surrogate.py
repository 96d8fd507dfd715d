"""A surrogate: a forest that tells the quality of a trial from its choices and its data (Breiman 2001).

Words become one number each, 0 or 1; the quality of a trial is its rank among the trials of its group, since
groups, such as data sets, are not equally hard. It needs scikit-learn where it predicts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Mapping, Sequence

TREES = 100


def ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, from 0 for the least to 1 for the largest; equal ones share the middle.

    A value alone has 0.5.
    """
    order, last = sorted(values), len(values) - 1
    if not last:
        return [0.5]
    return [(bisect_left(order, value) + bisect_right(order, value) - 1) / 2 / last for value in values]


def predictions(
    rows: Sequence[Mapping[str, float | str]],
    qualities: Sequence[float | None],
    groups: Sequence[Hashable],
    *,
    seed: int,
) -> list[float | None]:
    """Return the rank of each row as a forest of the other groups' rows has it; None without such rows.

    `qualities` are None where they are not known: such rows are predicted, and nothing is learnt of them.
    """
    if not rows:
        return []
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.feature_extraction import DictVectorizer

    numbers = DictVectorizer(sparse=False).fit_transform(rows)
    targets, predicted = ranks_by_group(qualities, groups), list[float | None]([None] * len(rows))
    for places in _places(groups).values():
        apart = {*places}
        others = [i for i, target in enumerate(targets) if target is not None and i not in apart]
        if others:
            forest = RandomForestRegressor(TREES, random_state=seed)
            forest.fit(numbers[others], [targets[i] for i in others])
            for i, value in zip(places, forest.predict(numbers[places]).tolist(), strict=True):
                predicted[i] = value
    return predicted


def ranks_by_group(qualities: Sequence[float | None], groups: Sequence[Hashable]) -> list[float | None]:
    """Return the rank of each known quality among those of its group; None where it is not known."""
    result: list[float | None] = [None] * len(qualities)
    for places in _places(groups).values():
        pairs = [(i, quality) for i in places if (quality := qualities[i]) is not None]
        for (i, _), rank in zip(pairs, ranks([quality for _, quality in pairs]), strict=True):
            result[i] = rank
    return result


def _places(groups: Sequence[Hashable]) -> dict[Hashable, list[int]]:
    places: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        places.setdefault(group, []).append(i)
    return places
