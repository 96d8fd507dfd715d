"""Statements that contradict their siblings (NeuroComparatives, Howard et al. 2024: the contradiction filter;
a statement weighs as much as the cluster that it stands for has members).
"""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

from distillgen import FieldName, Filter, NumberName, Project, Record, ScriptName
from distillgen.flow.filter import siblings
from distillgen.flow.whole_set import number_of
from distillgen.local_models.nli import entailment, nli_model


def contradiction(
    *,
    field: FieldName = "statement",
    model: ScriptName,
    size: NumberName | None = None,
    score: NumberName | None = None,
    by: list[FieldName] | None = None,
    min_entail: float = 0.85,
    min_contradict: float = 0.99,
    max_kept: int | None = 5,
    project: Project,
) -> Filter:
    """Drop statements that more siblings contradict than entail, then all but the best of the rest.

    A statement is dropped if its own weight plus the weights of the siblings that entail it is at most the
    sum of the weights of the siblings that contradict it. Of the rest, the `max_kept` with the highest
    `score` are kept. Costs one inference for each ordered pair of a group.

    `model` is an NLI model by name or folder, or `file.py:function`. A sibling entails (contradicts) a
    statement if that is the likeliest relation, with a probability of at least `min_entail`
    (`min_contradict`). The weight is `size`: a score such as cluster.size, or a field; the default is 1.
    `score` is a score such as generate.logprob, or a field; by default, earlier statements win. A group holds
    the statements of one parent, or adjacent records with equal fields `by`. Measures the weights for and
    against the statement, and its rank among the rest.

    Options:
        field: the statement
        model: the NLI model: a name, a folder, or file.py:function
        size: the weight of a statement: a score such as cluster.size, or a field; default: 1 each
        score: ranks the statements: a score such as generate.logprob, or a field; default: their
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
        verdicts = entailment([(texts[i], texts[j]) for i, j in pairs], model=name)
        for (i, j), (entail, neutral, contradict) in zip(pairs, verdicts, strict=True):
            if entail >= min_entail and entail > max(neutral, contradict):
                support[j] += weights[i]
            elif contradict >= min_contradict and contradict > max(entail, neutral):
                against[j] += weights[i]
        survivors = [i for i in range(len(records)) if support[i] > against[i]]
        ranks = {
            i: rank
            for rank, i in enumerate(sorted(survivors, key=lambda i: -number(records[i], score, 0.0)), 1)
        }
        return [
            {"support": support[i], "against": against[i], "rank": ranks.get(i, 0)}
            for i in range(len(records))
        ]

    def number(record: Record, by_name: str | None, default: float) -> float:
        """Return a score, or the number in a field."""
        return default if by_name is None else number_of(record, by_name) or 0.0

    def decide(numbers: Mapping[str, Any]) -> str | None:
        if numbers["support"] <= numbers["against"]:
            return f"contradicted: {numbers['support']:g} for it <= {numbers['against']:g} against it"
        over = max_kept is not None and numbers["rank"] > max_kept
        return (
            f"number {numbers['rank']:.0f} of those left by {score or 'order'} > {max_kept}" if over else None
        )

    thresholds = {"min_entail": min_entail, "min_contradict": min_contradict}
    settings = {"version": 1, "field": field, "model": identity, "size": size, "score": score, **thresholds}
    return Filter(measure, decide, depends_on=settings, together=siblings(by))
