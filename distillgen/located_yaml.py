"""YAML with the line of every value, so that an error can name it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from distillgen.errors import ConfigError, did_you_mean

Place = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)

VARIABLE = re.compile(r"\$\{(\w+)\}")
NAME = re.compile(r"[A-Za-z][\w-]*")  # of a model, a stage, a filter's label
MOST_WHOLE = 2**63 - 1  # JSON and SQLite hold no larger whole number
MAX_VALUES = 200_000  # far above any recipe; stops alias bombs
# In {a: ${B}} the braces of ${B} would end the value. YAML gets other characters, so no quotes are needed.
_BRACES = str.maketrans("\ue000\ue001", "{}")
_FLOAT = re.compile(r"[+-]?\d[\d_]*(\.\d*)?[eE][+-]?\d+")  # YAML 1.1 reads 1e-5 as text
_CORE = "tag:yaml.org,2002:"
_TEXT = {_CORE + "timestamp", _CORE + "value"}  # a date or a lone '=' is text here
_PLAIN = _TEXT | {_CORE + kind for kind in ("seq", "map", "str", "int", "float", "bool", "null", "merge")}
_REMEDIES = {
    r"'\\t'": "the line is indented with a tab: indent with spaces",
    "another document": "'---' begins a second document: write one document in a file",
    "mapping values|cannot start any token|undefined alias": "put the text in quotes",
}


@dataclass(frozen=True)
class Places:
    """The lines of a file's keys and values.

    A place is the sequence of keys and indices that lead to a value. The place of a text ends with the text
    itself. `note` is added to every error.
    """

    path: Path | str = ""
    lines: dict[Place, int] = field(default_factory=dict)
    note: str = ""

    def wrong(self, message: str, *place: str | int) -> ConfigError:
        """Return a ConfigError with the line of `place`, or of the nearest place around it."""
        line = self.lines.get(self._in_file(place))
        return ConfigError(message + self.note, path=self.path or None, line=line)

    def quoting(self, message: str, *place: str | int, prefix: str = "") -> ConfigError:
        """Return a ConfigError with the line of the key or value inside `place` that the message quotes or
        begins with.
        """
        around = self._in_file(place)
        for word in (*re.findall(r"'([^']+)'", message), message.partition(":")[0]):
            # the word may be a file without its folder, or a variable in an address
            whole_word = re.compile(rf"(^|[/: ]){re.escape(word)}($|[/: ])")
            for spot in self.lines:
                if spot[: len(around)] == around != spot and whole_word.search(str(spot[-1])):
                    return self.wrong(prefix + message, *spot)
        return self.wrong(prefix + message, *around)

    @contextlib.contextmanager
    def within(self, *place: str | int, prefix: str = "") -> Iterator[None]:
        """Give every ConfigError of the block that has no file the line of what it quotes, and the prefix."""
        try:
            yield
        except ConfigError as error:
            if error.path:
                raise
            raise self.quoting(error.message, *place, prefix=prefix) from error

    def _in_file(self, place: Place) -> Place:
        """Return `place` without the keys that are not in the file."""
        in_file: Place = ()
        for key in place:
            in_file = (*in_file, key) if (*in_file, key) in self.lines else in_file
        return in_file


def read_yaml(text: str, path: Path | str, first_line: int = 1) -> tuple[Any, Places]:
    """Parse YAML of plain data, without tags and objects; return it with its places. Raise ConfigError."""
    places = Places(path)

    def plain(node: yaml.Node, place: Place) -> Any:
        line = places.lines.setdefault(place, node.start_mark.line + first_line)
        if len(places.lines) > MAX_VALUES or len(place) > 50:
            raise places.wrong("too many or too deeply nested values (aliases that multiply?)", *place)
        if node.tag not in _PLAIN:
            tag = node.tag.replace(_CORE, "!!")
            raise places.wrong(f"the tag '{tag}' is not allowed; only plain values are: remove it", *place)
        if isinstance(node, yaml.SequenceNode):
            return [plain(item, (*place, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            pairs = [pair for pair in node.value if pair[0].tag != _CORE + "merge"]
            keys = {str(key.value) for key, _ in pairs}  # these win over merged ones
            loader.flatten_mapping(node)
            merged = {
                str(key.value): (key, value) for key, value in node.value[: len(node.value) - len(pairs)]
            }
            node.value = [*(pair for name, pair in merged.items() if name not in keys), *pairs]
            mapping: dict[str, Any] = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise places.wrong(
                        "a key must be a plain word; put a text with {{ … }} in quotes", *place
                    )
                name = key.value.translate(_BRACES)
                places.lines[*place, name] = key.start_mark.line + first_line
                if quoted := _cut_text(node, key, value, text):
                    message = f"'{name}' has no value; if it belongs to the text before the comma, quote it"
                    raise places.wrong(f"{message}: {quoted}", *place, name)
                if name in mapping:
                    raise places.wrong(f"'{name}' stands twice; keep one", *place, name)
                mapping[name] = plain(value, (*place, name))
            return mapping
        node.value = node.value.translate(_BRACES)
        places.lines.setdefault((*place, node.value), line)
        if node.tag in _TEXT:
            return node.value
        plain_text = node.tag == _CORE + "str" and not getattr(node, "style", None)
        try:
            value = (
                float(node.value)
                if plain_text and _FLOAT.fullmatch(node.value)
                else loader.construct_object(node)
            )
        except (ValueError, LookupError) as error:
            raise places.wrong(f"'{node.value}' is not a plain value", *place) from error
        if type(value) is int and abs(value) > MOST_WHOLE:
            raise places.wrong(f"'{node.value}' is too large; if it is a text, put it in quotes", *place)
        return value

    try:
        loader = yaml.SafeLoader(VARIABLE.sub("$\ue000\\1\ue001", text))
        node = loader.get_single_node()
        return None if node is None else plain(node, ()), places
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + first_line
        message = f"not valid YAML: the character U+{error.character:04X} is not allowed; remove it"
        raise ConfigError(message, path=path, line=line) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = (mark.line if mark else 0) + first_line
        raise ConfigError(f"not valid YAML: {_explained(error, first_line)}", path=path, line=line) from error
    except RecursionError as error:
        raise ConfigError("too deeply nested", path=path) from error


def _cut_text(mapping: yaml.MappingNode, key: yaml.Node, value: yaml.Node, text: str) -> str:
    """Return the option in quotes whose text the comma before this key has probably cut: the key has no colon
    and follows, in {…}, a text without quotes. Return "" for any other key.
    """
    ends = slice(key.end_mark.index, value.start_mark.index)
    if not mapping.flow_style or value.value != "" or text[ends].strip() or value.end_mark.index > ends.stop:
        return ""
    at = next(i for i, pair in enumerate(mapping.value) if pair[0] is key)
    option, before = mapping.value[at - 1]
    if not at or not isinstance(before, yaml.ScalarNode) or before.style or before.tag != _CORE + "str":
        return ""
    return f'{option.value}: "{before.value}, {key.value}"'


def _explained(error: yaml.MarkedYAMLError, first_line: int) -> str:
    """Return the problem that PyYAML reports, and a remedy for its usual cause."""
    problem = str(error.problem or error.context)
    remedy = next((remedy for sign, remedy in _REMEDIES.items() if re.search(sign, problem)), "")
    if error.context and error.context_mark and not remedy:
        beginning = f"{error.context} that begins in line {error.context_mark.line + first_line}"
        remedy = f"{beginning}; is its indentation even, is a quote or bracket left open?"
    return f"{problem}; {remedy}" if remedy else problem


def validate(
    model: type[Model], value: Any, *, owner: str, places: Places, place: Place = (), show: bool = True
) -> Model:
    """Return `value` as a `model`. Raise ConfigError for the first mistake, with its line and the nearest
    valid name.

    `owner` names in messages whose options they are: "stage 'generate'", "filter 'brevity'". Without `show`,
    no message repeats a value.
    """
    try:
        validated = model.model_validate({} if value is None else value)
    except ValidationError as invalid:
        errors = invalid.errors()  # a misspelt option is also a missing one: the spelling is the mistake
        error: Mapping[str, Any] = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
        raised = places.quoting if error["type"] == "value_error" else places.wrong
        raise raised(_message(error, model, owner, value, show), *place, *error["loc"]) from invalid
    for name, option in value.items() if isinstance(value, dict) else ():
        if isinstance(option, bool) and type(getattr(validated, name, option)) in (int, float):
            raise places.wrong(
                f"{owner}: '{name}': must be a number, not YAML's yes, no, true or false", *place, name
            )
    return validated


def _message(error: Mapping[str, Any], model: type[BaseModel], owner: str, options: Any, show: bool) -> str:
    """Return the message for a mistake that pydantic found in the options."""
    *outer, last = error["loc"] or ("",)
    fields = model.model_fields
    for part in outer:  # to the fields of the inner model with the mistake
        annotation = fields[part].annotation if part in fields else None
        inner = [
            t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel)
        ]
        fields = inner[0].model_fields if inner else {}
    if error["type"] == "extra_forbidden":
        inner_owner = f"'{'.'.join(map(str, outer))}' of {owner}" if outer else owner
        return f"{inner_owner} has no option '{last}'{did_you_mean(str(last), fields)}"
    name = ".".join(_option(error["loc"], options, missing=error["type"] == "missing"))
    if error["type"] == "missing":
        return f"{owner} needs '{name}'" + (f": {fields[last].description}" if last in fields else "")
    reason = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    reason = re.sub("a valid dictionary.*", "a mapping of options", reason)
    reason = re.sub("List should have at least 1 item.*", "must not be empty", reason)
    reason = re.sub("^(String|List|Tuple|Dictionary) should", "must", reason)
    reason = re.sub("(?<=a valid )(integer|number|boolean), unable to .*", r"\1", reason)
    value = str(error["input"])
    if error["input"] is None or isinstance(error["input"], bool):
        value = {"None": "null"}.get(value, value.lower())  # as in YAML
    not_value = f", not {value!r}" if show and reason.startswith("must be") and len(value) <= 80 else ""
    return f"{owner}: {f'{name!r}: ' if name else ''}{reason}{not_value}"


def _option(place: Place, options: Any, *, missing: bool) -> list[str]:
    """Return the names that lead to a mistake, without the types of a union, which pydantic puts between."""
    names, value = list[str](), options
    for part in place:
        inside = (
            value if isinstance(value, Mapping) else dict(enumerate(value if isinstance(value, list) else ()))
        )
        if part in inside:
            names.append(str(part))
            value = inside[part]
    return [*names, str(place[-1])] if missing else names or list(map(str, place))
