"""The shapes that trainers and tools read, made of a record's fields: one mechanism for the format stage and for export."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from distillgen.errors import ConfigError, did_you_mean
from distillgen.record import Unrenderable, text_of
from distillgen.text.template import compile_template

Fields: TypeAlias = Mapping[str, Any]
Turns: TypeAlias = Sequence[Mapping[str, Any]]

MESSAGES = "messages"
_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt", "tool": "tool"}
_ASKED = ("prompt", "instruction", "question", "query", "input")
_ANSWERED = ("completion", "response", "answer", "output")


@dataclass(frozen=True)
class Shape:
    """What a row of it holds. `parts` are what it is made of, each with other names by which a field is known for it."""

    parts: Mapping[str, Sequence[str]]
    optional: Mapping[str, Any] = field(default_factory=dict)
    """Parts that may be missing, with what stands for them; None: nothing does."""
    column: str | None = None
    """The one column that it has, where its parts are not its columns."""
    assemble: Callable[[Fields], dict[str, Any]] = dict
    from_turns: Callable[[Turns], dict[str, Any]] | None = None
    """How a dialogue of `messages` becomes a row, where it can."""
    holds: Literal["texts", "dialogues", "values"] = "texts"
    """What its parts are: texts; texts or dialogues; or whatever they are."""


def _dialogue(turns: Turns) -> dict[str, Any]:
    return {MESSAGES: list(turns)}


def _turns(parts: Fields) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": parts[role]} for role in ("system", "user", "assistant") if role in parts
    ]


def _sharegpt(turns: Turns) -> dict[str, Any]:
    if strange := {turn["role"] for turn in turns} - set(_SHAREGPT):
        raise Unrenderable(f"ShareGPT has no name for the role '{min(strange)}'")
    return {"conversations": [{"from": _SHAREGPT[turn["role"]], "value": turn["content"]} for turn in turns]}


def _last_turn_apart(turns: Turns) -> dict[str, Any]:
    if len(turns) < 2 or turns[-1]["role"] != "assistant":
        raise Unrenderable("its messages do not end with an answer to something")
    return {"prompt": list(turns[:-1]), "completion": [turns[-1]]}


def _alpaca(turns: Turns) -> dict[str, Any]:
    if (roles := [turn["role"] for turn in turns]) != ["user", "assistant"]:
        raise Unrenderable(
            f"Alpaca holds one question and its answer, not the turns {', '.join(roles) or 'of nobody'}"
        )
    return {"instruction": turns[0]["content"], "input": "", "output": turns[1]["content"]}


_CHAT = {"system": (), "user": _ASKED, "assistant": _ANSWERED}
SHAPES = {
    "messages": Shape(_CHAT, {"system": None}, MESSAGES, lambda parts: _dialogue(_turns(parts)), _dialogue),
    "sharegpt": Shape(
        _CHAT, {"system": None}, "conversations", lambda parts: _sharegpt(_turns(parts)), _sharegpt
    ),
    "prompt_completion": Shape(
        {"prompt": _ASKED[1:], "completion": _ANSWERED[1:]}, from_turns=_last_turn_apart, holds="dialogues"
    ),
    "alpaca": Shape(
        {"instruction": ("prompt", "question", "query"), "input": (), "output": _ANSWERED[:3]},
        {"input": ""},
        from_turns=_alpaca,
    ),
    "preference": Shape(
        {"prompt": _ASKED[1:], "chosen": (), "rejected": ()}, {"prompt": None}, holds="dialogues"
    ),
    "labelled": Shape({"text": ("sentence", "document"), "label": ()}, holds="values"),
    "triples": Shape(
        {"head": ("subject", "node_1"), "relation": ("predicate", "edge"), "tail": ("object", "node_2")}
    ),
}


@dataclass(frozen=True)
class Shaper:
    """Makes rows of one shape. `taken` tells what each part is made of."""

    columns: tuple[str, ...]
    taken: Mapping[str, str]
    row: Callable[[Fields], dict[str, Any]]
    """A record's row, of its fields. Raises Unrenderable with the reason where it has none."""


def shaper(name: str, given: Mapping[str, str], fields: Collection[str]) -> Shaper:
    """How records with `fields` get the shape `name`. `given` says for a part the field, or a template, that it is made of;
    what is not given is the field of the part's own name, else comes from `messages`, else is the one field that has another of
    its names. Raises ConfigError, with the nearest name, where a part is not to be found.
    """
    if name not in SHAPES:
        raise ConfigError(f"there is no shape '{name}'{did_you_mean(name, SHAPES)}")
    shape = SHAPES[name]
    for part in given:
        if part not in shape.parts:
            raise ConfigError(f"the shape '{name}' has no part '{part}'{did_you_mean(part, shape.parts)}")
    needed = shape.parts.keys() - shape.optional.keys()
    if shape.from_turns and MESSAGES in fields and not given and not needed <= set(fields):
        return Shaper(
            (shape.column,) if shape.column else tuple(shape.parts),
            {name: MESSAGES},
            _of_turns(shape.from_turns),
        )
    getters: dict[str, Callable[[Fields], Any]] = {}
    taken: dict[str, str] = {}
    for part, others in shape.parts.items():
        source = given.get(part) or _known(name, part, [part, *others], fields, part in shape.optional)
        if source is not None:
            taken[part] = source
            getters[part] = _getter(name, part, source, fields, shape.holds)
        elif shape.optional[part] is not None:
            getters[part] = lambda _, value=shape.optional[part]: value  # type: ignore[misc]
    columns = (shape.column,) if shape.column else tuple(getters)
    return Shaper(
        columns, taken, lambda row: shape.assemble({part: get(row) for part, get in getters.items()})
    )


def _known(
    shape: str, part: str, names: Sequence[str], fields: Collection[str], optional: bool
) -> str | None:
    """The field that a part is made of, where nobody says."""
    if part in fields:
        return part
    found = [name for name in names if name in fields]
    if len(found) == 1:
        return found[0]
    if optional and not found:
        return None
    remedy = f"say which field it is: {shape}:{part}=…"
    if found:
        raise ConfigError(
            f"the shape '{shape}' needs '{part}', which could be {' or '.join(map(repr, found))}; {remedy}"
        )
    raise ConfigError(
        f"the shape '{shape}' needs '{part}', and there is no such field{did_you_mean(part, fields)}; {remedy}"
    )


def _getter(
    shape: str, part: str, source: str, fields: Collection[str], kind: str
) -> Callable[[Fields], Any]:
    """What takes a part out of a record's fields."""
    template = None
    if "{{" in source or "{%" in source:
        try:
            template = compile_template(source, "")
        except ConfigError as error:
            raise ConfigError(
                f"{shape}: the template of '{part}': {error.message.removeprefix('template: ')}"
            ) from error
    for name in sorted(template.needed) if template else [source]:
        if name not in fields:
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
            what = "no text and no dialogue" if kind == "dialogues" else "no text"
            raise Unrenderable(f"'{source}' is {what}: make one with a template")
        return text_of(value)

    return get


def _are_turns(turns: Any) -> bool:
    """Whether a value is a dialogue: turns of role and text."""
    return all(isinstance(turn, Mapping) and {"role", "content"} <= turn.keys() for turn in turns)


def _of_turns(convert: Callable[[Turns], dict[str, Any]]) -> Callable[[Fields], dict[str, Any]]:
    def make(row: Fields) -> dict[str, Any]:
        turns = row.get(MESSAGES)
        if not isinstance(turns, list) or not turns:
            raise Unrenderable(f"there are no '{MESSAGES}' in the row")
        if not _are_turns(turns):
            raise Unrenderable(f"its '{MESSAGES}' are no turns of role and content")
        return convert(turns)

    return make
