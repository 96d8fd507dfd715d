"""A model compares two answers, in both orders (Zheng et al. 2023, Judging LLM-as-a-Judge, sections 3.1 and 3.4)."""

from collections.abc import Iterable, Mapping, Sequence

from distillgen import Completion, FieldName, Filter, ModelName, Project, Prompt, PromptName, Record, Request

VERDICTS = {"first": 1.0, "second": -1.0, "neither": 0.0}


def preferred(
    *,
    model: ModelName,
    rubric: str,
    field: FieldName = "answer",
    over: FieldName,
    fields: list[FieldName] | None = None,
    keep_ties: bool = False,
    prompt: PromptName = "judge/pair",
    project: Project,
) -> Filter:
    """Drop records of which a model does not prefer `field` to the field `over`, in both orders.

    `over` is another answer or a reference; `fields` are shown besides, such as the question. A verdict that changes with
    the order is a tie. Measures the preference (1, -1, or 0 for a tie) and the verdict in each order; for the run, how many
    verdicts change, and how many favour what is shown first. Costs two requests a record.

    Options:
        model: the model that compares, one of the pipeline's `models`
        rubric: what makes an answer better, in words
        field: the answer that must be preferred
        over: the field with the other answer, or a reference
        fields: fields shown beside the answers, such as the question
        keep_ties: whether a tie is kept
        prompt: the prompt that asks for the comparison
    """
    shown = Prompt.load(prompt, project)

    def asks(record: Record) -> list[Request]:
        context, both = record.values(fields or ()), record.values((field, over))
        return [
            request(context, both[first], both[second]) for first, second in ((field, over), (over, field))
        ]

    def request(context: Mapping[str, object], first: object, second: object) -> Request:
        given = {"rubric": rubric, "fields": context, "first": first, "second": second}
        return Request(
            model, shown.render(given), sampling=shown.front.sampling.given(), schema=shown.form.schema
        )

    def measure(
        records: Sequence[Record], answers: Sequence[Sequence[Sequence[Completion]]]
    ) -> list[dict[str, float]]:
        return [compare(verdict(one), -verdict(other)) for ((one,), (other,)) in answers]

    def verdict(completion: Completion) -> float:
        (found,) = shown.form.parse(completion.text)
        return VERDICTS[found["better"]]

    def compare(shown_first: float, shown_second: float) -> dict[str, float]:
        agreed = shown_first if shown_first == shown_second else 0.0
        return {"preference": agreed, "shown_first": shown_first, "shown_second": shown_second}

    def decide(found: dict[str, float]) -> str | None:
        if found["preference"] < 0:
            return f"the {over} is preferred in both orders"
        return None if found["preference"] or keep_ties else f"not preferred to the {over} in both orders"

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

    known = {"version": 1, "prompt": shown.sha256, "rubric": rubric, "fields": [field, over, fields]}
    return Filter(measure, decide, asks=asks, depends_on=known, over_run=over_run)
