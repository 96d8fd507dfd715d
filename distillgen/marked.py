"""YAML that remembers where each value stood, so that an error can name the line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from distillgen.errors import ConfigError, did_you_mean

Place = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

VARIABLE = re.compile(r"\$\{(\w+)\}")  # its braces would end a plain value inside {a: ${B}}, so they are hidden from YAML
_FLOAT = re.compile(r"[+-]?\d[\d_]*(\.\d*)?[eE][+-]?\d+")  # YAML 1.1 reads 1e-5 as text
NAME = re.compile(r"[A-Za-z][\w-]*")  # of a model, a stage, a filter's label
_CORE = "tag:yaml.org,2002:"
_PLAIN = {_CORE + kind for kind in ("seq", "map", "str", "int", "float", "bool", "null", "timestamp", "merge", "value")}
MAX_NODES = 200_000  # far above any recipe; stops alias bombs


@dataclass(frozen=True)
class Places:
    """Where everything in a file stands: the line of every key and item, by the keys and indices that lead to it."""

    path: Path | str = ""
    lines: dict[Place, int] = field(default_factory=dict)

    def line(self, *place: str | int) -> int | None:
        """The line of `place`, or of the nearest thing around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)

    def wrong(self, message: str, *place: str | int) -> ConfigError:
        """A mistake at `place`."""
        return ConfigError(message, path=self.path or None, line=self.line(*place))


def read_yaml(text: str, path: Path | str, first_line: int = 1) -> tuple[Any, Places]:
    """Plain data (no tags, no objects), and where each part of it stands. Raises ConfigError."""
    try:
        loader = yaml.SafeLoader(VARIABLE.sub("$\ue000\\1\ue001", text))
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + first_line
        what = f"not valid YAML: the character U+{error.character:04X} is not allowed; remove it"
        raise ConfigError(what, path=path, line=line) from error
    places = Places(path)
    lines = places.lines
    count = 0

    def plain(node: yaml.Node, place: Place) -> Any:
        nonlocal count
        count += 1
        line = node.start_mark.line + first_line
        if isinstance(node, yaml.ScalarNode):
            node.value = re.sub("\\$\ue000(\\w+)\ue001", r"${\1}", node.value)
        lines.setdefault(place, line)
        if count > MAX_NODES or len(place) > 50:
            raise ConfigError("too many or too deeply nested values (aliases that multiply?)", path=path, line=line)
        if node.tag not in _PLAIN:
            tag = node.tag.replace(_CORE, "!!")
            raise ConfigError(f"the tag '{tag}' is not allowed; only plain values are: remove it", path=path, line=line)
        if isinstance(node, yaml.SequenceNode):
            return [plain(item, (*place, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            loader.flatten_mapping(node)
            mapping: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                key = plain(key_node, (*place, "\0key"))
                name = str(key)
                where = key_node.start_mark.line + first_line
                if not isinstance(key, (str, int, float, bool)):
                    raise ConfigError("a key must be a plain word; put a text with {{ … }} in quotes", path=path, line=where)
                if name in mapping:
                    raise ConfigError(f"'{name}' stands twice; keep one", path=path, line=where)
                lines[(*place, name)] = where
                mapping[name] = plain(value_node, (*place, name))
            return mapping
        if node.tag in (_CORE + "timestamp", _CORE + "value"):  # a date or a lone '=' is text here
            return str(node.value)
        try:
            value = loader.construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError) as error:
            raise ConfigError(f"'{node.value}' is not a plain value: {_first(error)}", path=path, line=line) from error
        if isinstance(value, str) and getattr(node, "style", None) is None and _FLOAT.fullmatch(value):
            return float(value)
        return value

    try:
        node = loader.get_single_node()
        if node is None:
            return None, places
        return plain(node, ()), places
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = (mark.line if mark else 0) + first_line
        raise ConfigError(f"not valid YAML: {_explained(error, first_line)}", path=path, line=line) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {_first(error)}", path=path) from error
    except RecursionError as error:
        raise ConfigError("too deeply nested", path=path) from error
    finally:
        loader.dispose()


def _explained(error: yaml.MarkedYAMLError, first_line: int) -> str:
    """What PyYAML found, and what it is most often a sign of."""
    problem = str(error.problem or error.context)
    if "'\\t'" in problem:
        return "a tab stands where the line is indented; indent with spaces"
    if "mapping values are not allowed" in problem:
        return "a ':' stands inside a value; put the whole value in quotes"
    if "cannot start any token" in problem or "undefined alias" in problem:
        return f"{problem}; put the text in quotes"
    if "another document" in problem:
        return "a second document begins here ('---'); a file holds one"
    begun = error.context_mark.line + first_line if error.context and error.context_mark else 0
    hint = f" ({error.context} that begins in line {begun}; is its indentation even, is a quote or bracket left open?)"
    return problem + (hint if begun else "")


def _first(error: Exception) -> str:
    return str(error).splitlines()[0]


def validate(model: type[Model], value: Any, *, what: str, places: Places, place: Place = ()) -> Model:
    """`value` as a `model`; the first mistake becomes a ConfigError with its line and the nearest valid name.

    `what` names the owner of the options in messages: "stage 'generate'", "filter 'brevity'".
    """
    try:
        made = model.model_validate({} if value is None else value)
        for name, given in value.items() if isinstance(value, dict) else ():
            if isinstance(given, bool) and type(getattr(made, name, given)) in (int, float):
                raise places.wrong(f"{what}: '{name}': must be a number, not YAML's yes, no, true or false", *place, name)
        return made
    except ValidationError as invalid:
        errors = invalid.errors()  # a misspelt option is also a missing one: the spelling is the mistake
        error = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
        spot = error["loc"]
        name = ".".join(str(part) for part in spot)
        known = model.model_fields
        if error["type"] == "extra_forbidden":
            owner, inner = what, known
            if len(spot) > 1:
                owner, inner = f"'{'.'.join(map(str, spot[:-1]))}' of {what}", _inner(model, spot[:-1])
            message = f"{owner} has no option '{spot[-1]}'{did_you_mean(str(spot[-1]), inner)}"
        elif error["type"] == "missing":
            message = f"{what} needs '{name}'"
            description = known[str(spot[0])].description if len(spot) == 1 and str(spot[0]) in known else None
            message += f": {description}" if description else ""
        elif error["type"] in ("model_type", "model_attributes_type", "dict_type"):
            message = f"{what} takes a mapping of options{f' in {name!r}' if name else ''}, not {str(error['input'])[:80]!r}"
        else:
            reason = error["msg"].removeprefix("Value error, ").split(", unable to parse")[0]
            reason = reason.replace("Input should be", "must be")
            if error["type"] == "too_short":
                reason = "must not be empty"
            elif error["type"] != "value_error":
                reason += f", not {str(error['input'])[:80]!r}"
            message = f"{what}: {f'{name!r}: ' if name else ''}{reason}"
        raise places.wrong(message, *place, *spot) from invalid


def _inner(model: type[BaseModel], spot: tuple[Any, ...]) -> dict[str, Any]:
    for part in spot:
        info = model.model_fields.get(str(part))
        nested = getattr(info, "annotation", None)
        candidates = [nested, *getattr(nested, "__args__", ())]
        found = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not found:
            return {}
        model = found[0]
    return dict(model.model_fields)
