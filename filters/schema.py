"""Fields of a given form: a JSON Schema (draft 2020-12) or a regular expression."""

import re
from collections.abc import Sequence
from typing import Any

from distillgen import FieldName, Filter, Record
from distillgen.answers.json_schema import validator
from distillgen.record import loads, text_of


def schema(
    *, field: FieldName = "response", json_schema: dict[str, Any] | None = None, pattern: str | None = None
) -> Filter:
    """Drop records whose field violates a JSON Schema, or does not fully match a regular expression. Costs
    nothing.

    A text is checked against the schema as it is; if that fails, it is parsed as JSON and checked again.
    Measures the number of violations.

    Options:
        field: the value to check
        json_schema: the JSON schema that it must satisfy
        pattern: the regular expression that the whole text must match
    """
    if (json_schema is None) == (pattern is None):
        raise ValueError("give either 'json_schema' or 'pattern'")
    try:
        form = re.compile(pattern, re.S) if pattern is not None else None
    except re.error as error:
        raise ValueError(f"'pattern' is not a regular expression: {error}") from error
    valid = validator(json_schema or {})

    def broken(value: Any) -> dict[str, float]:
        if form:
            return {"json": 1, "places": not form.fullmatch(text_of(value))}
        if isinstance(value, str) and not valid.is_valid(value):
            try:
                value = loads(value)
            except ValueError:
                return {"json": 0, "places": 1}
        return {"json": 1, "places": sum(1 for _ in valid.iter_errors(value))}

    def measure(records: Sequence[Record]) -> list[dict[str, float]]:
        return [broken(r.fields[field]) for r in records]

    def decide(numbers: dict[str, float]) -> str | None:
        if not numbers["json"]:
            return "not JSON"
        breaks = (
            "does not match the pattern" if form else f"breaks the schema at {numbers['places']:.0f} places"
        )
        return breaks if numbers["places"] else None

    return Filter(measure, decide)
