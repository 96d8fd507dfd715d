"""Answers that their source does not entail, sentence by sentence, each against the passages of it that speak of the same
(as SummaC does: Laban et al. 2022, section 3).
"""

from collections.abc import Sequence

from distillgen import FieldName, Filter, Project, Record, ScriptName
from distillgen.extras import need
from distillgen.local_models.nli import nli_model
from distillgen.local_models.passages import Passages, probabilities, sentences

PASSAGES = 3  # of a source that is longer than these, the ones that share most words with the sentence


def entailed(
    *,
    field: FieldName = "answer",
    sources: list[FieldName],
    model: ScriptName,
    min_share: float = 1.0,
    min_probability: float = 0.0,
    project: Project,
) -> Filter:
    """Drop texts of which too few sentences follow from their source, or one too improbably.

    `model` is an NLI model, by name, folder or `file.py:function`. Measures the share of sentences of which entailment is
    likelier than neutrality and than contradiction, and the least probability of it. Costs at most three inferences a
    sentence.

    Options:
        field: the text to judge
        sources: the fields that it must follow from
        model: the NLI model: a name, a folder, or file.py:function
        min_share: smallest share of entailed sentences in a kept text
        min_probability: smallest probability with which each sentence must be entailed
    """
    need("entailed", "bm25s", "numpy")
    name, identity = nli_model(model, project)
    where = " and ".join(sources)

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        told = [sentences(r.text(field)) for r in records]
        known = [Passages(r.text(source) for source in sources) for r in records]
        shown = [source.about(some, PASSAGES) for source, some in zip(known, told, strict=True)]
        return [compare(found) for found in probabilities(told, shown, model=name)]

    def compare(found: Sequence[Sequence[tuple[float, float, float]]]) -> dict[str, float]:
        best = [max(own, default=(0.0, 1.0, 0.0)) for own in found]
        share = (
            sum(entail > max(neutral, contradict) for entail, neutral, contradict in best) / len(best)
            if best
            else 0.0
        )
        return {"share": share, "least": min((entail for entail, _, _ in best), default=0.0)}

    def decide(found: dict[str, float]) -> str | None:
        if found["share"] < min_share:
            return f"{found['share']:.0%} of its sentences follow from the {where} < {min_share:.0%}"
        least = found["least"]
        return (
            None
            if least >= min_probability
            else f"a sentence follows from the {where} with {least:.2f} < {min_probability:g}"
        )

    return Filter(
        measure, decide, depends_on={"version": 1, "field": field, "sources": sources, "model": identity}
    )
