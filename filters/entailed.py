"""Answers that their source entails, sentence by sentence; each sentence is compared with the passages that
share most words with it (SummaC, Laban et al. 2022, section 3).
"""

from collections.abc import Sequence

from distillgen import FieldName, Filter, Project, Record, ScriptName
from distillgen.extras import need
from distillgen.local_models.nli import nli_model
from distillgen.local_models.passages import Passages, probabilities
from distillgen.text.sentences import sentences

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
    """Drop texts with too few sentences that follow from their source, or one that follows too improbably.

    `model` is an NLI model by name or folder, or `file.py:function`. A sentence is entailed if entailment is
    likelier than neutrality and than contradiction. Measures the share of entailed sentences, and the lowest
    probability of entailment. Costs up to three inferences a sentence.

    Options:
        field: the text to judge
        sources: the fields that it must follow from
        model: the NLI model: a name, a folder, or file.py:function
        min_share: smallest share of entailed sentences in a kept text
        min_probability: lowest probability of entailment that each sentence must reach
    """
    need("entailed", "bm25s", "numpy")
    name, identity = nli_model(model, project)
    where = " and ".join(sources)

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        sentence_lists = [sentences(r.text(field)) for r in records]
        passages = [Passages(r.text(source) for source in sources) for r in records]
        passage_lists = [
            source.about(answer_sentences, PASSAGES)
            for source, answer_sentences in zip(passages, sentence_lists, strict=True)
        ]
        return [compare(values) for values in probabilities(sentence_lists, passage_lists, model=name)]

    def compare(sentence_probabilities: Sequence[Sequence[tuple[float, float, float]]]) -> dict[str, float]:
        best = [
            max(passage_probabilities, default=(0.0, 1.0, 0.0))
            for passage_probabilities in sentence_probabilities
        ]
        share = (
            sum(entail > max(neutral, contradict) for entail, neutral, contradict in best) / len(best)
            if best
            else 0.0
        )
        return {"share": share, "least": min((entail for entail, _, _ in best), default=0.0)}

    def decide(numbers: dict[str, float]) -> str | None:
        if numbers["share"] < min_share:
            return f"{numbers['share']:.0%} of its sentences follow from the {where} < {min_share:.0%}"
        least = numbers["least"]
        return (
            None
            if least >= min_probability
            else f"a sentence follows from the {where} with {least:.2f} < {min_probability:g}"
        )

    return Filter(
        measure, decide, depends_on={"version": 1, "field": field, "sources": sources, "model": identity}
    )
