"""Statements that contradict their siblings (NeuroComparatives, Howard et al. 2024: the contradiction filter;
a statement weighs as much as the cluster that it stands for has members). The official code asks what a
statement entails and contradicts, `direction: from`, drops statements without siblings, `lone: drop`, and
judges only the text behind the last comma, which a stage `format` can put into a field.
"""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, Literal

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
    direction: Literal["from", "to"] = "from",
    lone: Literal["drop", "keep"] = "keep",
    project: Project,
) -> Filter:
    """Drop statements that contradict more siblings than they entail, then all but the best of the rest.

    A statement is dropped if its own weight plus the weights of the siblings that it entails is at most the
    sum of the weights of the siblings that it contradicts; with `direction: to`, of the siblings that entail
    or contradict it. Of the rest, the `max_kept` with the highest `score` are kept. Costs one inference for
    each ordered pair of a group.

    `model` is an NLI model by name or folder, or `file.py:function`. A statement entails (contradicts)
    another if that is the likeliest relation, with a probability of at least `min_entail`
    (`min_contradict`). The weight is `size`: a score such as cluster.size, or a field; the default is 1.
    Sizes of clusters count what reached the stage `cluster`: put other filters before it. `score` is a
    score such as generate.logprob, or a field; by default, earlier statements win. A group holds the
    statements of one parent, or adjacent records with equal fields `by`. Measures the weights for and
    against the statement, its rank among the rest, and the number of its siblings.

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
        direction: whose relations count: from the statement to its siblings, or to it from them
        lone: whether a statement without siblings, which nothing can contradict, is kept
    """
    name, identity = nli_model(model, project)

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        texts = [record.text(field) for record in records]
        weights = [number(record, size, 1.0) for record in records]
        support, against = weights[:], [0.0] * len(records)
        pairs = list(permutations(range(len(records)), 2))
        verdicts = entailment([(texts[i], texts[j]) for i, j in pairs], model=name)
        for (i, j), (entail, neutral, contradict) in zip(pairs, verdicts, strict=True):
            judged, other = (i, j) if direction == "from" else (j, i)
            if entail >= min_entail and entail > max(neutral, contradict):
                support[judged] += weights[other]
            elif contradict >= min_contradict and contradict > max(entail, neutral):
                against[judged] += weights[other]
        survivors = [i for i in range(len(records)) if support[i] > against[i]]
        ranks = {
            i: rank
            for rank, i in enumerate(sorted(survivors, key=lambda i: -number(records[i], score, 0.0)), 1)
        }
        return [
            {
                "support": support[i],
                "against": against[i],
                "rank": ranks.get(i, 0),
                "siblings": len(records) - 1,
            }
            for i in range(len(records))
        ]

    def number(record: Record, by_name: str | None, default: float) -> float:
        """Return a score, or the number in a field."""
        return default if by_name is None else number_of(record, by_name) or 0.0

    def decide(numbers: Mapping[str, Any]) -> str | None:
        if lone == "drop" and not numbers["siblings"]:
            return "alone: it has no siblings"
        if numbers["support"] <= numbers["against"]:
            return f"contradicted: {numbers['support']:g} for it <= {numbers['against']:g} against it"
        over = max_kept is not None and numbers["rank"] > max_kept
        return (
            f"number {numbers['rank']:.0f} of those left by {score or 'order'} > {max_kept}" if over else None
        )

    thresholds = {"min_entail": min_entail, "min_contradict": min_contradict}
    settings = {"version": 2, "field": field, "model": identity, "size": size, "score": score, **thresholds}
    return Filter(measure, decide, depends_on=settings | {"direction": direction}, together=siblings(by))
