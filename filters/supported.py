"""Statements that a knowledge base supports: look up passages, then check (FEVER, Thorne et al. 2018, section
5).
"""

from collections.abc import Sequence
from functools import cache
from itertools import chain

from distillgen import FieldName, FileName, Filter, Project, Record, ScriptName
from distillgen.extras import need
from distillgen.local_models.embedder import check
from distillgen.local_models.nli import nli_model
from distillgen.local_models.passages import Passages, probabilities
from distillgen.project import file_sha256
from distillgen.text.sentences import sentences
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

    `knowledge` is a folder of texts or a file of rows. Passages are looked up with BM25 and, if one is named,
    with an `embedder` too. The support of a sentence is the highest probability with which a passage entails
    it by the NLI `model`; without a model, it is the highest share of its content words in one passage
    (English). Measures the lowest and the mean support. Costs nothing without models; else `passages`
    inferences a sentence, twice as many with an embedder.

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
    support_name = "entailed with" if model else "its words at most"

    @cache
    def base() -> Passages:
        return Passages.read(knowledge, project, embedder=embedder)

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        sentence_lists = [sentences(r.text(field)) for r in records]
        passage_iterator = iter(base().about(list(chain(*sentence_lists)), passages))
        passage_lists = [[next(passage_iterator) for _ in answer] for answer in sentence_lists]
        if model:
            judged_answers = probabilities(sentence_lists, passage_lists, model=name)
            support = [
                [max((entail for entail, *_ in by_passage), default=0.0) for by_passage in answer]
                for answer in judged_answers
            ]
        else:
            answers = zip(sentence_lists, passage_lists, strict=True)
            support = [list(map(share, *sentences_and_passages)) for sentences_and_passages in answers]
        return [
            {"least": min(values, default=0.0), "mean": sum(values) / max(1, len(values))}
            for values in support
        ]

    def share(sentence: str, near: Sequence[str]) -> float:
        sentence_words = content(sentence)
        return max(
            (len(sentence_words & content(text)) / len(sentence_words) for text in near if sentence_words),
            default=0.0,
        )

    def decide(numbers: dict[str, float]) -> str | None:
        if numbers["least"] < min_support:
            least = f"{support_name} {numbers['least']:.2f}"
            return f"a sentence without support in {knowledge}: {least} < {min_support:g}"
        return (
            None
            if numbers["mean"] >= min_mean
            else f"support in {knowledge} is {numbers['mean']:.2f} on average < {min_mean:g}"
        )

    files = {"knowledge": file_sha256(project.file(knowledge)), "model": identity, "embedder": embedder}
    return Filter(measure, decide, depends_on={"version": 1, "field": field, "passages": passages, **files})
