"""A model grades two answers in one prompt, in both orders (Lion, Jiang et al. 2023, section 3.2)."""

from collections.abc import Iterable, Mapping, Sequence

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
from distillgen.prompting.output_form import Unparsable


def graded_pair(
    *,
    model: ModelName,
    rubric: str,
    field: FieldName = "answer",
    over: FieldName,
    fields: list[FieldName] | None = None,
    min_gap: float = 1.0,
    images: list[FieldName] | None = None,
    audio: list[FieldName] | None = None,
    prompt: PromptName = "judge/grades",
    project: Project,
) -> Filter:
    """Drop records unless a model grades `field` at least `min_gap` above `over`. Costs two requests
    a record.

    The model sees both answers, and `fields`, such as the question, and grades each from 1 to 10; then it
    grades them again in the other order. A grade is the mean over both orders, so that a model that favours
    a place gives no gap. Measures the two grades and the gap between them. For the run, also measures the
    mean lead of the answer shown first. To keep each pair in the direction that the model gave, use `mark`
    and the score `graded_pair.gap`.

    Options:
        model: the model that grades, one of the pipeline's `models`
        rubric: describes a good answer
        field: the answer that must have the higher grade
        over: the field with the other answer, or a reference
        fields: fields shown beside the answers, such as the question
        min_gap: smallest difference of the mean grades; 0 also keeps ties, below 0 also lower grades
        images: fields with pictures that the model sees
        audio: fields with sounds, in the same way
        prompt: the prompt that asks for the two grades
    """
    media = Media(tuple(images or ()), tuple(audio or ()))
    judge_prompt = Prompt.load(prompt, project, media=media)

    def asks(record: Record) -> list[Request]:
        values = {"rubric": rubric, "fields": record.values(fields or ())}
        answers = record.values((field, over))
        orders = ((answers[field], answers[over]), (answers[over], answers[field]))
        return [
            judge_prompt.request(model, {**values, "first": a, "second": b}, record.fields) for a, b in orders
        ]

    def measure(
        records: Sequence[Record], answers: Sequence[Sequence[Sequence[Completion]]]
    ) -> list[dict[str, float]]:
        return [compare(grades(one), grades(other)) for ((one,), (other,)) in answers]

    def grades(completion: Completion) -> tuple[float, float]:
        (answer,) = judge_prompt.form.parse(completion.text)
        for name in ("first", "second"):
            if not 1 <= answer[name] <= 10:
                raise Unparsable(f"the grade {answer[name]} is not between 1 and 10")
        return float(answer["first"]), float(answer["second"])

    def compare(in_order: tuple[float, float], in_reverse: tuple[float, float]) -> dict[str, float]:
        grade, other = (in_order[0] + in_reverse[1]) / 2, (in_order[1] + in_reverse[0]) / 2
        lead = (in_order[0] - in_order[1] + in_reverse[0] - in_reverse[1]) / 2
        return {"grade": grade, "over": other, "gap": grade - other, "first_lead": lead}

    def decide(numbers: Mapping[str, float]) -> str | None:
        graded = f"graded {numbers['grade']:g}, the {over} {numbers['over']:g}"
        return None if numbers["gap"] >= min_gap else f"{graded}: a gap of {numbers['gap']:g} < {min_gap:g}"

    def over_run(numbers: Iterable[Mapping[str, float]]) -> dict[str, float]:
        leads = [n["first_lead"] for n in numbers]
        return {"mean lead of the answer shown first": sum(leads) / max(1, len(leads))}

    settings = {
        "version": 1,
        "prompt": judge_prompt.sha256,
        "rubric": rubric,
        "fields": [field, over, fields],
    } | media.options
    return Filter(
        measure, decide, asks=asks, depends_on=settings, media=judge_prompt.media, over_run=over_run
    )
