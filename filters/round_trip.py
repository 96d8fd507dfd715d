"""Answers that a model finds again without seeing them (roundtrip consistency, Alberti et al. 2019, section
2).
"""

from collections.abc import Mapping, Sequence
from typing import Any

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
from distillgen.answers.compare import token_f1
from distillgen.answers.final_answer import Kind, announced, final_answer
from distillgen.prompting.output_form import Unparsable


def round_trip(
    *,
    model: ModelName,
    shown: list[FieldName],
    field: FieldName = "answer",
    kind: Kind = "text",
    min_f1: float = 0.5,
    images: list[FieldName] | None = None,
    audio: list[FieldName] | None = None,
    prompt: PromptName = "round_trip/answer",
    project: Project,
) -> Filter:
    """Drop records whose `field` a model does not find again from the `shown` fields alone. Costs one request
    a record.

    Texts agree if their token F1 is at least `min_f1`; other kinds agree if the final answers are equal. To
    check the question instead, use `shown: [answer]`, `field: question` and `prompt: round_trip/question`.
    Measures whether there is an answer of the kind, and the agreement.

    Options:
        model: the model that answers again, one of the pipeline's `models`
        shown: the fields that the model sees
        field: the field that the model must find again
        kind: how the final answer is read: number, choice, boxed or text
        min_f1: smallest token F1 between texts that agree
        images: fields with pictures that the model sees, too
        audio: fields with sounds, in the same way
        prompt: the prompt that asks for the answer
    """
    media = Media(tuple(images or ()), tuple(audio or ()))
    answer_prompt = Prompt.load(prompt, project, media=media)

    def asks(record: Record) -> list[Request]:
        return [answer_prompt.request(model, {"fields": record.values(shown)}, record.fields)]

    def measure(
        records: Sequence[Record], answers: Sequence[Sequence[Sequence[Completion]]]
    ) -> list[dict[str, float]]:
        return [
            compare(r.text(field), completion.text)
            for r, ((completion,),) in zip(records, answers, strict=True)
        ]

    def compare(there: str, back: str) -> dict[str, float]:
        if not back.strip():
            raise Unparsable("the answer is empty")
        if kind == "text":
            f1 = max(token_f1(back, there), token_f1(announced(back) or back, announced(there) or there))
            return {"answered": True, "agreement": f1}
        own_answer, new_answer = final_answer(there, kind), final_answer(back, kind)
        return {
            "answered": own_answer is not None,
            "agreement": own_answer is not None and own_answer == new_answer,
        }

    def decide(numbers: Mapping[str, Any]) -> str | None:
        if not numbers["answered"]:
            return f"no {kind} in the {field}"
        if kind != "text":
            return None if numbers["agreement"] else f"the {field} was not found again"
        f1 = numbers["agreement"]
        return None if f1 >= min_f1 else f"F1 {f1:.2f} of the {field} with what was found again < {min_f1:g}"

    settings = {
        "version": 1,
        "prompt": answer_prompt.sha256,
        "fields": [field, shown],
        "kind": kind,
    } | media.options
    return Filter(measure, decide, asks=asks, depends_on=settings, media=answer_prompt.media)
