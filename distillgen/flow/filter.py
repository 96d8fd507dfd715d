"""The contract of filters, and the list of filters in a pipeline."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, cast, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from distillgen.errors import ConfigError, did_you_mean
from distillgen.inference.request import Request
from distillgen.located_yaml import NAME
from distillgen.prompting.media import NO_MEDIA, Media
from distillgen.record import Record

Number: TypeAlias = float | Mapping[str, float]
"""The measurement of a record: one number, or a few named ones."""


Measured: TypeAlias = Sequence[Number] | Awaitable[Sequence[Number]]


@dataclass(frozen=True)
class Filter:
    """A filter: `measure` returns a number, or a few named ones, for each record; `decide` judges a number.

    `decide` returns None to keep the record, or the reason to drop it.
    """

    measure: Callable[..., Measured]
    decide: Callable[[Any], str | None]
    asks: Callable[[Record], Sequence[Request]] | None = None
    """Returns the requests about a record, each with the name of one of the pipeline's models as its `model`.

    `measure` then also takes, for each record, the completions of each of its requests. It raises Unparsable
    for an answer that it cannot use.
    """
    depends_on: Mapping[str, Any] | None = None
    """For a costly measure, everything that its numbers depend on besides the record, the models and the
    filter's code.

    The ledger keeps the numbers, so that a changed threshold measures nothing again. An edited filter file,
    or project file that it imports, measures anew. A costly measure that asks no model runs in a thread.
    """
    whole_set: bool = False
    """Whether `measure` compares records with earlier ones: it sees each record once, in order. It runs in a
    thread, which an exception ends if the run is stopped: so it writes no file.
    """
    waits: Callable[[Sequence[Record], Path], bool] | None = None
    """For a measure of the whole set: takes the records of each call of `measure`, before that call, and a
    folder for temporary files. Returns whether the call is to come later, after more records; the last ones
    never wait. Records that wait are on disk.
    """
    begin: Callable[[Iterable[Record]], None] | None = None
    """Takes, before the first record of a round, the records of the loop's pool and those that earlier rounds
    kept. A filter that has it works only inside `rounds`.
    """
    together: Callable[[Record], Any] | None = None
    """Returns the group of a record. `measure` gets the adjacent records of one group at a time; see
    `siblings`.
    """
    shows: Callable[[Record], str] | None = None
    """Returns the values that a record was dropped for; they follow the reason after a colon."""
    media: Media = NO_MEDIA
    """The fields whose pictures and sounds its requests show: its models must take them."""
    over_run: Callable[[Iterable[Any]], Mapping[str, float]] | None = None
    """Returns figures over the numbers of all records of a run, such as a judge's bias, by their titles."""
    metric: str = ""
    """The name of the number, from 0 to 1, that `evaluate` reports of an answer: one of the few that
    `measure` names. It leaves out an answer without this number. Default: 1 if `decide` keeps it, or else 0.
    """

    def __post_init__(self) -> None:
        if self.begin and not self.whole_set:
            raise ValueError("'begin' is for a filter of the whole set")
        if self.waits and not self.whole_set:
            raise ValueError("'waits' is for a filter of the whole set")
        if self.together and (self.asks or self.whole_set):
            raise ValueError("'together' excludes 'asks' and 'whole_set': a filter has one of the three")


def siblings(by: Sequence[str] | None = None) -> Callable[[Record], Any]:
    """Return a function for `together`: it groups records by their first parent, or by the fields `by`."""
    if by is not None:
        return lambda record: [record.fields.get(name) for name in by]
    return lambda record: record.parents[0] if record.parents else record.id


def factory_of(name: str, value: Any) -> Callable[..., Filter]:
    """Return the factory of a filter that Python code hands over. Raise ConfigError.

    `value` is a Filter, a function of a record (see `of_records`), or a factory as in a filter's file, whose
    options are keyword-only.
    """
    if isinstance(value, Filter):
        if value.whole_set:
            remedy = f"give a function that makes a new one: filters={{'{name}': lambda: Filter(…)}}"
            raise ConfigError(f"filter '{name}' keeps what it has seen, from one run to the next; {remedy}")
        return lambda: value
    if not callable(value):
        raise ConfigError(f"filter '{name}' is {type(value).__name__}: give a function, or a Filter")
    parameters = inspect.signature(value).parameters.values()
    if any(parameter.kind is not parameter.KEYWORD_ONLY for parameter in parameters):
        return lambda: of_records(name, value)
    return cast(Callable[..., Filter], value)


def of_records(name: str, function: Callable[[Record], object]) -> Filter:
    """Return the filter of a function that gives, for a record, True or None to keep it, False or the reason
    to drop it. Its score is 1 or 0.
    """

    def reason(record: Record) -> str:
        verdict = function(record)
        verdict = verdict.item() if hasattr(verdict, "item") else verdict  # of NumPy
        if isinstance(verdict, str) and verdict:
            return verdict
        if verdict is not None and not isinstance(verdict, bool):
            raise TypeError(f"it gives {verdict!r}; True or None keeps a record, False or a reason drops it")
        return f"{name} is false" if verdict is False else ""

    return Filter(
        lambda records: [float(not reason(record)) for record in records],
        lambda kept: None if kept else "refused",
        shows=reason,
    )


def described(factory: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """Return a factory's docstring without its options, and the description of each option."""
    about, _, options_text = (inspect.getdoc(factory) or "").partition("\nOptions:\n")
    options = re.finditer(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", options_text, re.MULTILINE)
    return about.strip(), {option[1]: " ".join(option[2].split()) for option in options}


def options_of(factory: Callable[..., Filter]) -> type[BaseModel]:
    """Return a pydantic model of a factory's options, without `project`.

    Raise ConfigError for a parameter that is not keyword-only.
    """
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
    with warnings.catch_warnings():  # an option may have the name of a method of BaseModel, such as schema
        warnings.filterwarnings("ignore", message="Field name .* shadows an attribute")
        return create_model(factory.__name__, __config__=forbid, __doc__=about, **fields)


def option_types(factory: Callable[..., Filter]) -> dict[str, Any]:
    """Return the types of a factory's options. Raise ConfigError if a type is not defined at run time."""
    try:
        return get_type_hints(factory, include_extras=True)
    except NameError as error:
        remedy = "import it outside of 'if TYPE_CHECKING'"
        path, line = inspect.getsourcefile(factory), factory.__code__.co_firstlineno
        raise ConfigError(
            f"the types of its options cannot be read: {error}; {remedy}", path=path, line=line
        ) from error


class Entry(BaseModel):
    """A filter of a stage's list: its name, its label and its options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filter: str
    label: str
    options: dict[str, Any] = Field(default_factory=dict)


def _entries(value: Any) -> Any:
    """Return the entries of `[name, name: {option: value}]`."""
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
            raise ValueError(f"two filters have the name '{label}'; rename one: {name}: {{name: …}}")
        entries.append(Entry(filter=name, label=label, options=options))
    return entries


Entries: TypeAlias = Annotated[
    list[Entry], BeforeValidator(_entries, json_schema_input_type=list[str | dict[str, Any]]), "filters"
]
"""Filters as a pipeline lists them."""
