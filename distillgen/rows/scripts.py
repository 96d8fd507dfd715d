"""Rows that a Python function yields: the option `script` of the stage source."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from distillgen.errors import ConfigError, did_you_mean
from distillgen.extras import EXTRAS, need
from distillgen.project import Project, imported, load_function, user_error
from distillgen.record import dumps
from distillgen.rows.reading import Reading, Rows, plain

SEED = "seed"
COMPARED = 20  # rows that two calls of the function must agree on


def script_rows(name: str, options: Mapping[str, Any], seed: int, project: Project, reading: Reading) -> Rows:
    """Yield what the function `name` (`file.py:function`) yields, with dates, arrays and the like as JSON
    writes them. A row that is no mapping becomes a reason.

    The function is called with `options`, and with `seed` if it takes one and the options have none. Raise
    ConfigError if there is no such function, or it does not take the options; UserCodeError if it raises.
    """
    function, _ = load_function(name, project.root)
    arguments = _arguments(name, function, options, seed)
    try:
        rows = function(**arguments)
        if not isinstance(rows, Iterable) or isinstance(rows, str | Mapping):
            raise ConfigError(
                f"'{name}' gives {type(rows).__name__} and no rows: let it yield a mapping a row"
            )
        for number, row in enumerate(rows, 1):
            if not isinstance(row, Mapping):
                kind = type(row).__name__
                yield f":{number}", f"the script yields {kind} and no mapping of names to values", ""
                continue
            columns = reading.columns
            chosen = {field: value for field, value in row.items() if columns is None or field in columns}
            yield f":{number}", plain(chosen, row, reading.root), ""
    except ConfigError:
        raise
    except Exception as error:
        if isinstance(error, ImportError) and any(error.name in extra.modules for extra in EXTRAS.values()):
            need(f"the script '{name}'", str(error.name))
        raise user_error(error, f"the script '{name}'") from error


def script_files(name: str, project: Project) -> dict[str, Path]:
    """Return the file of the function `name` and the project files that it imports."""
    file = load_function(name, project.root)[1]
    modules = {f"module {module}": path for module, path in imported(file).items()}
    return {name.partition(":")[0]: file, **modules}


def check_script(
    name: str, options: Mapping[str, Any], seed: int, project: Project, reading: Reading
) -> None:
    """Raise ConfigError if two calls of the function yield different rows: a run could not go on."""
    first, second = (
        [dumps(row) for _, row, _ in islice(script_rows(name, options, seed, project, reading), COMPARED)]
        for _ in range(2)
    )
    if first != second:
        remedy = "draw with random.Random(seed), and sort what has no order, such as a set"
        raise ConfigError(f"'{name}' yields other rows when it is called again: {remedy}")


def _arguments(
    name: str, function: Callable[..., Any], options: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Return the arguments of the function. Raise ConfigError, with the options that it takes."""
    parameters = inspect.signature(function).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    names = [one for one, parameter in parameters.items() if parameter.kind in _BY_NAME]
    for option in () if any_name else options:
        if option not in names:
            choices = f"; it takes {', '.join(names)}" if names else "; it takes none"
            raise ConfigError(f"'{name}' has no option '{option}'{did_you_mean(option, names) or choices}")
    arguments = {**({SEED: seed} if SEED in names or any_name else {}), **options}
    for parameter in parameters.values():
        required = parameter.default is parameter.empty and parameter.kind not in _MANY
        if required and parameter.name not in arguments:
            raise ConfigError(f"'{name}' needs the option '{parameter.name}': with: {{{parameter.name}: …}}")
    return arguments


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
