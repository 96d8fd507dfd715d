"""Chat turns and tools in OpenAI's form, taken apart for other protocols, and answers of these protocols."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from distillgen.inference.faults import Rejected, Retryable
from distillgen.inference.request import Completion, Request
from distillgen.record import dumps
from distillgen.teachers._openai_wire import unusable
from distillgen.teachers._settling import MISSING
from distillgen.teachers._usage import counts_of

_DATA = re.compile(r"data:([\w.+/-]+);base64,(.*)", re.DOTALL)


class Text(NamedTuple):
    """A text."""

    text: str


class Picture(NamedTuple):
    """A picture: its media type and its content in base64; or, without a type, its URL."""

    media: str
    content: str


class Sound(NamedTuple):
    """A sound: its format, such as wav, and its content in base64."""

    format: str
    content: str


class Call(NamedTuple):
    """A call of a tool. `signature` is what the provider wants back with it."""

    id: str
    name: str
    arguments: Any
    signature: str = ""


class Result(NamedTuple):
    """What a tool gave back to the call with this id."""

    id: str
    name: str
    text: str


Part = Text | Picture | Sound | Call | Result
Turn = tuple[str, list[Part]]


def turns_of(messages: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Turn]]:
    """Return the texts of the system, and the turns of "user" and "assistant", which alternate. Raise
    Rejected for content that is no text, picture or sound.
    """
    system, turns, names = list[str](), list[Turn](), dict[str, str]()
    for message in messages:
        role = message.get("role")
        if role in ("system", "developer"):
            system += [part.text for part in _parts(message.get("content")) if isinstance(part, Text)]
            continue
        if role == "tool":
            call = str(message.get("tool_call_id", ""))
            text = "".join(part.text for part in _parts(message.get("content")) if isinstance(part, Text))
            parts: list[Part] = [Result(call, names.get(call, str(message.get("name", ""))), text)]
        else:
            parts = [*_parts(message.get("content")), *_calls(message.get("tool_calls") or ())]
        names |= {part.id: part.name for part in parts if isinstance(part, Call)}
        speaker = "assistant" if role == "assistant" else "user"
        if turns and turns[-1][0] == speaker:
            turns[-1][1].extend(parts)
        else:
            turns.append((speaker, parts))
    return system, turns


def _parts(content: Any) -> Iterator[Part]:
    for part in content if isinstance(content, list) else [] if content is None else [content]:
        if isinstance(part, str):
            if part:
                yield Text(part)
        elif part.get("type") == "text":
            yield Text(part["text"])
        elif part.get("type") == "image_url":
            url = part["image_url"]["url"] if isinstance(part["image_url"], Mapping) else part["image_url"]
            data = _DATA.fullmatch(url)
            yield Picture(data[1], data[2]) if data else Picture("", url)
        elif part.get("type") == "input_audio":
            yield Sound(part["input_audio"]["format"], part["input_audio"]["data"])
        else:
            raise Rejected(f"this provider takes texts and pictures, and no '{part.get('type')}'")


def _calls(calls: Iterable[Mapping[str, Any]]) -> Iterator[Call]:
    for call in calls:
        function = call.get("function") or {}
        signature = ((call.get("extra_content") or {}).get("google") or {}).get("thought_signature", "")
        try:
            arguments = orjson.loads(function.get("arguments") or b"{}")
        except orjson.JSONDecodeError as error:
            raise Rejected(f"the arguments of an earlier tool call are not JSON: {error}") from error
        yield Call(str(call.get("id", "")), str(function.get("name", "")), arguments, signature)


def call_of(id: str, name: Any, arguments: Any, signature: Any = "") -> dict[str, Any]:
    """Return a tool call in OpenAI's form."""
    call: dict[str, Any] = {
        "id": id,
        "type": "function",
        "function": {"name": str(name), "arguments": dumps(arguments, sort_keys=False).decode()},
    }
    if signature:  # the form of Gemini's own OpenAI endpoint
        call["extra_content"] = {"google": {"thought_signature": signature}}
    return call


def functions_of(request: Request) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the name, the description and the JSON Schema of each tool of a request."""
    for tool in request.tools or ():
        function = tool.get("function") or tool
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        yield function["name"], function.get("description", ""), schema


class Answer(NamedTuple):
    """One answer of a protocol, in pieces."""

    texts: Sequence[str] = ()
    thoughts: Sequence[str] = ()
    calls: Sequence[Mapping[str, Any]] = ()
    finish: Any = None
    refusal: str = ""
    """Why there is no answer, in the provider's words."""
    logprobs: Sequence[Sequence[Any]] = ()


def completions_from(payload: Any, answers: Sequence[Answer], usage: Any, model: Any) -> list[Completion]:
    """Return the completions of a payload, the first with its usage. Raise Retryable if there is none."""
    if not answers:
        raise Retryable(
            f"the answer is not a completion: {str(payload)[:300]}", used=unusable({"usage": usage})
        )
    completions = [
        Completion(
            text="".join(answer.texts) or answer.refusal,
            status="refused" if answer.refusal else "ok",
            reasoning="\n".join(filter(None, (thought.strip() for thought in answer.thoughts))),
            tool_calls=list(answer.calls),
            logprobs=answer.logprobs,
            finish=str(answer.finish or MISSING),
            model=model if isinstance(model, str) else "",
        )
        for answer in answers
    ]
    counts = counts_of(usage)
    if not counts["output_tokens"] and any(answer.texts or answer.calls for answer in answers):
        counts["uncounted"] = (*counts["uncounted"], "output_tokens")  # an answer has tokens
    completions[0] = completions[0]._replace(**counts)
    return completions


def text_of(value: Any) -> str:
    """Return a text, or "" for what is none."""
    return value if isinstance(value, str) else ""


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return the mappings of a list, or none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
