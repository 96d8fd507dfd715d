"""Filters as a pipeline lists them."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from distillgen.located_yaml import NAME


class Entry(BaseModel):
    """One filter in a stage's list, as written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filter: str
    label: str
    options: dict[str, Any] = Field(default_factory=dict)


def _entries(value: Any) -> Any:
    """From `[name, name: {option: value}]`."""
    if not isinstance(value, list):
        raise ValueError("filters are a list: [brevity: {max_words: 12}, unique]")
    entries: list[Entry] = []
    for item in value:
        item = {item: None} if isinstance(item, str) else item
        if not isinstance(item, dict) or len(item) != 1:
            raise ValueError(f"each filter is a name, or a name with its options, not {item!r}")
        ((name, options),) = item.items()
        if not isinstance(options, dict | None):
            raise ValueError(f"the options of filter '{name}' are a mapping, not {options!r}")
        options = dict(options or {})
        label = str(options.pop("name", name))
        if label != name and not NAME.fullmatch(label):
            raise ValueError(f"filter name {label!r}: a name is made of letters, digits, '-' and '_'")
        if label in [entry.label for entry in entries]:
            raise ValueError(
                f"filter '{label}' stands twice; give one of them a name of its own: {name}: {{name: …}}"
            )
        entries.append(Entry(filter=name, label=label, options=options))
    return entries


Entries: TypeAlias = Annotated[
    list[Entry], BeforeValidator(_entries, json_schema_input_type=list[str | dict[str, Any]]), "filters"
]
"""Filters as a pipeline lists them."""
