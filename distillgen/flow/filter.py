"""The contract of filters, and the list of filters in a pipeline."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from distillgen.errors import ConfigError, did_you_mean
from distillgen.inference.request import Request
from distillgen.located_yaml import NAME
from distillgen.record import Record

Number: TypeAlias = float | Mapping[str, float]
"""What a measure gives for a record: a number, or a few named ones."""


Measured: TypeAlias = Sequence[Number] | Awaitable[Sequence[Number]]


@dataclass(frozen=True)
class Filter:
    """A filter: `measure` takes records and gives a number (or a few named ones) for each; `decide` takes a record's
    number and gives None to keep it, or the reason to drop it.

    `asks` gives the requests to put to models about a record, each with the name of one of the pipeline's models as its
    `model`; `measure` then takes, besides the records, a list for each of the completions of each of its requests, and
    raises Unparsable for an answer that it cannot use.
    `depends_on` names what a costly measure depends on besides the record, the models that it asks and the filter's file with
    the project files that this imports: then its numbers are kept in the ledger, and a changed threshold measures nothing
    again. Where it asks nobody, it runs in a thread, beside whoever is being asked and the filters before it.
    `whole_set` says that `measure` compares records with those before them: it sees them once, in order.
    `together` says that records which follow each other belong together where it gives the same for them, as `siblings`
    does: `measure` takes the records of one such group, whole, and no others.
    `over_run` says what the numbers of all records of a run show together, such as a judge's bias: figures under words
    that a person understands, for the report and usage.json.
    """

    measure: Callable[..., Measured]
    decide: Callable[[Any], str | None]
    asks: Callable[[Record], Sequence[Request]] | None = None
    depends_on: Mapping[str, Any] | None = None
    whole_set: bool = False
    together: Callable[[Record], Any] | None = None
    over_run: Callable[[Iterable[Any]], Mapping[str, float]] | None = None

    def __post_init__(self) -> None:
        if self.together and (self.asks or self.whole_set):
            raise ValueError(
                "a filter that measures records together neither asks about each of them nor sees the whole set"
            )


def siblings(by: Sequence[str] | None = None) -> Callable[[Record], Any]:
    """For `together`: the answers to one request, that is records of the same parent; or those with the same fields `by`."""
    if by is not None:
        return lambda record: [record.fields.get(name) for name in by]
    return lambda record: record.parents[0] if record.parents else record.id


def described(factory: Callable[..., Filter]) -> tuple[str, dict[str, str]]:
    """A factory's docstring up to its options, and each option's description: the lines `name: text` below 'Options:'."""
    about, _, listed = (inspect.getdoc(factory) or "").partition("\nOptions:\n")
    options = re.finditer(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", listed, re.MULTILINE)
    return about.strip(), {option[1]: " ".join(option[2].split()) for option in options}


def options_of(factory: Callable[..., Filter]) -> type[BaseModel]:
    """A filter factory's keyword-only options, as a model that checks them; `project` is no option but what it is given."""
    hints, (about, descriptions) = option_types(factory), described(factory)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if name == "project":
            continue
        if parameter.kind is not parameter.KEYWORD_ONLY:
            file = inspect.getsourcefile(factory)
            raise ConfigError(
                f"'{name}' must be keyword-only: def {factory.__name__}(*, {name}: …)", path=file
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints.get(name, Any), Field(default, description=descriptions.get(name)))
    if unknown := [name for name in descriptions if name not in fields]:
        message = (
            f"the docstring describes '{unknown[0]}', which is no option{did_you_mean(unknown[0], fields)}"
        )
        raise ConfigError(message, path=inspect.getsourcefile(factory))
    forbid = ConfigDict(extra="forbid", frozen=True)
    return create_model(factory.__name__, __config__=forbid, __doc__=about, **fields)


def option_types(factory: Callable[..., Filter]) -> dict[str, Any]:
    """The types of a factory's options. Raises ConfigError where one names what the file does not hold when it runs."""
    try:
        return get_type_hints(factory, include_extras=True)
    except NameError as error:
        remedy = "import it outside of 'if TYPE_CHECKING'"
        path, line = inspect.getsourcefile(factory), factory.__code__.co_firstlineno
        raise ConfigError(
            f"the types of its options cannot be read: {error}; {remedy}", path=path, line=line
        ) from error


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
