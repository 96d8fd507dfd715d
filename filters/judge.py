"""A model grades records by a rubric (Zheng et al. 2023, Judging LLM-as-a-Judge, section 3.1: single answer
grading).
"""

from collections.abc import Iterable, Sequence
from statistics import pstdev

from distillgen import (
    Completion,
    FieldName,
    Filter,
    Media,
    ModelName,
    Project,
    Prompt,
    PromptName,
    Record,
    Request,
)
from distillgen.flow.grading import grade


def judge(
    *,
    model: ModelName,
    rubric: str,
    fields: list[FieldName],
    min_score: float = 7.0,
    images: list[FieldName] | None = None,
    audio: list[FieldName] | None = None,
    prompt: PromptName = "judge/rubric",
    project: Project,
) -> Filter:
    """Drop records that a model grades below `min_score` of 10. Costs one request a record.

    To judge facts, use the prompt `judge/factual` and name the source first among the `fields`.

    Options:
        model: the model that grades, one of the pipeline's `models`
        rubric: describes a good record
        fields: the fields that the model sees
        min_score: smallest grade, from 1 to 10, of a kept record
        images: fields with pictures that the model sees
        audio: fields with sounds, in the same way
        prompt: the prompt that asks for the grade
    """
    media = Media(tuple(images or ()), tuple(audio or ()))
    judge_prompt = Prompt.load(prompt, project, media=media)

    def asks(record: Record) -> list[Request]:
        return [
            judge_prompt.request(model, {"rubric": rubric, "fields": record.values(fields)}, record.fields)
        ]

    def measure(records: Sequence[Record], answers: Sequence[Sequence[Sequence[Completion]]]) -> list[float]:
        return [grade(judge_prompt, completion) for ((completion,),) in answers]

    def decide(score: float) -> str | None:
        return None if score >= min_score else f"graded {score:.0f} of 10 < {min_score:g}"

    def over_run(grades: Iterable[float]) -> dict[str, float]:
        return {"standard deviation of the grades": pstdev(grades)}

    settings = {
        "version": 1,
        "prompt": judge_prompt.sha256,
        "rubric": rubric,
        "fields": fields,
    } | media.options
    return Filter(
        measure, decide, asks=asks, depends_on=settings, media=judge_prompt.media, over_run=over_run
    )
