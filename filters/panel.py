"""Several models grade a record by one rubric (Verga et al. 2024, Replacing Judges with Juries)."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
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
from distillgen.algorithms.agreement import krippendorff_alpha
from distillgen.flow.grading import grade


def panel(
    *,
    models: list[ModelName],
    rubric: str,
    fields: list[FieldName],
    min_score: float = 7.0,
    max_spread: float | None = None,
    images: list[FieldName] | None = None,
    audio: list[FieldName] | None = None,
    prompt: PromptName = "judge/rubric",
    project: Project,
) -> Filter:
    """Drop records that several models grade too low on average, or too differently. Costs a request a model.

    Measures each grade, their mean, and their spread: the highest minus the lowest. For the run, also
    measures Krippendorff's alpha and the standard deviation of each judge's grades.

    Options:
        models: the models that grade, of the pipeline's `models`
        rubric: describes a good record
        fields: the fields that the models see
        min_score: smallest mean grade, from 1 to 10, of a kept record
        max_spread: largest difference between the highest and the lowest grade; null: no bound
        images: fields with pictures that the models see
        audio: fields with sounds, in the same way
        prompt: the prompt that asks for the grade
    """
    if len(set(models)) < 2:
        raise ValueError("a panel needs two different 'models' at least")
    media = Media(tuple(images or ()), tuple(audio or ()))
    judge_prompt = Prompt.load(prompt, project, media=media)

    def asks(record: Record) -> list[Request]:
        request = judge_prompt.request(
            models[0], {"rubric": rubric, "fields": record.values(fields)}, record.fields
        )
        return [replace(request, model=name) for name in models]

    def measure(
        records: Sequence[Record], answers: Sequence[Sequence[Sequence[Completion]]]
    ) -> list[dict[str, float]]:
        return [
            compare([grade(judge_prompt, completion) for (completion,) in completions])
            for completions in answers
        ]

    def compare(grades: Sequence[float]) -> dict[str, float]:
        summary = {"mean": sum(grades) / len(grades), "spread": max(grades) - min(grades)}
        return {**{f"grade.{name}": value for name, value in zip(models, grades, strict=True)}, **summary}

    def decide(numbers: dict[str, float]) -> str | None:
        if max_spread is not None and numbers["spread"] > max_spread:
            return f"the judges are {numbers['spread']:.0f} apart > {max_spread:g}"
        return None if numbers["mean"] >= min_score else f"graded {numbers['mean']:.1f} of 10 < {min_score:g}"

    def over_run(numbers: Iterable[Mapping[str, float]]) -> dict[str, float]:
        grade_counts = Counter(tuple(n[f"grade.{name}"] for name in models) for n in numbers)
        deviations = {
            name: pstdev(grades[i] for grades in grade_counts.elements()) for i, name in enumerate(models)
        }
        return {
            "agreement of the judges (Krippendorff's alpha)": krippendorff_alpha(grade_counts.elements()),
            **{f"standard deviation of {name}'s grades": deviation for name, deviation in deviations.items()},
        }

    settings = {
        "version": 1,
        "prompt": judge_prompt.sha256,
        "rubric": rubric,
        "fields": fields,
        "models": models,
    } | media.options
    return Filter(
        measure, decide, asks=asks, depends_on=settings, media=judge_prompt.media, over_run=over_run
    )
