"""Measures: numbers that a stage computes over all its records, such as the accuracy of a student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

LAST_ROUND = ", last round"


class Measure(NamedTuple):
    """The key of a measured number: the metric, and its stage, model and group."""

    metric: str
    stage: str = ""
    """The stage that measured it: "" for the stage itself, `loop.stage` for a stage inside a loop."""
    model: str = ""
    """The model that was evaluated; empty for a metric of records."""
    group: str | None = None
    """The items' value of the field `by`; None for a measure of all items."""
    last_round: bool = False
    """Whether it is a measure of the last round of a loop, which the loop reports as its own."""

    @property
    def title(self) -> str:
        """The measure as people write it, such as `evaluate.student.exact in sentiment, last round`."""
        name = ".".join(filter(None, (self.stage, self.model, self.metric)))
        group = "" if self.group is None else f" in {self.group}"
        return f"{name}{group}{LAST_ROUND if self.last_round else ''}"

    def of_stage(self, name: str) -> Measure:
        """Return the measure of the stage `name` as another stage sees it."""
        return self._replace(stage=f"{name}.{self.stage}" if self.stage else name)


Measures: TypeAlias = dict[Measure, float]


def measures_of(values: Mapping[str, float]) -> Measures:
    """Return measures without model and group, from numbers by metric."""
    return {Measure(metric): value for metric, value in values.items()}


def by_title(measures: Mapping[Measure, float]) -> dict[str, float]:
    """Return the numbers under their titles, for files and pages that people read."""
    return {measure.title: value for measure, value in measures.items()}
