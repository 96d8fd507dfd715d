"""A model compares two answers in both orders (Zheng et al. 2023, Judging LLM-as-a-Judge, sections 3.1 and
3.4).
"""

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

VERDICTS = {"first": 1.0, "second": -1.0, "neither": 0.0}


def preferred(
    *,
    model: ModelName,
    rubric: str,
    field: FieldName = "answer",
    over: FieldName,
    fields: list[FieldName] | None = None,
    keep_ties: bool = False,
    images: list[FieldName] | None = None,
    audio: list[FieldName] | None = None,
    prompt: PromptName = "judge/pair",
    project: Project,
) -> Filter:
    """Drop records unless a model prefers `field` to the field `over` in both orders. Costs two requests a
    record.

    `over` holds another answer or a reference; the model also sees `fields`, such as the question. A verdict
    that changes with the order counts as a tie. Measures the preference (1, -1, or 0 for a tie) and the
    verdict in each order. For the run, also measures the share of verdicts that change, and the share for the
    text shown first.

    Options:
        model: the model that compares, one of the pipeline's `models`
        rubric: describes a better answer
        field: the answer that must be preferred
        over: the field with the other answer, or a reference
        fields: fields shown beside the answers, such as the question
        keep_ties: whether a tie is kept
        images: fields with pictures that the model sees
        audio: fields with sounds, in the same way
        prompt: the prompt that asks for the comparison
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
        return [compare(verdict(one), -verdict(other)) for ((one,), (other,)) in answers]

    def verdict(completion: Completion) -> float:
        (answer,) = judge_prompt.form.parse(completion.text)
        return VERDICTS[answer["better"]]

    def compare(shown_first: float, shown_second: float) -> dict[str, float]:
        agreed = shown_first if shown_first == shown_second else 0.0
        return {"preference": agreed, "shown_first": shown_first, "shown_second": shown_second}

    def decide(numbers: dict[str, float]) -> str | None:
        if numbers["preference"] < 0:
            return f"the {over} is preferred in both orders"
        return None if numbers["preference"] or keep_ties else f"not preferred to the {over} in both orders"

    def over_run(numbers: Iterable[Mapping[str, float]]) -> dict[str, float]:
        count = changed = first = second = 0
        for n in numbers:
            count += 1
            changed += n["shown_first"] != n["shown_second"]
            first += (n["shown_first"] > 0) + (n["shown_second"] < 0)
            second += (n["shown_first"] < 0) + (n["shown_second"] > 0)
        return {
            "share of verdicts that change with the order": changed / max(1, count),
            "share of verdicts for the text shown first": first / max(1, first + second),
        }

    settings = {
        "version": 1,
        "prompt": judge_prompt.sha256,
        "rubric": rubric,
        "fields": [field, over, fields],
    } | media.options
    return Filter(
        measure, decide, asks=asks, depends_on=settings, media=judge_prompt.media, over_run=over_run
    )
