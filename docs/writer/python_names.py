"""The page of the public Python names, with signatures and docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import distillgen
from distillgen.flow.filter import described
from distillgen.pipeline import catalog
from writer.markdown import fence, paragraphs, plain


def python() -> Iterator[str]:
    """Yield the page of the public names."""
    yield "# Python"
    yield "The names that `import distillgen` offers. They are imported when they are first used."
    yield fence("python", PYTHON)
    for name in sorted(distillgen.__all__, key=str.lower):
        value = getattr(distillgen, name)
        yield f"## {name}"
        if inspect.isclass(value):
            yield from python_class(name, value)
        elif callable(value) and inspect.isfunction(value):
            yield fence("python", signature(name, value))
            about, options = described(value)
            yield paragraphs(about)
            if options:
                yield "\n".join(f"- `{option}`: {plain(text)}" for option, text in options.items())
        elif name == "Chunks":
            yield "What a stage receives and yields: an asynchronous generator of lists of records."
        else:
            yield f"The type of a filter's option that holds a {catalog.NAME_KINDS[value.__metadata__[0]]}."


PYTHON = """\
import distillgen

run = distillgen.run("hello", out="runs/from-python")
print(run)
for record in run.dropped:
    print(record.dropped.reason)
"""


def signature(name: str, function: Any) -> str:
    """Return a function's declaration, one parameter a line where it is long."""
    declared = inspect.signature(function)
    parameters, keyword_only = [], False
    for parameter in declared.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            parameters.append("*")
        if parameter.name not in ("self", "cls"):
            parameters.append(parameter_text(parameter))
    returned = "" if declared.return_annotation is declared.empty else f" -> {declared.return_annotation}"
    line = f"def {name}({', '.join(parameters)}){returned}: ..."
    if len(line) <= 88:
        return line
    return f"def {name}(\n" + "".join(f"    {parameter},\n" for parameter in parameters) + f"){returned}: ..."


def parameter_text(parameter: inspect.Parameter) -> str:
    """Return a parameter with its type and, where it is a plain value, its default."""
    stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
    text = f"{stars}{parameter.name}: {parameter.annotation}"
    return text if parameter.default is parameter.empty else f"{text} = {default_text(parameter.default)}"


def default_text(default: Any) -> str:
    """Return a default as Python writes it; ... for an object that has no short form."""
    if isinstance(default, Path):
        return "Path()"
    return repr(default) if isinstance(default, str | int | float | tuple | frozenset | None) else "..."


def python_class(name: str, value: type) -> Iterator[str]:
    """Yield the docstring, the attributes and the public methods of a class."""
    yield paragraphs(value.__doc__ or "")
    attributes = dict(attributes_of(value))
    if attributes:
        lines = [f"- `{attribute}`: `{kind}`" for attribute, kind in attributes.items()]
        yield "\n".join(["Attributes:", "", *lines])
    for member, function in sorted(vars(value).items()):
        if member.startswith("_") or member in attributes:
            continue
        function = getattr(function, "__func__", function)  # of a class method
        if isinstance(function, property) or hasattr(function, "attrname"):
            text = inspect.getdoc(function.fget if isinstance(function, property) else function) or ""
            yield f"### {name}.{member}"
            yield paragraphs(text)
        elif inspect.isfunction(function):
            yield f"### {name}.{member}()"
            yield fence("python", signature(member, function))
            yield paragraphs(function.__doc__ or "")


def attributes_of(value: type) -> list[tuple[str, Any]]:
    """Return the names and types of the attributes of an instance."""
    if is_dataclass(value):
        return [(field.name, field.type) for field in fields(value) if not field.name.startswith("_")]
    annotations = getattr(value, "__annotations__", {})
    return [
        (name, getattr(annotations[name], "__forward_arg__", annotations[name]))
        for name in getattr(value, "_fields", ())
    ]
