"""A model grades records by a rubric (Zheng et al. 2023, Judging LLM-as-a-Judge, section 3.1: single answer
grading).
"""

from collections.abc import Iterable, Sequence
from statistics import pstdev

from distillgen import Completion, FieldName, Filter, ModelName, Project, Prompt, PromptName, Record, Request
from distillgen.flow.grading import grade


def judge(
    *,
    model: ModelName,
    rubric: str,
    fields: list[FieldName],
    min_score: float = 7.0,
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
        prompt: the prompt that asks for the grade
    """
    judge_prompt = Prompt.load(prompt, project)

    def asks(record: Record) -> list[Request]:
        return [judge_prompt.request(model, {"rubric": rubric, "fields": record.values(fields)})]

    def measure(records: Sequence[Record], answers: Sequence[Sequence[Sequence[Completion]]]) -> list[float]:
        return [grade(judge_prompt, completion) for ((completion,),) in answers]

    def decide(score: float) -> str | None:
        return None if score >= min_score else f"graded {score:.0f} of 10 < {min_score:g}"

    def over_run(grades: Iterable[float]) -> dict[str, float]:
        return {"standard deviation of the grades": pstdev(grades)}

    settings = {"version": 1, "prompt": judge_prompt.sha256, "rubric": rubric, "fields": fields}
    return Filter(measure, decide, asks=asks, depends_on=settings, over_run=over_run)
