"""Templates that records fill: sandboxed, strict about what is missing, and exact about what becomes text.

A field that a row lacks, or that is null, is an error with the field's name, unless the template gives a default. A list or a
mapping has no text of its own: a template writes its parts, or says `| json`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeGuard

import jinja2
from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing
from jinja2.visitor import NodeTransformer

from distillgen.errors import ConfigError, did_you_mean
from distillgen.record import Unrenderable
from distillgen.text.words import rename

MAX_TEXT = 10_000_000  # characters that one expression in a template may make
_GUARDS = ("default", "d", "defined", "undefined", "none")
"""Filters and tests that ask whether a field is there at all."""
_OF_TEXTS = (
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
"""Jinja's filters that would write whatever they are given as Python does."""


class Missing(StrictUndefined):
    """What a row lacks: an error, with its name, for whatever would use it."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return self._undefined_hint
        if self._undefined_obj is missing:
            return f"there is no field '{self._undefined_name}' in the row"
        return f"there is no {self._undefined_name!r} in {_kind(self._undefined_obj)}"


class Null(Missing):
    """What a row gives as null. It is false, equals none, and takes a default; no text can be made of it."""

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
    """A value that is read: null as what remembers its name."""
    return Null(name=name) if value is None else value


def _written(value: Any, name: str) -> str:
    """The text of a value that a template writes."""
    if type(value) is str or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | date | time | Decimal | jinja2.Undefined):
        return str(value)  # raises where it is undefined
    shown = name if " " in name else f"'{name}'"
    if value is None:
        raise UndefinedError(f"{shown} is null")
    if callable(value):
        raise UndefinedError(f"{shown} is no value of the row")
    written = name if " " not in name else "…"
    remedy = f"write its parts, {{{{ {written} | join(', ') }}}}, or {{{{ {written} | json }}}}"
    raise UndefinedError(f"{shown} is {_kind(value)}, which has no text of its own: {remedy}")


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    return "a text" if isinstance(value, str) else "a number" if isinstance(value, int | float) else "a list"


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["*", "**", "%"])
    functions: dict[str, Any]
    """What a template can call: range, namespace and the like."""

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
            right = tuple(_told(part) for part in right) if isinstance(right, tuple) else _told(right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(getattr(obj, "__self__", None), str) and obj.__name__ == "join":
            args = tuple([_written(part, "a part") for part in parts] for parts in args)
        return super().call(context, obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """A text's `format` and `format_map`, which write each part as a template writes it."""
        confined = super().wrap_str_format(value)
        if confined is None:
            return None

        def written(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format_map":
                args = tuple({name: _told(part) for name, part in parts.items()} for parts in args)
            else:
                args, kwargs = tuple(map(_told, args)), {name: _told(part) for name, part in kwargs.items()}
            return confined(*args, **kwargs)

        return written

    def getitem(self, obj: Any, argument: Any) -> Any:
        """A part of a value: of data only what it holds, never a method that bears the name."""
        if isinstance(obj, Context):
            return _present(obj.resolve(argument), argument)
        if not isinstance(obj, str | list | tuple | Mapping | int | float):
            return super().getitem(obj, argument)
        try:
            value = obj[argument]  # type: ignore[index]
        except (LookupError, TypeError):
            return self.undefined(obj=obj, name=argument)
        return _present(value, str(argument))


def _told(part: Any, name: str = "a part") -> Any:
    """A part of a text that is put together: a number stays one, so that it can be given a form."""
    return part if isinstance(part, int | float) and not isinstance(part, bool) else _written(part, name)


def _of_texts(convert: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja's that is handed texts and numbers only."""
    context = 1 if hasattr(convert, "jinja_pass_arg") else 0

    @functools.wraps(convert)
    def checked(*args: Any, **kwargs: Any) -> Any:
        parts = [
            part if isinstance(part, bool) and i else _told(part) for i, part in enumerate(args[context:])
        ]
        return convert(*args[:context], *parts, **kwargs)

    return checked


def _joined(values: Any, separator: str = "", attribute: Any = None) -> str:
    """Jinja's `join`, which writes each part as a template writes it."""
    parts = (_ENVIRONMENT.getitem(value, attribute) if attribute is not None else value for value in values)
    return _written(separator, "a separator").join(_written(part, "a part") for part in parts)


def _as_json(value: Any, indent: int | None = None) -> str:
    """A value as JSON, in the order in which it was written."""
    return json.dumps(
        value, ensure_ascii=False, indent=indent, default=lambda other: _written(other, "a part")
    )


_ENVIRONMENT = _Environment(undefined=Missing)
_ENVIRONMENT.functions, _ENVIRONMENT.globals = (
    dict(_ENVIRONMENT.globals),
    {},
)  # where a row lacks a field, none stands for it
_ENVIRONMENT.filters["rename"] = rename
_ENVIRONMENT.filters |= {name: _of_texts(_ENVIRONMENT.filters[name]) for name in _OF_TEXTS}
_ENVIRONMENT.filters |= {"join": _joined, "json": _as_json, "_present": _present, "_told": _told}
_ENVIRONMENT.filters["_written"] = _written
_ENVIRONMENT.tests["none"] = lambda value: value is None or isinstance(value, Null)


class _Strict(NodeTransformer):
    """Puts what checks a value around everything that a template reads and writes."""

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        if node.ctx != "load":
            return node
        read: nodes.Expr = node
        if node.name == "self":  # which Jinja would take for the template
            read = nodes.Getitem(nodes.ContextReference(), nodes.Const("self"), "load")
        return _checked(read, "_present", node.name)

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:
        part = nodes.Getitem(self.visit(node.node), nodes.Const(node.attr), "load")
        part.set_lineno(node.lineno)
        return part

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        return _checked(self._called(node), "_present", _name_of(node))

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        call, node.call = node.call, nodes.Call(nodes.Const(None), [], [], None, None)
        self.generic_visit(node)
        node.call = self._called(call)
        return node

    def _called(self, node: nodes.Call) -> nodes.Call:
        """A call with its parts visited; the method that it calls stays one."""
        if _is_function(node.node):
            function = nodes.Getitem(
                nodes.EnvironmentAttribute("functions"), nodes.Const(node.node.name), "load"
            )
            node.node = nodes.Const(None)
            self.generic_visit(node)
            node.node = function
        elif isinstance(node.node, nodes.Getattr):
            node.node.node = self.visit(node.node.node)
            method, node.node = node.node, nodes.Const(None)
            self.generic_visit(node)
            node.node = method
        else:
            self.generic_visit(node)
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        name = _name_of(node)
        self.generic_visit(node)
        if node.name in (*_OF_TEXTS, "rename") and node.node is not None:
            node.node = _checked(node.node, "_told", name)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        names = [_name_of(part) for part in node.nodes]
        self.generic_visit(node)
        node.nodes = [_checked(part, "_written", name) for part, name in zip(node.nodes, names, strict=True)]
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        names = [_name_of(part) for part in node.nodes]
        self.generic_visit(node)
        node.nodes = [
            part if isinstance(part, nodes.TemplateData) else _checked(part, "_written", name)
            for part, name in zip(node.nodes, names, strict=True)
        ]
        return node


def _is_function(node: nodes.Node) -> TypeGuard[nodes.Name]:
    """Whether what is called is a function of Jinja's own, and not of the row or the template."""
    return isinstance(node, nodes.Name) and node.name in _ENVIRONMENT.functions


def _checked(node: nodes.Expr, how: str, name: str) -> nodes.Filter:
    """The expression with a check around it, which is the only one: what is written is looked at once."""
    if isinstance(node, nodes.Filter) and node.name == "_present" and node.node is not None:
        node = node.node
    return nodes.Filter(node, how, [nodes.Const(name)], [], None, None)


def _name_of(node: nodes.Node) -> str:
    """What messages call an expression."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Getattr):
        return f"{_name_of(node.node)}.{node.attr}"
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return f"{_name_of(node.node)}[{node.arg.value!r}]"
    if isinstance(node, nodes.Filter | nodes.Call) and node.node is not None:
        return _name_of(node.node)
    return "an expression"


@dataclass(frozen=True)
class Template:
    """A checked template. `used` are the variables that it reads, each with the line that reads it first; `needed` those of
    them for which it gives no default; `plain` those that it writes whatever the others say.
    """

    used: Mapping[str, int]
    needed: frozenset[str]
    plain: frozenset[str]
    _code: jinja2.Template

    def render(self, fields: Mapping[str, Any]) -> str:
        """The text. Raises Unrenderable, with the field's name where one is missing, null or no text."""
        try:
            context = _ENVIRONMENT.context_class(_ENVIRONMENT, fields, self._code.name, self._code.blocks)  # type: ignore[arg-type]
            return "".join(self._code.root_render_func(context))
        except UndefinedError as error:
            raise Unrenderable(error.message or "a field is missing") from error
        except (
            Exception
        ) as error:  # an expression can fail on a row's value in any way; the row carries the reason
            raise Unrenderable(f"{type(error).__name__}: {error}") from error

    def empty(self, fields: Mapping[str, Any]) -> str:
        """Why nothing is said to anybody: all that it writes of these fields is empty. Nothing where something is."""
        return nothing_in(self.plain, fields)


def nothing_in(names: frozenset[str], fields: Mapping[str, Any]) -> str:
    """What is empty where all of `names` are, of which there is one at least; else nothing."""
    own = sorted(name for name in names if name in fields)
    if not own or any(not isinstance(fields[name], str) or fields[name].strip() for name in own):
        return ""
    return f"there is nothing to say: {', '.join(map(repr, own))} {'is' if len(own) == 1 else 'are'} empty"


def compile_template(source: str, path: Path | str, first_line: int = 1) -> Template:
    """A sandboxed template without a loader: it can read no file. Raises ConfigError with the line of a mistake."""
    try:
        tree = _ENVIRONMENT.parse(source)
        for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            message = "a template cannot include, import or extend files"
            raise ConfigError(message, path=path, line=node.lineno + first_line - 1)
        called = {id(call.node) for call in tree.find_all(nodes.Call) if _is_function(call.node)}
        reads = [node for node in tree.find_all(nodes.Name) if node.ctx == "load" and id(node) not in called]
        lines = {node.name: node.lineno + first_line - 1 for node in reads[::-1]}
        free = (meta.find_undeclared_variables(tree) | {"self"}) & lines.keys()
        used = {name: lines[name] for name in sorted(free)}
        plain = frozenset(name for node in tree.body for name in _plain_names(node)) & free
        optional = {
            node.node.name
            for node in tree.find_all((nodes.Filter, nodes.Test))
            if node.name in _GUARDS and isinstance(node.node, nodes.Name)
        }
        _Strict().visit(tree)
        tree.set_environment(_ENVIRONMENT)
        for part in tree.find_all(nodes.Node):
            part.lineno = part.lineno or 1
        code = jinja2.Template.from_code(_ENVIRONMENT, _ENVIRONMENT.compile(tree), {})
        return Template(used, frozenset(free - optional), plain, code)
    except TemplateSyntaxError as error:
        unknown = re.match(r"No (filter|test) named '(.+)'\.$", error.message or "")
        known = (
            [name for name in getattr(_ENVIRONMENT, f"{unknown[1]}s") if name[0] != "_"] if unknown else []
        )
        hint = did_you_mean(unknown[2], known) if unknown else ""
        message = f"template: {(error.message or '').rstrip('.')}{hint}"
        raise ConfigError(message, path=path, line=error.lineno + first_line - 1) from error
    except TemplateError as error:
        raise ConfigError(f"template: {error}", path=path, line=first_line) from error


def _plain_names(node: nodes.Node) -> list[str]:
    """The variables that a top-level part of a template writes without a condition or a default."""
    if not isinstance(node, nodes.Output):
        return []
    written = [part for part in node.nodes if not isinstance(part, nodes.TemplateData)]
    if any(map(_conditional, written)):
        return []
    inside = (node for part in written for node in [part, *part.find_all(nodes.Name)])
    return [node.name for node in inside if isinstance(node, nodes.Name)]


def _conditional(part: nodes.Node) -> bool:
    inside = [part, *part.find_all(nodes.Node)]
    chooses = nodes.CondExpr | nodes.Or | nodes.Test
    return any(isinstance(n, chooses) or isinstance(n, nodes.Filter) and n.name in _GUARDS for n in inside)
