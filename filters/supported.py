"""Statements that nothing in a knowledge base supports: look up, then check (as FEVER does: Thorne et al. 2018, section 5)."""

from collections.abc import Sequence
from functools import cache

from distillgen import FieldName, FileName, Filter, Project, Record, ScriptName
from distillgen.extras import need
from distillgen.local_models.embedder import check
from distillgen.local_models.nli import nli_model
from distillgen.local_models.passages import Passages, probabilities, sentences
from distillgen.project import file_sha256
from distillgen.text.words import content


def supported(
    *,
    field: FieldName = "answer",
    knowledge: FileName,
    model: ScriptName | None = None,
    embedder: str | None = None,
    passages: int = 3,
    min_support: float = 0.5,
    min_mean: float = 0.0,
    project: Project,
) -> Filter:
    """Drop texts with a sentence that no passage of a knowledge base supports.

    `knowledge` is a folder of texts or a file of rows. Passages are looked up by BM25, and by an `embedder` too where one is
    named. A sentence's support is the highest probability with which one of them entails it by the NLI `model`, or, without
    one, the highest share of its content words in one of them (English). Measures the least and the mean support.
    Costs nothing without models; else `passages` inferences a sentence, or twice as many with an embedder.

    Options:
        field: the text to judge
        knowledge: the knowledge base: a folder of texts, or a file of rows
        model: the NLI model: a name, a folder, or file.py:function; default: shared words are counted
        embedder: an embedding model that looks passages up besides BM25
        passages: passages that each sentence is compared with
        min_support: smallest support of each sentence, from 0 to 1
        min_mean: smallest mean support of the sentences, from 0 to 1
    """
    need("supported", "bm25s", "numpy")
    if embedder:
        check(embedder)
    name, identity = nli_model(model, project) if model else ("", "")
    what = "entailed with" if model else "its words at most"

    @cache
    def base() -> Passages:
        return Passages.read(knowledge, project, embedder=embedder)

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        told = [sentences(r.text(field)) for r in records]
        found = iter(base().about([sentence for some in told for sentence in some], passages))
        shown = [[next(found) for _ in some] for some in told]
        if model:
            judged = probabilities(told, shown, model=name)
            support = [[max((p[0] for p in own), default=0.0) for own in some] for some in judged]
        else:
            pairs = (zip(some, own, strict=True) for some, own in zip(told, shown, strict=True))
            support = [[share(sentence, near) for sentence, near in some] for some in pairs]
        return [{"least": min(some, default=0.0), "mean": sum(some) / max(1, len(some))} for some in support]

    def share(sentence: str, near: Sequence[str]) -> float:
        said = content(sentence)
        return max((len(said & content(text)) / len(said) for text in near if said), default=0.0)

    def decide(found: dict[str, float]) -> str | None:
        if found["least"] < min_support:
            return f"a sentence without support in {knowledge}: {what} {found['least']:.2f} < {min_support:g}"
        return (
            None
            if found["mean"] >= min_mean
            else f"support in {knowledge} is {found['mean']:.2f} on average < {min_mean:g}"
        )

    files = {"knowledge": file_sha256(project.file(knowledge)), "model": identity, "embedder": embedder}
    return Filter(measure, decide, depends_on={"version": 1, "field": field, "passages": passages, **files})
