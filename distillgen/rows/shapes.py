"""The shapes of rows that trainers and tools read, for the stage format and for export."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

from distillgen.errors import ConfigError, did_you_mean
from distillgen.record import SCORES, Unrenderable, is_reference, text_of
from distillgen.rows.tool_turns import Turns, has_calls, sharegpt_turns, tools_text, trained_turns
from distillgen.text.template import compile_template

Fields: TypeAlias = Mapping[str, Any]

MESSAGES, TOOLS, IMAGES = "messages", "tools", "images"
_SHAREGPT = {
    "system": "system",
    "user": "human",
    "assistant": "gpt",
    "tool": "tool",
    "function_call": "function_call",
    "observation": "observation",
}
_QUESTIONS = ("prompt", "instruction", "question", "query", "input")
_ANSWERS = ("completion", "response", "answer", "output")


@dataclass(frozen=True)
class Shape:
    """The columns of a shape. `parts` maps each part to other names of fields that can fill it."""

    parts: Mapping[str, Sequence[str]]
    optional: Mapping[str, Any] = field(default_factory=dict)
    """Parts that may be missing, with their default; None: the part is left out."""
    column: str | None = None
    """Its only column, if its parts are not its columns."""
    assemble: Callable[[Fields], dict[str, Any]] = dict
    from_turns: Callable[[Turns], dict[str, Any]] | None = None
    """The function that makes a row of `messages`, if there is one."""
    holds: Literal["texts", "dialogues", "values"] = "texts"
    """The type of its parts: texts; texts or dialogues; or any values."""
    values: Sequence[str] = ()
    """The parts that hold any values, if the others do not."""
    tools: Literal["never", "maybe", "always"] = "never"
    """Whether it has the column `tools`; maybe: if there is such a field."""


def _dialogue(turns: Turns) -> dict[str, Any]:
    return {MESSAGES: trained_turns(turns)}


def _turns(parts: Fields) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": parts[role]} for role in ("system", "user", "assistant") if role in parts
    ]


def _sharegpt(turns: Turns) -> dict[str, Any]:
    _refuse_parts(turns, "ShareGPT")
    turns = sharegpt_turns(turns) if has_calls(turns) else turns
    if strange := {turn["role"] for turn in turns} - set(_SHAREGPT):
        raise Unrenderable(f"ShareGPT has no name for the role '{min(strange)}'")
    return {"conversations": [{"from": _SHAREGPT[turn["role"]], "value": turn["content"]} for turn in turns]}


def _last_turn_apart(turns: Turns) -> dict[str, Any]:
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise Unrenderable("its messages do not end with an answer to something")
    turns = trained_turns(turns)
    return {"prompt": list(turns[:-1]), "completion": [turns[-1]]}


def _alpaca(turns: Turns) -> dict[str, Any]:
    _refuse_parts(turns, "Alpaca")
    if has_calls(turns):
        raise Unrenderable("Alpaca has no form for tool calls")
    if (roles := [turn["role"] for turn in turns]) != ["user", "assistant"]:
        raise Unrenderable(
            f"Alpaca holds one question and its answer, not the turns {', '.join(roles) or 'of nobody'}"
        )
    return {"instruction": turns[0]["content"], "input": "", "output": turns[1]["content"]}


def _kto(parts: Fields) -> dict[str, Any]:
    if parts["label"] not in (True, False):  # 1 and 0 are equal to these
        raise Unrenderable("its 'label' is neither true nor false")
    return {**parts, "label": bool(parts["label"])}


_CHAT = {"system": (), "user": _QUESTIONS, "assistant": _ANSWERS}
_PAIR = {"prompt": _QUESTIONS[1:], "chosen": (), "rejected": ()}
_LABELLED_ANSWER = {"prompt": _QUESTIONS[1:], "completion": _ANSWERS[1:], "label": ()}
SHAPES = {
    "messages": Shape(
        _CHAT, {"system": None}, MESSAGES, lambda parts: _dialogue(_turns(parts)), _dialogue, tools="maybe"
    ),
    "tools": Shape(
        _CHAT, {"system": None}, MESSAGES, lambda parts: _dialogue(_turns(parts)), _dialogue, tools="always"
    ),
    "sharegpt": Shape(
        _CHAT,
        {"system": None},
        "conversations",
        lambda parts: _sharegpt(_turns(parts)),
        _sharegpt,
        tools="maybe",
    ),
    "prompt_completion": Shape(
        {"prompt": _QUESTIONS[1:], "completion": _ANSWERS[1:]},
        from_turns=_last_turn_apart,
        holds="dialogues",
        tools="maybe",
    ),
    "alpaca": Shape(
        {"instruction": ("prompt", "question", "query"), "input": (), "output": _ANSWERS[:3]},
        {"input": ""},
        from_turns=_alpaca,
    ),
    "preference": Shape(_PAIR, {"prompt": None}, holds="dialogues"),
    "dpo": Shape(_PAIR, holds="dialogues"),
    "unpaired_preference": Shape(_LABELLED_ANSWER, holds="dialogues", values=("label",)),
    "kto": Shape(_LABELLED_ANSWER, assemble=_kto, holds="dialogues", values=("label",)),
    "labelled": Shape({"text": ("sentence", "document"), "label": ()}, holds="values"),
    "triples": Shape(
        {"head": ("subject", "node_1"), "relation": ("predicate", "edge"), "tail": ("object", "node_2")}
    ),
}


@dataclass(frozen=True)
class Shaper:
    """Makes rows of one shape. `sources` are the field or template of each part."""

    columns: tuple[str, ...]
    sources: Mapping[str, str]
    row: Callable[[Fields], dict[str, Any]]
    """The function from a record's fields to its row. It raises Unrenderable with the reason if there is no
    row.
    """

    @cached_property
    def reads(self) -> frozenset[str]:
        """`scores`, if a template can read them: `row` then takes them beside the fields."""
        return frozenset([SCORES] if any(SCORES in source for source in self.sources.values()) else [])


def shaper(name: str, assignments: Mapping[str, str], fields: Collection[str]) -> Shaper:
    """Return the Shaper that gives records with these fields the shape `name`.

    `assignments` name the field or the template of a part. Without one, a part is the field of its name, or
    comes from `messages`, or is the only field with another of its names. A chat has the column `tools` if
    there is a field of that name, or if it is assigned, and the column `images` only if that is. Raise
    ConfigError, with the nearest name, if there is none.
    """
    if name not in SHAPES:
        raise ConfigError(f"there is no shape '{name}'{did_you_mean(name, SHAPES)}")
    shape = SHAPES[name]
    if name in (MESSAGES, TOOLS) and (images := assignments.get(IMAGES)) is not None:
        if images not in fields:
            mistake = f"{name}: 'images' needs the field '{images}', and there is none"
            raise ConfigError(f"{mistake}{did_you_mean(images, fields)}")
        others = {part: source for part, source in assignments.items() if part != IMAGES}
        return _with_images(shaper(name, others, fields), images)
    tools = assignments.get(TOOLS, TOOLS if TOOLS in fields or shape.tools == "always" else None)
    if shape.tools != "never" and tools is not None:
        if tools not in fields:
            mistake = f"{name}: 'tools' needs the field '{tools}', and there is none"
            raise ConfigError(f"{mistake}{did_you_mean(tools, fields)}")
        others = {part: source for part, source in assignments.items() if part != TOOLS}
        return _with_tools(_shaper(name, others, fields), tools, needed=shape.tools == "always")
    return _shaper(name, assignments, fields)


def _with_images(chat: Shaper, field: str) -> Shaper:
    """Return a Shaper that shows the pictures of a field before the first question, in the form that TRL and
    processors of transformers read: a part for each, and the pictures themselves in the column `images`.
    """

    def row(fields: Fields) -> dict[str, Any]:
        value, shaped = fields.get(field), chat.row(fields)
        pictures = value if isinstance(value, list) else [value]
        if not pictures or not all(map(is_reference, pictures)):
            raise Unrenderable(f"'{field}' holds no picture")
        turns = [{**turn, "content": _as_parts(turn["content"])} for turn in shaped[MESSAGES]]
        first = next((turn for turn in turns if turn["role"] == "user"), None)
        if first is None:
            raise Unrenderable("its messages have no question that a picture could go with")
        first["content"] = [{"type": "image", "text": None} for _ in pictures] + first["content"]
        return {**shaped, MESSAGES: turns, IMAGES: pictures}

    return Shaper((*chat.columns, IMAGES), {**chat.sources, IMAGES: field}, row)


def _as_parts(content: Any) -> list[Any]:
    """Return the content of a turn as parts."""
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _with_tools(chat: Shaper, field: str, *, needed: bool) -> Shaper:
    """Return a Shaper that adds the column `tools` from a field; if they are `needed`, each row has some."""

    def row(fields: Fields) -> dict[str, Any]:
        text = tools_text(fields.get(field))
        if text is None and needed:
            raise Unrenderable(f"its '{field}' are no tools")
        return {**chat.row(fields), TOOLS: text}

    return Shaper((*chat.columns, TOOLS), {**chat.sources, TOOLS: field}, row)


def _shaper(name: str, assignments: Mapping[str, str], fields: Collection[str]) -> Shaper:
    """Return the Shaper of a shape without tools."""
    shape = SHAPES[name]
    for part in assignments:
        if part not in shape.parts:
            raise ConfigError(f"the shape '{name}' has no part '{part}'{did_you_mean(part, shape.parts)}")
    needed = shape.parts.keys() - shape.optional.keys()
    if shape.from_turns and MESSAGES in fields and not assignments and not needed <= set(fields):
        return Shaper(
            (shape.column,) if shape.column else tuple(shape.parts),
            {name: MESSAGES},
            _of_turns(shape.from_turns),
        )
    getters: dict[str, Callable[[Fields], Any]] = {}
    sources: dict[str, str] = {}
    for part, others in shape.parts.items():
        source = assignments.get(part) or _default_source(
            name, part, [part, *others], fields, part in shape.optional
        )
        if source is not None:
            sources[part] = source
            getters[part] = _getter(
                name, part, source, fields, "values" if part in shape.values else shape.holds
            )
        elif shape.optional[part] is not None:
            getters[part] = lambda _, value=shape.optional[part]: value  # type: ignore[misc]
    columns = (shape.column,) if shape.column else tuple(getters)
    return Shaper(
        columns, sources, lambda row: shape.assemble({part: get(row) for part, get in getters.items()})
    )


def _default_source(
    shape: str, part: str, names: Sequence[str], fields: Collection[str], optional: bool
) -> str | None:
    """Return the field of a part that has no assignment. Raise ConfigError if there is none, or several."""
    if part in fields:
        return part
    candidates = [name for name in names if name in fields]
    if len(candidates) == 1:
        return candidates[0]
    if optional and not candidates:
        return None
    remedy = f"say which field it is: {shape}:{part}=…"
    if candidates:
        raise ConfigError(
            f"the shape '{shape}' needs '{part}', which could be {' or '.join(map(repr, candidates))}; "
            f"{remedy}"
        )
    raise ConfigError(
        f"the shape '{shape}' needs '{part}', and there is no such field"
        f"{did_you_mean(part, fields, otherwise=remedy)}"
    )


def _getter(
    shape: str, part: str, source: str, fields: Collection[str], kind: str
) -> Callable[[Fields], Any]:
    """Return the function that takes a part from a record's fields."""
    template = None
    if "{{" in source or "{%" in source:
        try:
            template = compile_template(source, "")
        except ConfigError as error:
            raise ConfigError(
                f"{shape}: the template of '{part}': {error.message.removeprefix('template: ')}"
            ) from error
    for name in sorted(template.needed) if template else [source]:
        if name not in fields and not (template and name == SCORES):
            raise ConfigError(
                f"{shape}: '{part}' needs the field '{name}', and there is none{did_you_mean(name, fields)}"
            )

    def get(row: Fields) -> Any:
        if template:
            return template.render(row)
        value = row.get(source)
        if value is None:
            raise Unrenderable(
                f"'{source}' is null" if source in row else f"there is no '{source}' in the row"
            )
        if isinstance(value, str) or kind == "values":
            return value
        if isinstance(value, list) and kind == "dialogues" and _are_turns(value):
            return value
        if isinstance(value, Mapping | list):
            wrong_type = "no text and no dialogue" if kind == "dialogues" else "no text"
            raise Unrenderable(f"'{source}' is {wrong_type}: make one with a template")
        return text_of(value)

    return get


def _are_turns(turns: Any) -> bool:
    """Whether a value is a dialogue: turns with a role and a content, which is a text or a list of parts."""
    return all(
        isinstance(turn, Mapping)
        and {"role", "content"} <= turn.keys()
        and (isinstance(turn["content"], str | None) or _are_parts(turn["content"]))
        for turn in turns
    )


def _are_parts(content: Any) -> bool:
    """Whether a turn's content is a list of parts with a type, such as a text and a picture."""
    return isinstance(content, list) and all(isinstance(part, Mapping) and "type" in part for part in content)


def _refuse_parts(turns: Turns, shape: str) -> None:
    """Raise Unrenderable for a turn whose content is not a text."""
    if any(isinstance(turn["content"], list) for turn in turns):
        raise Unrenderable(f"{shape} holds texts, and a turn is a list of parts")


def _of_turns(convert: Callable[[Turns], dict[str, Any]]) -> Callable[[Fields], dict[str, Any]]:
    def make(row: Fields) -> dict[str, Any]:
        turns = row.get(MESSAGES)
        if not isinstance(turns, list) or not turns:
            raise Unrenderable(f"there are no '{MESSAGES}' in the row")
        if not _are_turns(turns):
            raise Unrenderable(f"its '{MESSAGES}' are no turns of role and content")
        return convert(turns)

    return make
