"""The values of templates: what a missing field, a null and a value without a text are in Jinja's sandbox."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

import jinja2
from jinja2 import StrictUndefined, UndefinedError
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from distillgen.text.words import rename

MAX_TEXT = 10_000_000  # characters of the longest result of an expression
OF_TEXTS = (
    "capitalize",
    "center",
    "e",
    "escape",
    "forceescape",
    "format",
    "indent",
    "lower",
    "replace",
    "safe",
    "string",
    "striptags",
    "title",
    "trim",
    "truncate",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
)
"""Jinja's filters that would write any value as Python writes it."""


class NullError(UndefinedError):
    """An expression reads a value that is null."""


class Missing(StrictUndefined):
    """A missing field. Its use is an error with its name."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return self._undefined_hint
        if self._undefined_obj is missing:
            return f"there is no field '{self._undefined_name}' in the row"
        return f"there is no {self._undefined_name!r} in {_kind(self._undefined_obj)}"


class Null(Missing):
    """A field that is null. It is false, equals none, and takes a default; writing it is an error."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        return f"'{self._undefined_name}' is null"

    def __bool__(self) -> bool:  # type: ignore[override]
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return other is None or isinstance(other, Null)

    def __ne__(self, other: object) -> bool:  # type: ignore[override]
        return not self == other

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(None)


def _present(value: Any, name: str) -> Any:
    """Return a value; null as a Null, which has the field's name."""
    return Null(name=name, exc=NullError) if value is None else value


def _as_text(value: Any, name: str) -> str:
    """Return the text of a value that a template writes. Raise UndefinedError if it has none."""
    if type(value) is str or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | date | time | Decimal | jinja2.Undefined):
        return str(value)  # raises UndefinedError if it is undefined
    subject = name if " " in name else f"'{name}'"
    if value is None:
        raise NullError(f"{subject} is null")
    if callable(value):
        raise UndefinedError(f"{subject} is no value of the row")
    expression = name if " " not in name else "…"
    remedy = f"write its parts, {{{{ {expression} | join(', ') }}}}, or {{{{ {expression} | json }}}}"
    raise UndefinedError(f"{subject} is {_kind(value)}, which has no text of its own: {remedy}")


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    return "a text" if isinstance(value, str) else "a number" if isinstance(value, int | float) else "a list"


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["*", "**", "%"])
    functions: dict[str, Any]
    """The functions that a template can call, such as range and namespace."""

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        size = max((len(side) for side in (left, right) if isinstance(side, (str, list, tuple))), default=0)
        times = max((side for side in (left, right) if isinstance(side, int)), default=0)
        if (
            operator == "*"
            and size * times > MAX_TEXT
            or (operator == "**" and isinstance(right, int) and right > 64)
        ):
            raise SecurityError("the expression makes too large a value")
        if operator == "%" and isinstance(left, str):
            right = tuple(_part(part) for part in right) if isinstance(right, tuple) else _part(right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(getattr(obj, "__self__", None), str) and obj.__name__ == "join":
            args = tuple([_as_text(part, "a part") for part in parts] for parts in args)
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return `format` or `format_map` of a text, which writes each part as a template writes it."""
        confined = super().wrap_str_format(value)
        if confined is None:
            return None

        def formatted(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format_map":
                args = tuple({name: _part(part) for name, part in parts.items()} for parts in args)
            else:
                args, kwargs = tuple(map(_part, args)), {name: _part(part) for name, part in kwargs.items()}
            return confined(*args, **kwargs)

        return formatted

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return a part of a value: an item of a list or mapping, never a method of that name."""
        if isinstance(obj, Context):
            return _present(obj.resolve(argument), argument)
        if not isinstance(obj, str | list | tuple | Mapping | int | float):
            return super().getitem(obj, argument)
        try:
            value = obj[argument]  # type: ignore[index]
        except (LookupError, TypeError):
            return self.undefined(obj=obj, name=argument)
        return _present(value, str(argument))


def _part(part: Any, name: str = "a part") -> Any:
    """Return a part of a text: a number unchanged, for formatting, and any other value as text."""
    return part if isinstance(part, int | float) and not isinstance(part, bool) else _as_text(part, name)


def _of_texts(convert: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter of Jinja that receives only texts and numbers."""
    context = 1 if hasattr(convert, "jinja_pass_arg") else 0

    @functools.wraps(convert)
    def convert_parts(*args: Any, **kwargs: Any) -> Any:
        parts = [
            part if isinstance(part, bool) and i else _part(part) for i, part in enumerate(args[context:])
        ]
        return convert(*args[:context], *parts, **kwargs)

    return convert_parts


def _joined(values: Any, separator: str = "", attribute: Any = None) -> str:
    """Jinja's `join`, but each part is written as a template writes it."""
    parts = (ENVIRONMENT.getitem(value, attribute) if attribute is not None else value for value in values)
    return _as_text(separator, "a separator").join(_as_text(part, "a part") for part in parts)


def _as_json(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON, with the keys in their order."""
    return json.dumps(
        value, ensure_ascii=False, indent=indent, default=lambda other: _as_text(other, "a part")
    )


ENVIRONMENT = _Environment(undefined=Missing)
# without globals, no function of Jinja takes the place of a missing field
ENVIRONMENT.functions, ENVIRONMENT.globals = dict(ENVIRONMENT.globals), {}
ENVIRONMENT.filters["rename"] = rename
ENVIRONMENT.filters |= {name: _of_texts(ENVIRONMENT.filters[name]) for name in OF_TEXTS}
ENVIRONMENT.filters |= {"join": _joined, "json": _as_json, "_present": _present, "_part": _part}
ENVIRONMENT.filters["_as_text"] = _as_text
ENVIRONMENT.tests["none"] = lambda value: value is None or isinstance(value, Null)
