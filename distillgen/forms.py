"""Output forms: what an answer's text must look like, and the rows of fields that it becomes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distillgen.errors import ConfigError, did_you_mean
from distillgen.record import loads

KINDS = ("text", "lines", "numbered", "turns", "regex", "json", "sections")
NAMED = ("regex", "json", "sections")  # forms that name their fields themselves
LISTS = ("lines", "numbered")  # forms that give one row an item

_JSON_TYPES = {"string", "number", "integer", "boolean", "array", "object", "null"}
_ITEM = re.compile(r"^\s*\d+\s*[.):](?!\d)\s*(.*)$")
_BULLET = re.compile(r"^\s*(?:[-*•]\s+)?(.*?)\s*$")
_TURN = re.compile(r"^\s*\**(user|human|student|question|assistant|ai|teacher|answer)\**\s*:\s*\**\s*(.*)$", re.I)
_USER = {"user", "human", "student", "question"}
_JSON = re.compile(r"\{|\[\s*[{\]]")
_FENCE = re.compile(r"^\s*```[a-z]*\s*\n(.*?)\n?\s*```\s*$", re.S | re.I)


class Unparsable(Exception):
    """The answer is not of the form that the prompt asks for; the text says how."""


@dataclass(frozen=True)
class Form:
    """One output form. `argument` is the pattern, the schema or the tags of the forms that have one."""

    kind: str
    argument: Any = None

    @classmethod
    def read(cls, value: Any) -> Form:
        """From front matter: `text`, `lines`, `numbered`, `turns`, or one of {regex: …}, {json: …}, {sections: […]}."""
        kind, argument = next(iter(value.items())) if isinstance(value, Mapping) and len(value) == 1 else (value, None)
        if kind in KINDS and kind not in NAMED and argument is None:
            return cls(kind)
        if kind == "regex" and isinstance(argument, str):
            try:
                names = re.compile(argument).groupindex
            except re.error as error:
                raise ConfigError(f"output: the regular expression is wrong: {error}") from error
            if not names:
                raise ConfigError("output: the regular expression needs named groups, (?P<field>…): they name the fields")
            return cls(kind, argument)
        if kind == "sections" and isinstance(argument, list) and argument and all(isinstance(a, str) for a in argument):
            return cls(kind, tuple(argument))
        if kind == "json" and isinstance(argument, (Mapping, list)) and argument:
            return cls(kind, _schema(argument))
        if kind in NAMED:
            needs = {"regex": "a pattern with named groups", "json": "a schema", "sections": "a list of tags"}[kind]
            raise ConfigError(f"output: '{kind}' needs {needs}, as in {{{kind}: …}}")
        raise ConfigError(f"output: there is no form {value!r}{did_you_mean(str(kind), KINDS)}")

    @property
    def many(self) -> bool:
        """Whether one answer gives a list of rows."""
        return self.kind in LISTS or (self.kind == "json" and self.argument["type"] == "array")

    def fields(self, output: str | None) -> list[str]:
        """The fields that a row gets; `output` names the single field of a form that does not name its own."""
        match self.kind:
            case "regex":
                return list(re.compile(self.argument).groupindex)
            case "sections":
                return list(self.argument)
            case "json":
                return list((self.argument["items"] if self.many else self.argument)["properties"])
        return [output or ("messages" if self.kind == "turns" else "response")]

    @cached_property
    def schema(self) -> dict[str, Any] | None:
        """The JSON Schema to send to a teacher that can constrain itself: an object at the root, as endpoints want it."""
        if self.kind != "json":
            return None
        if not self.many:
            return dict(self.argument)
        return {"type": "object", "properties": {"items": self.argument}, "required": ["items"], "additionalProperties": False}

    @cached_property
    def _validator(self) -> Any:
        from jsonschema import Draft202012Validator

        return Draft202012Validator(self.argument)

    def parse(self, text: str, output: str | None = None) -> list[dict[str, Any]]:
        """The rows of an answer: at least one. Raises Unparsable."""
        text = text.strip()
        if not text:
            raise Unparsable("the answer is empty")
        if self.kind in (*LISTS, "turns") and (fenced := _FENCE.match(text)):
            text = fenced.group(1)
        match self.kind:
            case "json":
                return self._json(text)
            case "sections":
                return [{tag: _section(tag, text) for tag in self.argument}]
            case "regex":
                if not (found := re.search(self.argument, text)):
                    raise Unparsable(f"the answer does not match {self.argument!r}")
                return [{name: (value or "").strip() for name, value in found.groupdict().items()}]
            case "lines":
                items: list[Any] = [item for line in text.splitlines() if (item := _BULLET.sub(r"\1", line))]
            case "numbered":
                items = _numbered(text)
            case "turns":
                items = [_turns(text)]
            case _:
                items = [text]
        return [{self.fields(output)[0]: item} for item in items]

    def _json(self, text: str) -> list[dict[str, Any]]:
        value = _read_json(text)
        if self.many and isinstance(value, dict):  # the root that `schema` asks for, or a list without its brackets
            value = value["items"] if list(value) == ["items"] else _read_json("[" + text[text.index("{") :])
        error = next(iter(self._validator.iter_errors(value)), None)
        if error is not None:
            place = "/".join(str(part) for part in error.absolute_path) or "the answer"
            raise Unparsable(f"{place}: {error.message[:200]}")
        names = self.fields(None)
        rows = [{name: row.get(name) for name in names} for row in (value if self.many else [value])]
        if not rows:
            raise Unparsable("the list is empty")
        return rows


def _schema(argument: Any) -> dict[str, Any]:
    """A JSON Schema of an object, or of an array of them; `{question: string}` and `[{question: string}]` are short for one."""
    if isinstance(argument, list):
        if len(argument) != 1:
            raise ConfigError("output: a list in 'json' holds the one schema that its items have")
        argument = {"type": "array", "items": _object(argument[0])}
    schema: dict[str, Any] = dict(_object(argument))
    item = schema.get("items") if schema["type"] == "array" else schema
    if not isinstance(item, Mapping) or not item.get("properties"):
        raise ConfigError("output: a 'json' schema is of an object, or an array of them, with 'properties': they name the fields")
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ConfigError(f"output: the JSON schema is wrong: {error.message}") from error
    return schema


def _object(argument: Any) -> Any:
    if not isinstance(argument, Mapping) or argument.get("type") in ("object", "array"):
        return argument
    properties = {name: {"type": kind} if isinstance(kind, str) else kind for name, kind in argument.items()}
    for name, kind in argument.items():
        if not isinstance(kind, Mapping) and str(kind) not in _JSON_TYPES:
            raise ConfigError(f"output: field '{name}' has no JSON type {kind!r}{did_you_mean(str(kind), _JSON_TYPES)}")
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _read_json(text: str) -> Any:
    """The first object or list in `text`, repaired where it is nearly JSON; the prose around it is passed over."""
    start = _JSON.search(text)
    if not start:
        raise Unparsable(f"there is no JSON in the answer: {text[:60]!r}")
    text = text[start.start() :]
    with suppress(ValueError, RecursionError):
        return loads(text[: json.JSONDecoder().raw_decode(text)[1]])
    from json_repair import repair_json

    end = text.rfind("]" if text[0] == "[" else "}") + 1
    for nearly in (text, text[:end] or text):
        with suppress(ValueError, RecursionError):  # strict: a missing value is not made up
            return loads(json.dumps(repair_json(nearly, return_objects=True, strict=True)))
    raise Unparsable(f"the answer is not JSON, and could not be repaired: {text[:60]!r}")


def _numbered(text: str) -> list[str]:
    items: list[str] = []
    for line in text.splitlines():
        if found := _ITEM.match(line):
            items.append(found.group(1).strip())
        elif items and line.strip():
            items[-1] = f"{items[-1]} {line.strip()}"
    items = [item for item in items if item]
    if not items:
        raise Unparsable(f"there is no numbered list in the answer: {text[:60]!r}")
    return items


def _turns(text: str) -> list[dict[str, str]]:
    turns: list[dict[str, str]] = []
    for line in text.splitlines():
        if found := _TURN.match(line):
            turns.append({"role": "user" if found.group(1).lower() in _USER else "assistant", "content": found.group(2)})
        elif turns:
            turns[-1]["content"] += "\n" + line
    turns = [{**turn, "content": turn["content"].strip()} for turn in turns]
    if len({turn["role"] for turn in turns}) < 2 or not all(turn["content"] for turn in turns):
        raise Unparsable(f"the answer is not a dialogue of 'User: …' and 'Assistant: …': {text[:60]!r}")
    return turns


def _section(tag: str, text: str) -> str:
    found = re.search(rf"<{re.escape(tag)}>(.*?)</{re.escape(tag)}>", text, re.S | re.I)
    if not found or not found.group(1).strip():
        raise Unparsable(f"the section <{tag}>…</{tag}> is missing or empty")
    return found.group(1).strip()
