"""Python functions as tools: a function's signature and docstring give its description for a model.

`python -m distillgen.answers.functions tools.py > tools.jsonl` writes a tool for each function of a file.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError
from distillgen.record import dumps

_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "dict": "object"}


def functions_in(source: str, path: Path | str) -> list[ast.FunctionDef]:
    """Return the public functions of a file's code, which is not run. Raise ConfigError."""
    try:
        module = ast.parse(source)
    except SyntaxError as error:
        raise ConfigError(f"not Python code: {error.msg}", path=path, line=error.lineno) from error
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name[0] != "_"]
    if not functions:
        raise ConfigError("there is no function in it; give it one whose name has no leading '_'", path=path)
    return functions


def modules_beside(source: str, folders: Iterable[Path]) -> list[str]:
    """Return the modules that Python code imports from these folders, or by a relative import."""
    names = list[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append("." * node.level + (node.module or ""))
    parts = {name.partition(".")[0]: name for name in names}
    others = {part: name for part, name in parts.items() if part and part not in sys.stdlib_module_names}
    files = [(folder / part, name) for part, name in others.items() for folder in folders]
    beside = {name for path, name in files if path.is_dir() or path.with_suffix(".py").is_file()}
    return sorted(beside | {name for name in names if name.startswith(".")})


def tools_in(source: str, path: Path | str) -> list[dict[str, Any]]:
    """Return a tool in OpenAI's form for each public function of a file's code.

    The first paragraph of the docstring is the tool's description; the lines under `Args:` describe the
    parameters. Raise ConfigError for a function without a docstring, or a parameter without a type or
    description.
    """
    return [_tool(function, path) for function in functions_in(source, path)]


def _tool(function: ast.FunctionDef, path: Path | str) -> dict[str, Any]:
    def wrong(mistake: str, node: ast.AST = function) -> ConfigError:
        return ConfigError(f"{function.name}: {mistake}", path=path, line=getattr(node, "lineno", None))

    about, _, options = (ast.get_docstring(function) or "").partition("\nArgs:\n")
    lines = re.findall(r"^ +(\w+): (.*(?:\n {5,}.*)*)", options, re.MULTILINE)
    descriptions = {name: " ".join(text.split()) for name, text in lines}
    if not about.strip():
        raise wrong("give it a docstring, which tells a model what it does")
    arguments = function.args
    if arguments.vararg or arguments.kwarg or arguments.posonlyargs:
        raise wrong("a tool takes arguments by name; leave out '*', '**' and '/'")
    parameters = [*arguments.args, *arguments.kwonlyargs]
    before = len(arguments.args) - len(arguments.defaults)
    defaults = [*[None] * before, *arguments.defaults, *arguments.kw_defaults]
    properties: dict[str, Any] = {}
    for parameter, default in zip(parameters, defaults, strict=True):
        if parameter.annotation is None or parameter.arg not in descriptions:
            raise wrong(
                f"give '{parameter.arg}' a type, and a line under 'Args:' in the docstring", parameter
            )
        try:
            schema = _schema(parameter.annotation)
            value = {} if default is None else {"default": ast.literal_eval(default)}
        except ValueError as error:
            raise wrong(f"'{parameter.arg}': {error}", parameter) from error
        properties[parameter.arg] = {**schema, "description": descriptions[parameter.arg], **value}
    required = [p.arg for p, default in zip(parameters, defaults, strict=True) if default is None]
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    description = " ".join(about.strip().split("\n\n")[0].split())
    return {
        "type": "function",
        "function": {"name": function.name, "description": description, "parameters": schema},
    }


def _schema(annotation: ast.expr) -> dict[str, Any]:
    """Return the JSON Schema of a type. Raise ValueError for one that JSON does not have."""
    match annotation:
        case ast.Name(name) if name in _TYPES:
            return {"type": _TYPES[name]}
        case ast.Name("list"):
            return {"type": "array"}
        case ast.Subscript(ast.Name("list"), items):
            return {"type": "array", "items": _schema(items)}
        case ast.Subscript(ast.Name("dict"), ast.Tuple([ast.Name("str"), values])):
            return {"type": "object", "additionalProperties": _schema(values)}
        case ast.Subscript(ast.Name("Literal"), choices):
            literals = ast.literal_eval(choices)
            literals = literals if isinstance(literals, tuple) else (literals,)
            texts = {"type": "string"} if all(isinstance(value, str) for value in literals) else {}
            return {**texts, "enum": list(literals)}
        case ast.BinOp(left, ast.BitOr(), ast.Constant(None)):
            return {"anyOf": [_schema(left), {"type": "null"}]}
    names = f"{', '.join(_TYPES)}, list, list[…], dict[str, …], Literal[…] or one of them with '| None'"
    raise ValueError(f"the type {ast.unparse(annotation)} has no JSON Schema here; use {names}")


def main(paths: Sequence[str]) -> None:
    """Write the tools of files to the standard output, one a line."""
    for path in paths:
        for tool in tools_in(Path(path).read_text(encoding="utf-8"), path):
            sys.stdout.write(dumps(tool, sort_keys=False).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
