"""Output forms: they parse the text of an answer into rows of fields."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from distillgen.errors import ConfigError, did_you_mean
from distillgen.record import loads

PLAIN = ("text", "lines", "numbered", "turns")
FIELD_SOURCES = {"regex": "a pattern with named groups", "json": "a schema", "sections": "a list of tags"}
"""The forms with field names of their own, and what holds the names."""

_JSON_TYPES = {"string", "number", "integer", "boolean", "array", "object", "null"}
_JSON = re.compile(r"\{|\[\s*[{\]]")
STARTS = 64  # most brackets of an answer at which a value may begin
_CLOSE = {"{": "}", "[": "]"}
_TOKEN = re.compile(r"\\.|[\"'{}\[\]]", re.S)
_QUOTE = re.compile(r"(?<!\\)(?:\\\\)*\"")
_ENDS_TEXT = re.compile(r"\s*(?:[,:}\]\"]|$)")
_FENCE_END = re.compile(r"\n\s*```.*", re.S)
_LATEX = re.compile(r"\\(?:([a-zA-Z]+)|[\s\S]|$)")
_OPENS_JSON = re.compile(r"\{\s*[\"']\w|\[\s*\{")
_COMMAND = re.compile(
    r"nabla|ne|neg|neq|nexists|ni|nleq|ngeq|nmid|not|notin|nsubseteq|nu|newline|nonumber|normalsize"
    r"|r(?:angle|ceil|floor|ho|ight|ightarrow|ightleftharpoons|m|e|oot|vert|Vert|brace|brack)"
    r"|t(?:an|anh|au|ext\w*|frac|herefore|heta|hinspace|ilde|imes|o|op|riangle\w*|extstyle|fn|bf|rt)"
)
_FENCE = re.compile(r"^\s*```[a-z]*\s*\n(.*?)\n?\s*```\s*$", re.S | re.I)
_BULLET = re.compile(r"^\s*(?:[-*•]\s+)?")
_NUMBER = re.compile(r"^\s*\d+[ \t]*[.):](?!\d)", re.M)
_TURN = re.compile(
    r"^\s*\**(user|human|student|question|assistant|ai|teacher|answer)\**[ \t]*:\**", re.M | re.I
)
_USER = {"user", "human", "student", "question"}


class Unparsable(Exception):
    """The answer does not have the form of the prompt. The text gives the reason."""


class BreaksOff(Unparsable):
    """The answer ends before its JSON does."""


@dataclass(frozen=True)
class Form:
    """An output form."""

    kind: str
    checker: Any = None
    """The pattern of a regex, or the validator of a JSON schema."""
    names: tuple[str, ...] = ()
    """The names of the fields, if the form has names of its own."""
    many: bool = False
    """Whether an answer gives a list of rows."""

    @classmethod
    def read(cls, value: Any) -> Form:
        """Return the form of an option `output`: `text`, `lines`, `numbered`, `turns`, {regex: …}, {json: …}
        or {sections: […]}. Raise ConfigError if there is no such form.
        """
        kind, argument = (
            next(iter(value.items())) if isinstance(value, Mapping) and len(value) == 1 else (value, None)
        )
        match kind, argument:
            case (("text" | "lines" | "numbered" | "turns"), None):
                return cls(kind, many=kind in ("lines", "numbered"))
            case "regex", str():
                try:
                    pattern = re.compile(argument)
                except re.error as error:
                    raise ConfigError(f"output: the regular expression is wrong: {error}") from error
                if not pattern.groupindex:
                    raise ConfigError(
                        "output: the regular expression needs named groups, (?P<field>…): they name the "
                        "fields"
                    )
                return cls(kind, pattern, tuple(pattern.groupindex))
            case "sections", [str(), *_] if all(isinstance(tag, str) for tag in argument):
                return cls(kind, names=tuple(argument))
            case "json", Mapping() | list() if argument:
                return cls._json(argument)
            case (("regex" | "json" | "sections"), _):
                raise ConfigError(f"output: '{kind}' needs {FIELD_SOURCES[kind]}, as in {{{kind}: …}}")
        raise ConfigError(
            f"output: there is no form {value!r}{did_you_mean(str(kind), [*PLAIN, *FIELD_SOURCES])}"
        )

    @classmethod
    def _json(cls, argument: Any) -> Form:
        """Return the form of a JSON Schema of an object or an array of objects, or of a short `{question:
        string}`.
        """
        from jsonschema import Draft202012Validator, SchemaError

        if isinstance(argument, list):
            if len(argument) != 1:
                raise ConfigError("output: a list in 'json' holds the one schema that its items have")
            argument = {"type": "array", "items": _object(argument[0])}
        schema = _object(argument)
        many = schema["type"] == "array"
        item = schema.get("items") if many else schema
        if not isinstance(item, Mapping) or not item.get("properties"):
            shape = "is of an object, or an array of them, with 'properties': they name the fields"
            raise ConfigError(f"output: a 'json' schema {shape}")
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ConfigError(f"output: the JSON schema is wrong: {error.message}") from error
        return cls("json", Draft202012Validator(schema), tuple(item["properties"]), many)

    def fields(self, output: str | None) -> list[str]:
        """Return the fields of a row; `output` names the single field of a form without names of its own."""
        return list(self.names) or [output or ("messages" if self.kind == "turns" else "response")]

    @cached_property
    def schema(self) -> dict[str, Any] | None:
        """The JSON Schema for a teacher with constrained decoding; its root is an object, as endpoints
        require.
        """
        schema: dict[str, Any] | None = self.checker.schema if self.kind == "json" else None
        if not self.many or not schema:
            return schema
        return {
            "type": "object",
            "properties": {"items": schema},
            "required": ["items"],
            "additionalProperties": False,
        }

    def parse(self, text: str, output: str | None = None) -> list[dict[str, Any]]:
        """Return the rows of an answer, at least one. Raise Unparsable if a row is bad."""
        rows = []
        for row in self.rows(text, output):
            if isinstance(row, Unparsable):
                raise row
            rows.append(row)
        return rows

    def rows(self, text: str, output: str | None = None) -> list[dict[str, Any] | Unparsable]:
        """Return the rows of an answer; raise Unparsable if none of them is good.

        A bad row, an item of a list that violates its schema or its `maxItems`, is replaced by the error.
        """
        text = text.strip()
        if not text:
            raise Unparsable("the answer is empty")
        items: list[Any] = [text]
        match self.kind:
            case "json":
                return self._rows(text)
            case "sections":
                return [{tag: _section(tag, text) for tag in self.names}]
            case "regex":
                if not (pattern_match := self.checker.search(text)):
                    raise Unparsable(f"the answer does not match {self.checker.pattern!r}")
                return [{name: (value or "").strip() for name, value in pattern_match.groupdict().items()}]
            case "lines":
                items = [
                    item for line in _unfenced(text).splitlines() if (item := _BULLET.sub("", line).strip())
                ]
            case "numbered":
                pieces = [piece.strip() for piece in _NUMBER.split(_unfenced(text))[1:]]
                items = [re.sub(r"\s*\n\s*", " ", piece) for piece in pieces if piece]
                if not items:
                    raise Unparsable(f"there is no numbered list in the answer: {text[:60]!r}")
            case "turns":
                items = [_turns(_unfenced(text))]
        return [{self.fields(output)[0]: item} for item in items]

    def _rows(self, text: str) -> list[dict[str, Any] | Unparsable]:
        """Return the rows of the last value in the text that has the form, because an example often precedes
        the answer.
        """
        pieces = read_pieces(text)
        values = [(piece.value, piece.size, piece.cut) for piece in pieces]
        objects = [piece for piece in pieces if isinstance(piece.value, dict)]
        if self.many and objects:  # a list without its brackets
            items = [piece.value for piece in objects]
            values.insert(0, (items, sum(piece.size for piece in objects), objects[-1].cut))
        errors = list[tuple[int, Unparsable]]()
        for value, size, cut in reversed(values):
            if (
                self.many and isinstance(value, dict) and list(value) == ["items"]
            ):  # the root object that `schema` adds
                value = value["items"]
            try:
                return self._rows_of(value, cut)
            except Unparsable as error:
                errors.append((size, error))
        raise max(errors, key=lambda size_and_error: size_and_error[0])[1]

    def _rows_of(self, value: Any, cut: bool) -> list[dict[str, Any] | Unparsable]:
        """Return the rows of one value; of a list that breaks off, an error replaces the incomplete item."""
        if cut and not self.many:
            raise BreaksOff("the answer breaks off before its JSON ends")
        errors = dict[Any, Unparsable]()
        for error in self.checker.iter_errors(value):
            place = "/".join(str(part) for part in error.absolute_path)
            error_text = Unparsable(f"{place or 'the answer'}: {error.message[:200]}")
            if self.many and error.validator == "maxItems" and not place:
                over = Unparsable(f"one of {len(value)} items, {error.validator_value} are taken")
                errors |= dict.fromkeys(range(error.validator_value, len(value)), over)
            elif self.many and place:
                errors.setdefault(error.absolute_path[0], error_text)
            else:
                raise error_text
        rows = value if self.many else [value]
        if not rows:
            raise Unparsable("the answer breaks off before its JSON ends" if cut else "the list is empty")
        if len(errors) == len(rows):
            raise errors[0]
        rows_and_errors = [
            errors.get(i) or {name: row.get(name) for name in self.names} for i, row in enumerate(rows)
        ]
        return (
            [*rows_and_errors, Unparsable("the answer breaks off within this item")]
            if cut
            else rows_and_errors
        )


def _object(argument: Any) -> Any:
    if not isinstance(argument, Mapping) or argument.get("type") in ("object", "array"):
        return argument
    for name, kind in argument.items():
        if not isinstance(kind, Mapping) and str(kind) not in _JSON_TYPES:
            raise ConfigError(
                f"output: field '{name}' has no JSON type {kind!r}{did_you_mean(str(kind), _JSON_TYPES)}"
            )
    properties = {name: {"type": kind} if isinstance(kind, str) else kind for name, kind in argument.items()}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


class Piece(NamedTuple):
    """A JSON value in a text."""

    value: Any
    size: int
    """The length of its text."""
    cut: bool = False
    """Whether the text breaks off within it."""


def read_pieces(text: str) -> list[Piece]:
    """Return every outermost object and list of objects in `text`; raise Unparsable if there is none.

    Malformed JSON is repaired. A value that breaks off is not completed; a list that breaks off has the items
    before that.
    """
    text, pieces, at = _LATEX.sub(_escaped, text), list[Piece](), 0
    flaw = Unparsable(f"there is no JSON in the answer: {text[:60]!r}")
    for _ in range(STARTS):
        if not (start := _JSON.search(text, at)):
            break
        at = start.start() + 1
        try:
            pieces.append(_read_piece(text, start.start()))
            at = start.start() + pieces[-1].size
        except BreaksOff as error:
            flaw = error
            if _OPENS_JSON.match(
                text, start.start()
            ):  # the answer breaks off here: no value before this one or within it is the answer
                pieces[-1:] = [piece._replace(cut=True) for piece in pieces[-1:]]
                break
        except Unparsable as error:
            flaw = flaw if isinstance(flaw, BreaksOff) else error
    if not pieces:
        raise flaw
    return pieces


def _read_piece(text: str, start: int) -> Piece:
    """Return the value that begins at `start`; raise Unparsable if it cannot be read."""
    with suppress(ValueError, RecursionError):
        end = json.JSONDecoder().raw_decode(text, start)[1]
        return Piece(loads(text[start:end]), end - start)
    outline = _outline(text, start)
    if outline.end:
        return Piece(_mended(text[start : outline.end]), outline.end - start)
    rest = _FENCE_END.sub("", text[start:]).rstrip()
    if rest[-1:] == _CLOSE[text[start]] and len(_QUOTE.findall(rest)) % 2 == 0:  # not escaped within a text
        return Piece(_mended(rest), len(rest))
    if not outline.quoted and rest[-1:] in "\"'}]":  # only the brackets at the end are missing
        missing = "".join(_CLOSE[bracket] for bracket in reversed(outline.open))
        return Piece(_mended(rest + missing), len(rest))
    if outline.items:
        return Piece(_mended(text[outline.list_start : outline.items] + "]"), len(rest), cut=True)
    raise BreaksOff(f"the answer breaks off before its JSON ends: {rest[-60:]!r}")


class _Outline(NamedTuple):
    """The brackets and quotation marks of a value that is not valid JSON."""

    end: int
    """The position after the closing bracket of the value; 0 if it is missing."""
    open: str = ""
    """The brackets that are not closed."""
    quoted: bool = False
    """Whether a quotation mark is not closed."""
    list_start: int = 0
    """The position of the open list."""
    items: int = 0
    """The position after the last complete item of the open list."""


def _outline(text: str, start: int) -> _Outline:
    brackets, quote, list_start, items = "", "", 0, 0
    for token in _TOKEN.finditer(text, start):
        character = token[0]
        if quote:
            if character == quote and _ENDS_TEXT.match(text, token.end()):
                quote = ""
        elif character in "\"'":
            before = text[: token.start()].rstrip()[-1:]
            quote = character if character == '"' or before in "{[,:" else ""
        elif character in "{[":
            if character == "[" and brackets in ("", "{"):
                list_start = token.start()
            brackets += character
        elif character in "}]" and brackets:
            brackets = brackets[:-1]
            if not brackets:
                return _Outline(token.end())
            if brackets in ("[", "{[") and character == "}":
                items = token.end()
    return _Outline(0, brackets, bool(quote), list_start, items)


def _mended(text: str) -> Any:
    """Return the value of malformed JSON, for example with surplus commas or single quotation marks."""
    from json_repair import repair_json

    with suppress(ValueError, RecursionError):  # strict: it makes up no missing value
        return loads(json.dumps(repair_json(text, return_objects=True, strict=True)))
    raise Unparsable(f"the answer is not JSON, and could not be repaired: {text[:60]!r}")


def _escaped(backslash_match: re.Match[str]) -> str:
    """Return a backslash and what follows as JSON: the backslash of a LaTeX command, or one that JSON does
    not allow, is doubled.
    """
    text, command = backslash_match[0], backslash_match[1] or ""
    if text[1:2] in ('"', "\\", "/", "'"):
        return text.replace("\\/", "/").replace("\\'", "'")
    if command[:1] in ("b", "f"):
        return f"\\{text}" if len(command) > 1 else text
    if command[:1] in ("n", "r", "t"):
        return f"\\{text}" if _COMMAND.fullmatch(command) else text
    if command[:1] == "u" and re.match(
        "u[0-9a-fA-F]{4}", backslash_match.string[backslash_match.start() + 1 : backslash_match.start() + 6]
    ):
        return text
    return f"\\{text}"


def _unfenced(text: str) -> str:
    """Return the content of a text that is one code block; any other text unchanged."""
    return _FENCE.sub(r"\1", text)


def _turns(text: str) -> list[dict[str, str]]:
    _, *marked = _TURN.split(text)
    roles = ["user" if speaker.lower() in _USER else "assistant" for speaker in marked[::2]]
    contents = [content.strip() for content in marked[1::2]]
    if len(set(roles)) < 2 or not all(contents):
        raise Unparsable(f"the answer is not a dialogue of 'User: …' and 'Assistant: …': {text[:60]!r}")
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


def _section(tag: str, text: str) -> str:
    section_match = re.search(rf"<{re.escape(tag)}>(.*?)</{re.escape(tag)}>", text, re.S | re.I)
    if not section_match or not section_match.group(1).strip():
        raise Unparsable(f"the section <{tag}>…</{tag}> is missing or empty")
    return section_match.group(1).strip()
