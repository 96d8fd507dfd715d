"""Several models grade a record by one rubric (Verga et al. 2024, Replacing Judges with Juries)."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import pstdev

from distillgen import Completion, FieldName, Filter, ModelName, Project, Prompt, PromptName, Record, Request
from distillgen.flow.grading import grade, krippendorff_alpha


def panel(
    *,
    models: list[ModelName],
    rubric: str,
    fields: list[FieldName],
    min_score: float = 7.0,
    max_spread: float | None = None,
    prompt: PromptName = "judge/rubric",
    project: Project,
) -> Filter:
    """Drop records that several models grade too low on average, or too differently.

    Measures each grade, their mean, and their spread: the highest less the lowest; for the run, Krippendorff's alpha, and
    how much each judge's grades vary. Costs a request a model.

    Options:
        models: the models that grade, of the pipeline's `models`
        rubric: what a good record is, in words
        fields: the fields that the models see
        min_score: smallest mean grade, from 1 to 10, of a kept record
        max_spread: largest difference between the highest and the lowest grade; null: no bound
        prompt: the prompt that asks for the grade
    """
    if len(set(models)) < 2:
        raise ValueError("a panel needs two different 'models' at least")
    shown = Prompt.load(prompt, project)

    def asks(record: Record) -> list[Request]:
        messages = shown.render({"rubric": rubric, "fields": record.values(fields)})
        return [
            Request(name, messages, sampling=shown.front.sampling.given(), schema=shown.form.schema)
            for name in models
        ]

    def measure(
        records: Sequence[Record], answers: Sequence[Sequence[Sequence[Completion]]]
    ) -> list[dict[str, float]]:
        return [compare([grade(shown, completion) for (completion,) in given]) for given in answers]

    def compare(grades: Sequence[float]) -> dict[str, float]:
        together = {"mean": sum(grades) / len(grades), "spread": max(grades) - min(grades)}
        return {**{f"grade.{name}": given for name, given in zip(models, grades, strict=True)}, **together}

    def decide(found: dict[str, float]) -> str | None:
        if max_spread is not None and found["spread"] > max_spread:
            return f"the judges are {found['spread']:.0f} apart > {max_spread:g}"
        return None if found["mean"] >= min_score else f"graded {found['mean']:.1f} of 10 < {min_score:g}"

    def over_run(numbers: Iterable[Mapping[str, float]]) -> dict[str, float]:
        given = Counter(tuple(n[f"grade.{name}"] for name in models) for n in numbers)
        each = {name: pstdev(grades[i] for grades in given.elements()) for i, name in enumerate(models)}
        return {
            "agreement of the judges (Krippendorff's alpha)": krippendorff_alpha(given.elements()),
            **{f"standard deviation of {name}'s grades": deviation for name, deviation in each.items()},
        }

    known = {"version": 1, "prompt": shown.sha256, "rubric": rubric, "fields": fields, "models": models}
    return Filter(measure, decide, asks=asks, depends_on=known, over_run=over_run)
