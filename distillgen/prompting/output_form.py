"""Output forms: what an answer's text must look like, and the rows of fields that it becomes."""

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
NAMED = {"regex": "a pattern with named groups", "json": "a schema", "sections": "a list of tags"}
"""The forms that name their fields themselves, and by what."""

_JSON_TYPES = {"string", "number", "integer", "boolean", "array", "object", "null"}
_JSON = re.compile(r"\{|\[\s*[{\]]")
STARTS = 64  # brackets at which a value is looked for in one answer
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
    """The answer is not of the form that the prompt asks for; the text says how."""


class BreaksOff(Unparsable):
    """The answer ends before its JSON does."""


@dataclass(frozen=True)
class Form:
    """One output form. `checker` is a regex's pattern or a JSON schema's validator, `names` are the fields of
    a form that names its own, and `many` says whether one answer gives a list of rows.
    """

    kind: str
    checker: Any = None
    names: tuple[str, ...] = ()
    many: bool = False

    @classmethod
    def read(cls, value: Any) -> Form:
        """From front matter: `text`, `lines`, `numbered`, `turns`, or one of {regex: …}, {json: …},
        {sections: […]}.
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
                        "output: the regular expression needs named groups, (?P<field>…): they name the fields"
                    )
                return cls(kind, pattern, tuple(pattern.groupindex))
            case "sections", [str(), *_] if all(isinstance(tag, str) for tag in argument):
                return cls(kind, names=tuple(argument))
            case "json", Mapping() | list() if argument:
                return cls._json(argument)
            case (("regex" | "json" | "sections"), _):
                raise ConfigError(f"output: '{kind}' needs {NAMED[kind]}, as in {{{kind}: …}}")
        raise ConfigError(f"output: there is no form {value!r}{did_you_mean(str(kind), [*PLAIN, *NAMED])}")

    @classmethod
    def _json(cls, argument: Any) -> Form:
        """From a JSON Schema of an object, or of an array of them; `{question: string}` is short for one."""
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
        """The fields that a row gets; `output` names the single field of a form that does not name its own."""
        return list(self.names) or [output or ("messages" if self.kind == "turns" else "response")]

    @cached_property
    def schema(self) -> dict[str, Any] | None:
        """The JSON Schema to send to a teacher that can constrain itself: an object at the root, as endpoints
        want it.
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
        """The rows of an answer, all of them good: at least one. Raises Unparsable."""
        rows = []
        for row in self.rows(text, output):
            if isinstance(row, Unparsable):
                raise row
            rows.append(row)
        return rows

    def rows(self, text: str, output: str | None = None) -> list[dict[str, Any] | Unparsable]:
        """The rows of an answer, at least one of them good. In the place of a list's item that breaks its
        schema or is one too many stands what is wrong with it. Raises Unparsable.
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
                if not (found := self.checker.search(text)):
                    raise Unparsable(f"the answer does not match {self.checker.pattern!r}")
                return [{name: (value or "").strip() for name, value in found.groupdict().items()}]
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
        """Of several values in the text, the last that has the form: an example often stands before the
        answer.
        """
        pieces = read_pieces(text)
        values = [(piece.value, piece.size, piece.cut) for piece in pieces]
        objects = [piece for piece in pieces if isinstance(piece.value, dict)]
        if self.many and objects:  # a list without its brackets
            listed = [piece.value for piece in objects]
            values.insert(0, (listed, sum(piece.size for piece in objects), objects[-1].cut))
        wrong = list[tuple[int, Unparsable]]()
        for value, size, cut in reversed(values):
            if (
                self.many and isinstance(value, dict) and list(value) == ["items"]
            ):  # the root that `schema` wants
                value = value["items"]
            try:
                return self._rows_of(value, cut)
            except Unparsable as error:
                wrong.append((size, error))
        raise max(wrong, key=lambda each: each[0])[1]

    def _rows_of(self, value: Any, cut: bool) -> list[dict[str, Any] | Unparsable]:
        """The rows of one value; in a list that breaks off, something unusable stands in the place of what it
        breaks off in.
        """
        if cut and not self.many:
            raise BreaksOff("the answer breaks off before its JSON ends")
        wrong = dict[Any, Unparsable]()
        for error in self.checker.iter_errors(value):
            place = "/".join(str(part) for part in error.absolute_path)
            flaw = Unparsable(f"{place or 'the answer'}: {error.message[:200]}")
            if self.many and error.validator == "maxItems" and not place:
                over = Unparsable(f"one of {len(value)} items, {error.validator_value} are taken")
                wrong |= dict.fromkeys(range(error.validator_value, len(value)), over)
            elif self.many and place:
                wrong.setdefault(error.absolute_path[0], flaw)
            else:
                raise flaw
        rows = value if self.many else [value]
        if not rows:
            raise Unparsable("the answer breaks off before its JSON ends" if cut else "the list is empty")
        if len(wrong) == len(rows):
            raise wrong[0]
        good = [wrong.get(i) or {name: row.get(name) for name in self.names} for i, row in enumerate(rows)]
        return [*good, Unparsable("the answer breaks off within this item")] if cut else good


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
    """A value that was found in a text, the length of what it was read from, and whether the text breaks off
    within it.
    """

    value: Any
    size: int
    cut: bool = False


def read_pieces(text: str) -> list[Piece]:
    """Every outermost object and list of objects in `text`, at least one. What is nearly JSON is mended; what
    breaks off is not completed: of a list, the items before that are its value. Raises Unparsable.
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
            ):  # neither what stands before it nor within it is the answer
                pieces[-1:] = [piece._replace(cut=True) for piece in pieces[-1:]]
                break
        except Unparsable as error:
            flaw = flaw if isinstance(flaw, BreaksOff) else error
    if not pieces:
        raise flaw
    return pieces


def _read_piece(text: str, start: int) -> Piece:
    """The value that begins at `start`."""
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
    """Where the last of the brackets that begin somewhere closes (0: nowhere), those that are still open,
    whether a text is, and of a list that is, where it begins and where its last whole item ends.
    """

    end: int
    open: str = ""
    quoted: bool = False
    list_start: int = 0
    items: int = 0


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
    """What is nearly JSON, such as with commas too many or single quotation marks."""
    from json_repair import repair_json

    with suppress(ValueError, RecursionError):  # strict: a missing value is not made up
        return loads(json.dumps(repair_json(text, return_objects=True, strict=True)))
    raise Unparsable(f"the answer is not JSON, and could not be repaired: {text[:60]!r}")


def _escaped(found: re.Match[str]) -> str:
    """A backslash as JSON wants it: one that begins a command of LaTeX is doubled, and so is any that JSON
    does not know.
    """
    whole, word = found[0], found[1] or ""
    if whole[1:2] in ('"', "\\", "/", "'"):
        return whole.replace("\\/", "/").replace("\\'", "'")
    if word[:1] in ("b", "f"):
        return f"\\{whole}" if len(word) > 1 else whole
    if word[:1] in ("n", "r", "t"):
        return f"\\{whole}" if _COMMAND.fullmatch(word) else whole
    if word[:1] == "u" and re.match("u[0-9a-fA-F]{4}", found.string[found.start() + 1 : found.start() + 6]):
        return whole
    return f"\\{whole}"


def _unfenced(text: str) -> str:
    """What stands in a code block, where the text is one."""
    return _FENCE.sub(r"\1", text)


def _turns(text: str) -> list[dict[str, str]]:
    _, *marked = _TURN.split(text)
    roles = ["user" if speaker.lower() in _USER else "assistant" for speaker in marked[::2]]
    contents = [content.strip() for content in marked[1::2]]
    if len(set(roles)) < 2 or not all(contents):
        raise Unparsable(f"the answer is not a dialogue of 'User: …' and 'Assistant: …': {text[:60]!r}")
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


def _section(tag: str, text: str) -> str:
    found = re.search(rf"<{re.escape(tag)}>(.*?)</{re.escape(tag)}>", text, re.S | re.I)
    if not found or not found.group(1).strip():
        raise Unparsable(f"the section <{tag}>…</{tag}> is missing or empty")
    return found.group(1).strip()
