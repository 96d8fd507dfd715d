"""Statements that more of their siblings contradict than support (NeuroComparatives, Howard et al. 2024: the
contradiction filter, a statement's weight being the size of its cluster).
"""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

from distillgen import ConfigError, FieldName, Filter, Project, Record, ScriptName
from distillgen.errors import did_you_mean
from distillgen.local_models.nli import entailment, nli_model
from distillgen.stages.filter import siblings


def contradiction(
    *,
    field: FieldName = "statement",
    model: ScriptName,
    size: str | None = None,
    score: str | None = None,
    by: list[FieldName] | None = None,
    min_entail: float = 0.85,
    min_contradict: float = 0.99,
    max_kept: int | None = 5,
    project: Project,
) -> Filter:
    """Drop statements that more of their siblings contradict than entail, and all but the best that are left.

    Dropped is where the weights of those that entail it, and its own, sum up to no more than those of the ones that contradict
    it; then what is beyond the `max_kept` of the highest `score`. Costs an inference for each ordered pair of a group.

    `model` is an NLI model by name or folder, or `file.py:function`; entailment and contradiction count where they are the
    likeliest and at least `min_entail` and `min_contradict`. A weight is `size`, a score such as cluster.size, or a field, by
    default 1; `score` is a score such as generate.logprob, or a field, by default the order. The group is the statements of
    one parent, or those next to each other with the same fields `by`. Measures both weights, and the rank among survivors.

    Options:
        field: the statement
        model: the NLI model: a name, a folder, or file.py:function
        size: the weight of a statement: a score such as cluster.size, or a field; default: 1 each
        score: what the best are chosen by: a score such as generate.logprob, or a field; default: the
            order
        by: fields whose values siblings share; default: statements of one parent
        min_entail: probability from which a statement entails another
        min_contradict: probability from which a statement contradicts another
        max_kept: most statements of a group that are kept; null: all
    """
    name, identity = nli_model(model, project)

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        texts = [record.text(field) for record in records]
        weights = [number(record, size, 1.0) for record in records]
        support, against = weights[:], [0.0] * len(records)
        pairs = list(permutations(range(len(records)), 2))
        judged = entailment([(texts[i], texts[j]) for i, j in pairs], model=name)
        for (i, j), (entail, neutral, contradict) in zip(pairs, judged, strict=True):
            if entail >= min_entail and entail > max(neutral, contradict):
                support[j] += weights[i]
            elif contradict >= min_contradict and contradict > max(entail, neutral):
                against[j] += weights[i]
        left = [i for i in range(len(records)) if support[i] > against[i]]
        ranks = {
            i: rank for rank, i in enumerate(sorted(left, key=lambda i: -number(records[i], score, 0.0)), 1)
        }
        return [
            {"support": support[i], "against": against[i], "rank": ranks.get(i, 0)}
            for i in range(len(records))
        ]

    def number(record: Record, by_name: str | None, default: float) -> float:
        """A score, or a field with a number."""
        value = default if by_name is None else record.scores.get(by_name, record.fields.get(by_name))
        if not isinstance(value, int | float):
            near = did_you_mean(str(by_name), record.scores)
            raise ConfigError(
                f"contradiction: '{by_name}' is neither a score of an earlier stage nor a number in a field{near}"
            )
        return float(value)

    def decide(found: Mapping[str, Any]) -> str | None:
        if found["support"] <= found["against"]:
            return f"contradicted: {found['support']:g} for it <= {found['against']:g} against it"
        over = max_kept is not None and found["rank"] > max_kept
        return (
            f"number {found['rank']:.0f} of those left by {score or 'order'} > {max_kept}" if over else None
        )

    thresholds = {"min_entail": min_entail, "min_contradict": min_contradict}
    known = {"version": 1, "field": field, "model": identity, "size": size, "score": score, **thresholds}
    return Filter(measure, decide, depends_on=known, together=siblings(by))
