"""The factuality selector of Knowledge Card (Feng et al. 2023, section 2.2): fact checking by retrieval, and plausibility."""

from collections.abc import Sequence
from functools import cache

from distillgen import FieldName, FileName, Filter, Project, Record, ScriptName
from distillgen.extras import need
from distillgen.local_models.nli import nli_model
from distillgen.local_models.passages import Passages, probabilities
from distillgen.project import file_sha256

SUMMARIES = 3


def knowledge_card(
    *,
    field: FieldName = "knowledge",
    knowledge: FileName,
    verifier: ScriptName,
    plausibility: ScriptName,
    min_score: float = 0.5,
    project: Project,
) -> Filter:
    """Drop knowledge that neither a reference nor its own plausibility makes a fact.

    Measures the highest, over no reference and the three passages of `knowledge` that are closest, of the mean of
    (p_support - p_refute + 1) / 2 by the `verifier` and the probability of being factual by the model of `plausibility`.
    They are named as for `entailed`; in the paper, VitaminC and FactKB. The paper then draws among the best:
    `sample_by_score`. Its code shows the models text and reference as one text; here they are a pair. Costs eight
    inferences a record.

    Options:
        field: the knowledge to judge
        knowledge: the references: a folder of texts, or a file of rows
        verifier: the fact-checking model: a name, a folder, or file.py:function
        plausibility: the model that gives the probability of being factual, named as `verifier` is
        min_score: smallest factuality of kept knowledge, from 0 to 1
    """
    need("knowledge_card", "bm25s", "numpy")
    models = [nli_model(name, project) for name in (verifier, plausibility)]

    @cache
    def base() -> Passages:
        return Passages.read(knowledge, project)

    def measure(records: Sequence[Record]) -> list[float]:
        texts = [r.text(field) for r in records]
        references = [[["", *found]] for found in base().about(texts, SUMMARIES)]
        checked, plausible = (
            probabilities([[text] for text in texts], references, model=name) for name, _ in models
        )
        return [factuality(facts, kb) for (facts,), (kb,) in zip(checked, plausible, strict=True)]

    def factuality(
        facts: Sequence[tuple[float, float, float]], kb: Sequence[tuple[float, float, float]]
    ) -> float:
        scores = [
            ((support - refute + 1) / 2 + p[0]) / 2 for (support, _, refute), p in zip(facts, kb, strict=True)
        ]
        return max(scores)

    def decide(score: float) -> str | None:
        return None if score >= min_score else f"factuality {score:.2f} < {min_score:g}"

    known = {
        "knowledge": file_sha256(project.file(knowledge)),
        "models": [identity for _, identity in models],
    }
    return Filter(measure, decide, depends_on={"version": 1, "field": field, **known})
