"""A condition in the words of a template."""

from collections.abc import Sequence

from distillgen import Filter, Record, TemplateText
from distillgen.flow.condition import Condition
from distillgen.record import Unrenderable


def where(*, true: TemplateText) -> Filter:
    """Drop records for which a template's text is empty, false, no, 0 or null. Costs nothing.

    The reason shows the template and the values that it reads, such as `{{ gap > 1 }} is not true: gap 0.5`.

    Options:
        true: template, such as "{{ solved }}" or "{{ scores['judge'] >= 7 }}"
    """
    condition = Condition(true)

    def measure(records: Sequence[Record]) -> list[float]:
        return [_holds(condition, record) for record in records]

    def decide(holds: float) -> str | None:
        if holds > 0:
            return None
        return f"{condition.source} is not true" if holds == 0 else f"{condition.source} has no text"

    return Filter(measure, decide, shows=condition.values)


def _holds(condition: Condition, record: Record) -> float:
    """Return 1 or 0, or -1 for a record without a text."""
    try:
        return float(condition.holds(record))
    except Unrenderable:
        return -1.0
