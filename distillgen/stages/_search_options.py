"""The options of the stage `search`, and its stages with choices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from distillgen.errors import ConfigError
from distillgen.flow.stage import BoundStage, CheckContext, Stage, flat
from distillgen.flow.stage_list import bind_stages, read_stages
from distillgen.located_yaml import Places
from distillgen.record import VALIDATION, dumps
from distillgen.stages._choices import with_choices
from distillgen.stages._proposals import Choices, Strategy
from distillgen.training.score import ScoreEntry, entry_of

USD = "usd"


class SearchOptions(Stage):
    """The options of `search`: the stages, their choices, and how the best is found."""

    stages: list[dict[str, Any]] = Field(
        min_length=1, description="stages of a trial, as in a pipeline, without a source"
    )
    space: dict[str, list[Any]] = Field(
        min_length=1,
        description="choices by option: {train.learning_rate: [0.001, 0.003]}; the path begins with the name "
        "of a stage, and in a list goes on with a position or the name of an entry",
    )
    by: str | dict[str, dict[str, Any] | None] = Field(
        description="measure that decides, such as evaluate.student.exact, or a score of untrained students: "
        "a file in scores/, with its options if need be"
    )
    best: Literal["highest", "lowest"] = Field("highest", description="the value that is the best")
    within: dict[str, float] = Field(
        {},
        description="most that a trial may have of a score, as {parameters: 20000}; usd: most money of all "
        "trials together",
    )
    compare: list[str | dict[str, dict[str, Any] | None]] = Field(
        [], description="further scores that are recorded with each trial, for comparison"
    )
    strategy: Strategy = Field(
        "all",
        description="how choices are proposed: all combinations; at random; or by optuna: tpe, "
        "tree-structured Parzen estimators, or evolution, the genetic algorithm NSGA-II",
    )
    n: int = Field(64, ge=1, description="largest number of trials")
    keep: Literal[0, 1] = Field(1, description="1: the best trial's records and student; 0: only its figures")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the strategy, and of scores")
    arms: dict[str, dict[str, Any]] = Field(
        {},
        exclude=True,  # an arm is a stage of its own, and changes nothing in this one
        description="further searches by name, each with the options in which it differs from this one",
    )

    @field_validator("space")
    @classmethod
    def _with_choices(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for path, choices in value.items():
            if len(choices) < 1 or len({dumps(choice) for choice in choices}) < len(choices):
                raise ValueError(f"space: '{path}' needs choices that differ")
        return value

    @property
    def suffix(self) -> str:
        """How the names of what the search leaves end: in nothing, or in `-` and the stage's name."""
        return "" if self.name == self.kind else f"-{self.name.removeprefix(f'{self.kind}-')}"

    @property
    def measure(self) -> str:
        """The measure that decides; "" if a score does."""
        return self.by if isinstance(self.by, str) and "." in self.by else ""

    def entries(self) -> list[ScoreEntry]:
        """Return the scores that each trial has: the one that decides first, then those of `within`."""
        deciding = [] if self.measure else [self.by]
        entries = [entry_of(value) for value in [*deciding, *self.compare]]
        labels = [entry.label for entry in entries]
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise ConfigError(f"two scores have the name '{twice}'; name one of them: {{name: …}}")
        return entries + [entry_of(name) for name in self.within if name != USD and name not in labels]

    def variant(self, context: CheckContext, choices: Choices) -> tuple[BoundStage, ...]:
        """Return the stages with choices, bound. Raise ConfigError if they do not fit."""
        stages = with_choices(self.stages, choices)
        inner_names = {
            name
            for stage in read_stages(stages, Places(), context.project)
            for name in stage.makes(Path(), context.project)
        }
        outer_models = {name: spec for name, spec in context.models.items() if name not in inner_names}
        inside = replace(
            context,
            models=outer_models,
            trained=context.trained - inner_names,
            loops=(*context.loops, context),
        )
        bound_stages = bind_stages(stages, Places(), inside, loop=self.name)
        for bound in flat(bound_stages):
            items = bound.stage.evaluation_set(context.project)
            if items and items.file is None and items.part != VALIDATION and not items.about_training:
                raise ConfigError(
                    f"stage '{bound.name}' asks about test records, and the search would choose by them; "
                    "give it split: validation, or 'data', a file of other items"
                )
        return bound_stages
