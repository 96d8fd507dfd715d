"""Templates, which the fields of a record fill: Jinja in a sandbox, strict about missing fields.

A field that is missing or null is an error with the field's name, unless the template has a default. A list
or a mapping has no text: a template writes its parts, or uses `| json`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import jinja2
from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.visitor import NodeTransformer

from distillgen.errors import ConfigError, did_you_mean
from distillgen.record import SCORES, Unrenderable
from distillgen.text.template_environment import ENVIRONMENT, OF_TEXTS, NullError

_GUARDS = ("default", "d", "defined", "undefined", "none")
"""Filters and tests for a field that may be missing."""


class NullValue(Unrenderable):
    """The text depends on a value that is null."""


class _Strict(NodeTransformer):
    """Put a check around every expression that a template reads or writes."""

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        if node.ctx != "load":
            return node
        expression: nodes.Expr = node
        if node.name == "self":  # for Jinja, it is the template
            expression = nodes.Getitem(nodes.ContextReference(), nodes.Const("self"), "load")
        return _with_check(expression, "_present", node.name)

    def visit_Getattr(self, node: nodes.Getattr) -> nodes.Node:
        part = nodes.Getitem(self.visit(node.node), nodes.Const(node.attr), "load")
        part.set_lineno(node.lineno)
        return part

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        return _with_check(self._called(node), "_present", _name_of(node))

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        call, node.call = node.call, nodes.Call(nodes.Const(None), [], [], None, None)
        self.generic_visit(node)
        node.call = self._called(call)
        return node

    def _called(self, node: nodes.Call) -> nodes.Call:
        """Return a call with its parts visited, but not the method that it calls."""
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
        if node.name in (*OF_TEXTS, "rename") and node.node is not None:
            node.node = _with_check(node.node, "_part", name)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        names = [_name_of(part) for part in node.nodes]
        self.generic_visit(node)
        node.nodes = [
            _with_check(part, "_as_text", name) for part, name in zip(node.nodes, names, strict=True)
        ]
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        names = [_name_of(part) for part in node.nodes]
        self.generic_visit(node)
        node.nodes = [
            part if isinstance(part, nodes.TemplateData) else _with_check(part, "_as_text", name)
            for part, name in zip(node.nodes, names, strict=True)
        ]
        return node


def _is_function(node: nodes.Node) -> TypeGuard[nodes.Name]:
    """Whether a call is to a function of Jinja, not of the row or the template."""
    return isinstance(node, nodes.Name) and node.name in ENVIRONMENT.functions


def _with_check(node: nodes.Expr, check: str, name: str) -> nodes.Filter:
    """Return the expression inside a check. It replaces an earlier check, so that a value is checked once."""
    if isinstance(node, nodes.Filter) and node.name == "_present" and node.node is not None:
        node = node.node
    return nodes.Filter(node, check, [nodes.Const(name)], [], None, None)


def _name_of(node: nodes.Node) -> str:
    """Return the name of an expression for messages."""
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
    """A checked template.

    `used` are the variables that it reads, each with the first line that reads it. `needed` are those without
    a default. `plain` are those that it writes without a condition. `scores` are the scores that it reads by
    their names. `source` is the text that was compiled.
    """

    used: Mapping[str, int]
    needed: frozenset[str]
    plain: frozenset[str]
    scores: frozenset[str]
    source: str
    _code: jinja2.Template

    def render(self, fields: Mapping[str, Any]) -> str:
        """Return the text. Raise Unrenderable, with the name of a field that is missing, null or without
        text.
        """
        try:
            context = ENVIRONMENT.context_class(ENVIRONMENT, fields, self._code.name, self._code.blocks)  # type: ignore[arg-type]
            return "".join(self._code.root_render_func(context))
        except UndefinedError as error:
            kind = NullValue if isinstance(error, NullError) else Unrenderable
            raise kind(error.message or "a field is missing") from error
        except Exception as error:  # an expression can fail in any way; the row is dropped with the reason
            raise Unrenderable(f"{type(error).__name__}: {error}") from error

    def empty(self, fields: Mapping[str, Any]) -> str:
        """Return the reason if all fields that the text writes are empty. Else return ""."""
        return nothing_in(self.plain, fields)


def nothing_in(names: frozenset[str], fields: Mapping[str, Any]) -> str:
    """Return a message if all of these fields are empty, and there is at least one; else ""."""
    present = sorted(name for name in names if name in fields)
    if not present or any(not isinstance(fields[name], str) or fields[name].strip() for name in present):
        return ""
    verb = "is" if len(present) == 1 else "are"
    return f"there is nothing to say: {', '.join(map(repr, present))} {verb} empty"


def compile_template(source: str, path: Path | str, first_line: int = 1) -> Template:
    """Compile a template, which can read no file. Raise ConfigError with the line of a mistake."""
    try:
        tree = ENVIRONMENT.parse(source)
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
        scores = frozenset(_score_names(tree)) if SCORES in free else frozenset()
        _Strict().visit(tree)
        tree.set_environment(ENVIRONMENT)
        for part in tree.find_all(nodes.Node):
            part.lineno = part.lineno or 1
        code = jinja2.Template.from_code(ENVIRONMENT, ENVIRONMENT.compile(tree), {})
        return Template(used, frozenset(free - optional), plain, scores, source, code)
    except TemplateSyntaxError as error:
        unknown = re.match(r"No (filter|test) named '(.+)'\.$", error.message or "")
        valid_names = (
            [name for name in getattr(ENVIRONMENT, f"{unknown[1]}s") if name[0] != "_"] if unknown else []
        )
        hint = did_you_mean(unknown[2], valid_names) if unknown else ""
        message = f"template: {(error.message or '').rstrip('.')}{hint}"
        raise ConfigError(message, path=path, line=error.lineno + first_line - 1) from error
    except TemplateError as error:
        raise ConfigError(f"template: {error}", path=path, line=first_line) from error


def _score_names(tree: nodes.Template) -> Iterator[str]:
    """Yield the names in `scores["name"]` and `scores.name`, without methods."""
    methods = [call.node for call in tree.find_all(nodes.Call)]
    for part in tree.find_all((nodes.Getitem, nodes.Getattr)):
        if isinstance(part, nodes.Getitem):
            name = part.arg.value if isinstance(part.arg, nodes.Const) else None
        else:
            name = part.attr if isinstance(part, nodes.Getattr) and part not in methods else None
        if name is not None and _name_of(part).startswith((f"{SCORES}.", f"{SCORES}[")):
            yield str(name)


def _plain_names(node: nodes.Node) -> list[str]:
    """Return the variables that a top-level part of a template writes without a condition or a default."""
    if not isinstance(node, nodes.Output):
        return []
    expressions = [part for part in node.nodes if not isinstance(part, nodes.TemplateData)]
    if any(map(_conditional, expressions)):
        return []
    inside = (node for part in expressions for node in [part, *part.find_all(nodes.Name)])
    return [node.name for node in inside if isinstance(node, nodes.Name)]


def _conditional(part: nodes.Node) -> bool:
    inside = [part, *part.find_all(nodes.Node)]
    chooses = nodes.CondExpr | nodes.Or | nodes.Test
    return any(isinstance(n, chooses) or isinstance(n, nodes.Filter) and n.name in _GUARDS for n in inside)
