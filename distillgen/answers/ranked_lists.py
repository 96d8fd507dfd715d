"""Lists of the scores and of the relevance of a query's documents, in the fields of a record."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def number_list(value: Any) -> list[float] | None:
    """Return the finite numbers of a list, or of a JSON list in a text; None if it is something else.

    Numbers in texts, such as the answers that `gather` collects, are numbers too.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if not isinstance(value, list) or any(isinstance(item, bool) for item in value):
        return None
    try:
        numbers = [float(item) for item in value]
    except (TypeError, ValueError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def ranking_numbers(
    name: str,
    figure: Callable[[Sequence[float], Sequence[float], int | None], float | None],
    fields: Mapping[str, Any],
    scores: str | None,
    relevance: str,
    k: int | None,
) -> dict[str, float]:
    """Return a figure of the ranking of a record's documents as `name`, and whether they are `scored`.

    Without the field `scores` the documents stand in the order of the ranking. The figure is 0 if they are
    not scored, and left out if no document is relevant.
    """
    of_documents = number_list(fields.get(relevance)) or []
    if max(of_documents, default=0.0) <= 0:
        return {"scored": False}
    falling = [-float(place) for place in range(len(of_documents))]
    of_model = number_list(fields.get(scores)) if scores else falling
    if of_model is None or len(of_model) != len(of_documents):
        return {"scored": False, name: 0.0}
    value = figure(of_model, [max(number, 0.0) for number in of_documents], k)
    return {"scored": True} | ({} if value is None else {name: value})
