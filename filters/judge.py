"""A model grades a record by a rubric (Zheng et al. 2023, Judging LLM-as-a-Judge, section 3.1: single answer grading)."""

from collections.abc import Sequence

from distillgen import Completion, FieldName, Filter, ModelName, Project, Prompt, PromptName, Record, Request
from distillgen.forms import Unparsable


def judge(
    *, model: ModelName, rubric: str, fields: list[FieldName], min_score: float = 7.0, prompt: PromptName = "judge/rubric",
    project: Project,
) -> Filter:  # fmt: skip
    """Drop records that a model grades below `min_score`, of 10. Costs one request a record."""
    shown = Prompt.load(prompt, project)

    def asks(record: Record) -> list[Request]:
        values = {name: record.fields[name] for name in fields}
        messages = shown.render({"rubric": rubric, "fields": values})
        return [Request(model, messages, sampling=shown.front.sampling.given(), schema=shown.form.schema)]

    def measure(records: Sequence[Record], answers: Sequence[Sequence[Sequence[Completion]]]) -> list[float]:
        return [grade(completion) for ((completion,),) in answers]

    def grade(completion: Completion) -> float:
        (found,) = shown.form.parse(completion.text)
        if not 1 <= found["score"] <= 10:
            raise Unparsable(f"the grade {found['score']} is not between 1 and 10")
        return float(found["score"])

    return Filter(measure, lambda score: None if score >= min_score else f"graded {score:.0f} of 10 < {min_score:g}", asks=asks)
