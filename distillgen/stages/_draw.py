"""Rows that the program draws: the option `draw` of the stage source."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from distillgen.algorithms.random_order import keyed_permutation
from distillgen.errors import ConfigError, did_you_mean
from distillgen.project import Project, read_text
from distillgen.record import META, Record, digest, dumps, item_of


class Numbers(BaseModel):
    """The whole numbers from `from` to `to`, both included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: int = Field(alias="from", description="smallest number")
    last: int = Field(alias="to", description="largest number")


class Draw(BaseModel):
    """Rows of random values. A row depends on the seed and its number alone, so that more rows begin with
    the same ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    n: int = Field(ge=1, description="number of rows")
    fields: dict[str, list[Any] | str | Numbers] = Field(
        min_length=1,
        description="values of each field: a list; the name of a text file with one value a line; or "
        "{from: 1900, to: 2099}, whole numbers",
    )
    unique: list[str] = Field(
        [],
        description="fields that together differ in every row; each combination of their values is equally "
        "likely. In other fields, a value that stands twice is twice as likely",
    )

    @field_validator("fields", mode="before")
    @classmethod
    def _known_forms(cls, fields: Any) -> Any:
        """Refuse values of another form with one message, not with one for each form."""
        for name, values in fields.items() if isinstance(fields, dict) else ():
            if isinstance(values, list | str | Numbers):
                continue
            ends = {end: n for end, n in values.items() if type(n) is int} if isinstance(values, dict) else {}
            if ends.keys() != {"from", "to"} or len(values) > 2:
                raise ValueError(
                    f"'{name}' has values in no known form; give a list, the name of a text file, or "
                    "{from: 1, to: 9} with whole numbers"
                )
            if ends["from"] > ends["to"]:
                numbers = f"from {ends['from']} to {ends['to']}"
                raise ValueError(f"'{name}': no number lies {numbers}; exchange them")
        return fields

    def files(self, project: Project) -> dict[str, Path]:
        """Return the files of values, by name."""
        return {name: project.file(name) for name in self.fields.values() if isinstance(name, str)}

    def values(self, project: Project) -> dict[str, Sequence[Any]]:
        """Return the values of each field. Raise ConfigError if a field has none, or too few to be unique."""
        if META in self.fields:
            raise ConfigError(f"the field '{META}' is distillgen's own; give it another name")
        values = {name: _values(name, origin, project) for name, origin in self.fields.items()}
        for name in self.unique:
            if name not in values:
                raise ConfigError(f"'unique' names '{name}', which is not drawn{did_you_mean(name, values)}")
            if not isinstance(values[name], range):
                values[name] = [json.loads(text) for text in dict.fromkeys(map(dumps, values[name]))]
        most = math.prod(len(values[name]) for name in dict.fromkeys(self.unique))
        if self.unique and most < self.n:
            names = ", ".join(self.unique)
            message = f"{self.n:,} rows cannot differ in {names}: their values have {most:,} combinations"
            raise ConfigError(f"{message}; draw fewer rows, or give more values")
        return values

    def records(self, project: Project, seed: int) -> Iterator[Record]:
        """Yield the record of each row. Equal rows have different ids, and are one item."""
        values = self.values(project)
        unique = {name: values[name] for name in self.unique}
        permuted = keyed_permutation(
            math.prod(map(len, unique.values())), digest([seed, "draw", sorted(unique)])
        )
        for i in range(self.n):
            fields = {name: _drawn(options, [seed, name, i]) for name, options in values.items()}
            if unique:
                fields |= _combination(unique, permuted(i))
            place = f"draw:{i + 1}"
            yield Record(digest([place, fields]), fields, (), place, item=item_of(fields))


def _values(name: str, origin: list[Any] | str | Numbers, project: Project) -> Sequence[Any]:
    """Return the values of a field. Raise ConfigError if there are none."""
    if isinstance(origin, Numbers):
        return range(origin.first, origin.last + 1)
    if isinstance(origin, list):
        if not origin:
            raise ConfigError(f"the list of values for '{name}' is empty")
        return origin
    path = project.file(origin)
    if ".txt" not in path.suffixes:
        raise ConfigError(f"'{origin}' is no text file; put one value a line into a file that ends in .txt")
    lines = [line.strip() for line in read_text(path).split("\n")]
    values = [line for line in lines if line]
    if not values:
        raise ConfigError(f"the file '{origin}' has no values for '{name}'; put one a line")
    return values


def _drawn(values: Sequence[Any], key: list[Any]) -> Any:
    return values[int(digest(key, 24), 16) % len(values)]


def _combination(values: Mapping[str, Sequence[Any]], number: int) -> dict[str, Any]:
    """Return the combination of values with this number."""
    fields = {}
    for name, options in values.items():
        number, place = divmod(number, len(options))
        fields[name] = options[place]
    return fields
