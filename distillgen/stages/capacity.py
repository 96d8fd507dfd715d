"""capacity: the bits of knowledge in a model, for each of its parameters (Allen-Zhu and Li 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distillgen.algorithms.capacity import bits_of_sets, bits_of_texts, most_bits_of_names
from distillgen.errors import ConfigError, did_you_mean
from distillgen.flow.measures import measures_of
from distillgen.flow.stage import BoundStage, CheckContext, Chunks, Job, Stage
from distillgen.inference.teacher import Teacher
from distillgen.inference.weights import model_path, parameters_of
from distillgen.project import Project
from distillgen.record import Record, dumps
from distillgen.stages._draw import Draw

WITH_FOLDER = ("transformers", "vllm")
"""The providers whose `model` can be a folder with weights."""

Choices: TypeAlias = Annotated[list[Annotated[int, Field(ge=1)] | str], Field(min_length=1)]
"""Numbers, or fields that the source draws, which stand for the number of their values, to multiply."""


class Sets(BaseModel):
    """The sets of strings that the values of attributes consist of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    strings: int = Field(ge=1, description="strings in the set of each attribute, the paper's D")
    choices: Choices = Field(description="what they were drawn from, T^L: [32, 32] for two of 32 letters")


class Capacity(Stage):
    """Measure the bits of knowledge for each parameter of a model that has learnt random facts.

    A fact is a value of an attribute of a person. Stages `score` before this one give the log-probabilities
    of names and values, and options of this one the number of texts that each was drawn from.
    `bits_per_parameter` is the paper's R, and `most_bits_per_parameter` its R^max, that of a model that knows
    every fact. R is not clipped: where a model is surer of wrong texts than a guess among all, it is below 0.

    `name_nats`, `value_nats` and `string_nats` are p1, p2 and p3: the mean negative log-probabilities of a
    name, of all values in a record, and of the first string of a value.

    Records pass at once and unchanged. Memory holds the numbers of each person and fact.
    """

    kind = "capacity"
    scope = "set"
    reads = (
        "the scores in `names`, `values` and `sets`, the fields `person` and `attribute`; the model's weights"
    )
    writes = "its measures, to `usage.json` and the report"

    model: str | None = Field(
        None, description="name of the model whose parameters are counted, in its folder"
    )
    parameters: int | None = Field(
        None, ge=1, description="number of parameters, where the pipeline does not have the model's folder"
    )
    person: str = Field(description="field with the name of the person")
    attribute: str | None = Field(
        None,
        description="field with the name of the attribute, where each attribute has a record of its own; "
        "default: a record holds all facts about a person",
    )
    names: dict[str, Choices] = Field(
        min_length=1,
        max_length=1,
        description="score of the name, with the number of names that people could have: {name.logprob: "
        "[first, last]} for fields that the source draws, {name.logprob: [32, 32]} for two of 32 letters",
    )
    values: dict[str, Choices] = Field(
        min_length=1, description="scores of values, each with the number of values that it could be"
    )
    sets: dict[str, Sets] = Field(
        {},
        description="scores of the first strings of values, where the model also learns what strings there "
        "are: {string.logprob: {strings: 64, choices: [32, 32]}}",
    )

    @model_validator(mode="after")
    def _counted(self) -> Capacity:
        if (self.model is None) == (self.parameters is None):
            raise ValueError(
                "give either 'model', whose parameters are counted, or their number, 'parameters'"
            )
        return self

    def models(self, project: Project) -> list[str]:
        """Return the name of the model."""
        return [self.model] if self.model else []

    def bind(self, context: CheckContext) -> BoundCapacity:
        """Raise ConfigError if a field, a score or a number is missing, or no parameters can be counted."""
        if self.model and (spec := context.able(self.model)).provider not in WITH_FOLDER:
            message = f"the parameters of '{self.model}' ({spec.provider}) cannot be counted"
            raise ConfigError(f"{message}; give their number, 'parameters', instead of 'model'")
        context.need(self.person, "'person'")
        if self.attribute:
            context.need(self.attribute, "'attribute'")
        fields = _drawn_values(context)
        sets = {score: sets.choices for score, sets in self.sets.items()}
        numbers = dict[str, dict[str, int]]()
        for option, lists in (("names", self.names), ("values", self.values), ("sets", sets)):
            context.need_scores(lists, f"'{option}'")
            numbers[option] = {n: math.prod(_number(f, fields) for f in lists[n]) for n in lists}
        models = self.models(context.project)
        return BoundCapacity(self, context, context.fields, models, numbers=numbers)


def _drawn_values(context: CheckContext) -> Mapping[str, Sequence[object]]:
    """Return the values of each field that the source draws."""
    draws = [getattr(bound.stage, "draw", None) for bound in context.stages]
    return next((draw.values(context.project) for draw in draws if isinstance(draw, Draw)), {})


def _number(factor: int | str, fields: Mapping[str, Sequence[object]]) -> int:
    """Return a number, or that of the values of a field. Raise ConfigError if they are not equally likely."""
    if isinstance(factor, int):
        return factor
    if factor not in fields:
        close = did_you_mean(factor, fields)
        raise ConfigError(f"the source draws no field '{factor}'{close}; give the number of its values")
    if len(set(map(dumps, fields[factor]))) < len(fields[factor]):
        remedy = "remove the second: the measure is for values that are equally likely"
        raise ConfigError(f"a value of the field '{factor}' stands twice; {remedy}")
    return len(fields[factor])


@dataclass(frozen=True)
class BoundCapacity(BoundStage):
    """The stage with its numbers."""

    stage: Capacity
    numbers: Mapping[str, Mapping[str, int]] = field(kw_only=True)
    """From how many texts that of each score was drawn, by the option that names the score."""

    async def run(self, chunks: Chunks, job: Job) -> Chunks:
        """Pass all records, and measure at the end."""
        facts = Facts(self.stage)
        async for chunk in chunks:
            for record in chunk:
                if not record.dropped:
                    facts.add(record)
            yield chunk
        figures: dict[str, float] = (
            {"records_without_scores": facts.without_scores} if facts.without_scores else {}
        )
        if facts.people:
            parameters = self.stage.parameters or _parameters(job.services.teachers[self.models[0]])
            figures |= facts.measured(self.numbers, parameters)
        job.services.measures.update(measures_of(figures))


def _parameters(teacher: Teacher) -> int:
    """Return the number of parameters of a model. Raise ConfigError if no folder has its weights."""
    folder = model_path(teacher.spec.model, teacher.services.root)
    count = parameters_of(folder) if folder else None
    if count is None:
        message = f"the parameters of '{teacher.name}' cannot be counted: '{teacher.spec.model}' is no folder"
        raise ConfigError(f"{message} with all weights of a model in safetensors; give 'parameters'")
    return count


class Facts:
    """The log-probabilities of names by person, and of values by person and attribute.

    One that several records have, such as the texts of a person, counts with the mean of their scores.
    """

    def __init__(self, stage: Capacity) -> None:
        self.stage = stage
        self.people: dict[str, list[float]] = {}
        self.facts: dict[tuple[str, str], list[list[float]]] = {}
        self.without_scores = 0

    def add(self, record: Record) -> None:
        """Add the scores of a record."""
        stage, scores = self.stage, record.scores
        names = [*stage.names, *stage.values, *stage.sets]
        if not all(name in scores for name in names):
            self.without_scores += 1
            return
        person = record.text(stage.person)
        attribute = record.text(stage.attribute) if stage.attribute else ""
        self.people.setdefault(person, []).append(scores[next(iter(stage.names))])
        self.facts.setdefault((person, attribute), []).append(
            [scores[n] for n in (*stage.values, *stage.sets)]
        )

    def measured(self, numbers: Mapping[str, Mapping[str, int]], parameters: int) -> dict[str, float]:
        """Return the measures, from the numbers of choices by option and score, and that of parameters."""
        stage, width = self.stage, len(self.stage.values)
        names = [_mean(logprobs) for logprobs in self.people.values()]
        rows = [[_mean(column) for column in zip(*scores, strict=True)] for scores in self.facts.values()]
        columns = [*zip(*rows, strict=True)]
        attributes = len({attribute for _, attribute in self.facts})
        ((_, choices),) = numbers["names"].items()
        bits, most = bits_of_texts(choices, names), most_bits_of_names(choices, len(names))
        for choices, logprobs in zip(numbers["values"].values(), columns[:width], strict=True):
            bits += bits_of_texts(choices, logprobs)
            most += bits_of_texts(choices, [0.0] * len(rows))
        for (score, choices), logprobs in zip(numbers["sets"].items(), columns[width:], strict=True):
            size = attributes, stage.sets[score].strings, choices
            bits, most = bits + bits_of_sets(*size, logprobs), most + bits_of_sets(*size, [0.0])
        figures = {"bits_per_parameter": bits / parameters, "most_bits_per_parameter": most / parameters}
        figures |= {"name_nats": -_mean(names), "value_nats": -sum(map(_mean, columns[:width]))}
        figures |= {"string_nats": -_mean([*map(_mean, columns[width:])])} if stage.sets else {}
        return figures | {"people": len(names), "facts": len(rows) * width, "parameters": parameters}


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)
