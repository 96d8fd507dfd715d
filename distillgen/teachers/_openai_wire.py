"""Response bodies of the OpenAI protocol as completions. A stranger wrote them: anything may be missing or of
another type.

A body that is no answer at all is Retryable. A choice that cannot be used is a failed completion, so that it
is kept, counted and not asked for again by itself, and its neighbours are used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from distillgen.inference.faults import Rejected, Retryable
from distillgen.inference.request import UNUSABLE_ANSWER, Completion
from distillgen.record import dumps, loads
from distillgen.teachers._settling import MISSING
from distillgen.teachers._usage import counts_of, usual_counts

if TYPE_CHECKING:
    pass

Logprobs = list[list[Any]]


def read_json(content: bytes) -> Any:
    """The value of a body, numbers that are not finite as null. Raises Retryable where it is not JSON."""
    try:
        return orjson.loads(content)
    except (
        orjson.JSONDecodeError
    ):  # a lone surrogate, NaN, a byte order mark, or no JSON: the slower reader tells
        try:
            return loads(dumps(json.loads(content)))
        except (ValueError, RecursionError) as error:
            what = f"the answer is not JSON: {content.decode('utf-8', 'replace')}"
            raise Retryable(what, used=UNUSABLE_ANSWER) from error


def completions_of(payload: Any) -> list[Completion]:
    """The choices of a response body, at least one; what it used is counted with the first. Raises Retryable."""
    if usual := _usual(payload):
        return [usual]
    choices = payload.get("choices") if isinstance(payload, dict) else None
    choices = [choice for choice in _list(choices) if isinstance(choice, dict)]
    if not choices:
        what = f"the answer is not a completion, or has no choices: {payload}"
        raise Retryable(what, used=unusable(payload))
    if all(type(choice.get("index")) is int for choice in choices):
        choices.sort(key=lambda choice: choice["index"])
    known: dict[str, Any] = {"model": _text(payload.get("model"))}
    made = [Completion(**_read(choice), **known) for choice in choices]
    counts = counts_of(payload.get("usage"))
    if not counts["output_tokens"] and any(c.text or c.reasoning or c.tool_calls for c in made):
        counts["uncounted"] = (*counts.get("uncounted", ()), "output_tokens")  # 0 for an answer is no count
    made[0] = made[0]._replace(**counts)
    return made


def _usual(payload: Any) -> Completion | None:
    """The completion of a body with one choice of plain text and usual counts, as most are: a short way to what the
    long one gives, too.
    """
    choices = payload.get("choices") if type(payload) is dict else None
    if type(choices) is not list or len(choices) != 1 or type(choices[0]) is not dict:
        return None
    choice = choices[0]
    message, finish, counts = (
        choice.get("message"),
        choice.get("finish_reason"),
        usual_counts(payload.get("usage")),
    )
    if (
        type(message) is not dict
        or type(finish) is not str
        or not finish
        or counts is None
        or choice.get("logprobs")
    ):
        return None
    text, model = message.get("content"), payload.get("model")
    if type(text) is not str or type(model) is not str or (text and not counts[1]):
        return None
    if len(message) > 2 and any(value for name, value in message.items() if name not in ("role", "content")):
        return None
    return Completion(text=text, finish=finish, model=model, input_tokens=counts[0], output_tokens=counts[1])


def unusable(payload: Any, *, answers: bool = True) -> Completion:
    """What a response used of which nothing can be used."""
    usage = _mapping(payload).get("usage")
    return UNUSABLE_ANSWER._replace(**{"uncounted": (), **counts_of(usage, answers=answers)})


def embedding_of(payload: Any) -> Completion:
    """The embedding in a response body. Raises Retryable where there is none, Rejected where it is no list of
    numbers.
    """
    data = _list(_mapping(payload).get("data"))
    if not data or "embedding" not in _mapping(data[0]):
        what = f"the answer is not an embedding: {payload}"
        raise Retryable(what, used=unusable(payload, answers=False))
    values = data[0]["embedding"]
    if not isinstance(values, list) or not values or not all(map(_is_number, values)):
        what = f"the embedding is not a list of finite numbers: {str(values)[:60]}"
        raise Rejected(what, used=unusable(payload, answers=False))
    counts = counts_of(payload.get("usage"), answers=False)
    return Completion(embedding=values, model=_text(payload.get("model")), **counts)


def score_of(payload: Any, target: str) -> Completion:
    """The log-probabilities of the end of a prompt, which vLLM's server gives as `prompt_logprobs`. Raises
    Rejected.
    """
    try:
        prompt = payload.get("prompt_logprobs") or payload["choices"][0]["prompt_logprobs"]
        tokens = [
            [[each["decoded_token"], each["logprob"]] for each in token.values()] for token in prompt if token
        ]
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        what = f"the endpoint gave no prompt_logprobs, as only vLLM's server does: {error!r}"
        raise Rejected(what, used=unusable(payload)) from error
    ending, left = Logprobs(), len(target)
    for (text, value), *others in reversed(tokens):
        if left <= 0:
            break
        ending.insert(0, [text, value, [other for other in others if _is_number(other[1])]])
        left -= len(text)
    if left > 0 or not all(_is_number(value) for _, value, _ in ending):
        what = "the endpoint gave prompt_logprobs that are not numbers, or fewer than the text has tokens"
        raise Rejected(what, used=unusable(payload))
    return Completion(logprobs=ending, model=_text(payload.get("model")), **counts_of(payload.get("usage")))


def _read(choice: Any) -> dict[str, Any]:
    """What one choice says, of either protocol."""
    if not isinstance(choice, dict) or not (isinstance(choice.get("message"), dict) or "text" in choice):
        return {"status": "failed", "error": f"a choice of the answer has no message: {str(choice)[:60]}"}
    message = _mapping(choice.get("message"))
    content = message.get("content") if message else choice.get("text")
    text, thought, other = _content(content)
    finish = choice.get("finish_reason")
    known: dict[str, Any] = {
        "text": text,
        "reasoning": "\n".join(filter(None, (_thought_apart(message), thought))),
        "tool_calls": _tool_calls(message),
        "logprobs": _logprobs(choice.get("logprobs")),
        "finish": MISSING if finish is None else str(finish) or MISSING,
    }
    if refusal := _text(message.get("refusal")) or (text if other == "refusal" else ""):
        return known | {"text": refusal, "status": "refused"}
    if other:
        return known | {
            "status": "failed",
            "error": f"the answer's content is no text: it is, or holds, '{other}'",
        }
    return known


def _content(content: Any) -> tuple[str, str, str]:
    """The text of a message's content, the thought in it, and the type of what is neither."""
    texts, thoughts, other = list[str](), list[str](), ""
    for part in content if isinstance(content, list) else [] if content is None else [content]:
        kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
        if isinstance(part, str):
            texts.append(part)
        elif kind in ("text", "output_text") and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in ("thinking", "reasoning", "reasoning_text", "redacted_thinking"):
            inner = next(
                (inner for name in ("thinking", "reasoning", "text") if (inner := part.get(name))), None
            )
            thoughts.append(_content(inner)[0])
        else:
            texts.append(_text(part.get("refusal")) if kind == "refusal" else "")
            other = other or str(kind)
    return "".join(texts), "".join(thoughts), other


def _thought_apart(message: Mapping[str, Any]) -> str:
    """The thought that stands beside the content."""
    apart = next(
        (apart for name in ("reasoning_content", "reasoning", "thinking") if (apart := message.get(name))),
        None,
    )
    return _content(apart)[0].strip()


def _tool_calls(message: Mapping[str, Any]) -> list[Any]:
    """The calls, and the one of the older protocol."""
    calls = message.get("tool_calls")
    older = message.get("function_call")
    calls = (
        calls
        if isinstance(calls, list)
        else [{"type": "function", "function": older}]
        if isinstance(older, dict)
        else []
    )
    return [call for call in calls if isinstance(call, dict)]


def _logprobs(value: Any) -> Logprobs:
    """Each token with its log-probability and alternatives, in the form of chat or of completions; none where
    one that was sampled is no finite number.
    """
    given = _mapping(value)
    signals = Logprobs()
    if isinstance(given.get("content"), list):
        for each in map(_mapping, given["content"]):
            others = [
                [other.get("token"), other.get("logprob")]
                for other in map(_mapping, _list(each.get("top_logprobs")))
            ]
            signals.append([each.get("token"), each.get("logprob"), others])
    else:
        tokens, tops = _list(given.get("tokens")), _list(given.get("top_logprobs"))
        for i, (token, number) in enumerate(zip(tokens, _list(given.get("token_logprobs")), strict=False)):
            others = [[*pair] for pair in _mapping(tops[i] if i < len(tops) else None).items()]
            signals.append([token, number, sorted(filter(_is_signal, others), key=lambda pair: -pair[1])])
    if not all(map(_is_signal, signals)):
        return []
    return [[token, number, list(filter(_is_signal, others))] for token, number, others in signals]


def _is_signal(signal: Sequence[Any]) -> bool:
    return isinstance(signal[0], str) and _is_number(signal[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def say_schema(sent: dict[str, Any], response_format: Mapping[str, Any]) -> None:
    """Ask in words for the JSON that a schema describes."""
    schema = dumps(response_format.get("json_schema", {}).get("schema", {}), sort_keys=False).decode()
    words = f"\n\nAnswer with JSON alone, by this JSON Schema: {schema}"
    if "prompt" in sent:
        sent["prompt"] += words
        return
    *before, last = sent["messages"]
    content = last["content"]
    more = content + words if isinstance(content, str) else [*content, {"type": "text", "text": words}]
    sent["messages"] = [*before, {**last, "content": more}]


def is_strict(schema: Any) -> bool:
    """Whether a schema satisfies what OpenAI's strict mode demands of every object in it."""
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") != "object":
        return is_strict(schema.get("items"))
    properties = schema.get("properties") or {}
    closed = schema.get("additionalProperties") is False and set(schema.get("required") or ()) == set(
        properties
    )
    return closed and all(map(is_strict, properties.values()))
