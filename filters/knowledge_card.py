"""The factuality selector of Knowledge Card (Feng et al. 2023, section 2.2): fact checking by retrieval, and
plausibility.
"""

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
    """Drop knowledge whose factuality is below `min_score`, with the references and without.

    The factuality is the highest value, over "no reference" and the three closest passages of `knowledge`, of
    the mean of (p_support - p_refute + 1) / 2 by the model `verifier` and the probability "factual" by the
    model `plausibility`. Models are named as for `entailed`; the paper uses VitaminC and FactKB. The paper
    then samples among the best: use `sample_by_score`. Its code joins text and reference into one text; here
    they are a pair. Costs eight inferences a record.

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
        references = [[["", *passages]] for passages in base().about(texts, SUMMARIES)]
        support_probabilities, plausibility_probabilities = (
            probabilities([[text] for text in texts], references, model=name) for name, _ in models
        )
        return [
            factuality(facts, kb)
            for (facts,), (kb,) in zip(support_probabilities, plausibility_probabilities, strict=True)
        ]

    def factuality(
        facts: Sequence[tuple[float, float, float]], kb: Sequence[tuple[float, float, float]]
    ) -> float:
        scores = [
            ((support - refute + 1) / 2 + p[0]) / 2 for (support, _, refute), p in zip(facts, kb, strict=True)
        ]
        return max(scores)

    def decide(score: float) -> str | None:
        return None if score >= min_score else f"factuality {score:.2f} < {min_score:g}"

    settings = {
        "knowledge": file_sha256(project.file(knowledge)),
        "models": [identity for _, identity in models],
    }
    return Filter(measure, decide, depends_on={"version": 1, "field": field, **settings})
