"""Bodies of the OpenAI protocol: responses become completions. Anything in a response may be missing or of
another type.

A body that is no answer raises Retryable. A choice that cannot be used becomes a failed completion: it is
stored and counted, it is not asked again by itself, and the other choices are used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from distillgen.inference.faults import Rejected, Retryable
from distillgen.inference.request import UNUSABLE_ANSWER, Completion
from distillgen.record import dumps, loads
from distillgen.teachers._settling import MISSING
from distillgen.teachers._usage import counts_of, usual_counts

Logprobs = list[list[Any]]


def read_json(content: bytes) -> Any:
    """Return the value of a body, with null for numbers that are not finite. Raise Retryable if it is not
    JSON.
    """
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:  # the slower reader accepts lone surrogates, NaN and a byte order mark
        try:
            return loads(dumps(json.loads(content)))
        except (ValueError, RecursionError) as error:
            fault = f"the answer is not JSON: {content.decode('utf-8', 'replace')}"
            raise Retryable(fault, used=UNUSABLE_ANSWER) from error


def completions_of(payload: Any) -> list[Completion]:
    """Return the choices of a body, at least one, the first with the usage. Raise Retryable."""
    if usual := _usual(payload):
        return [usual]
    choices = payload.get("choices") if isinstance(payload, dict) else None
    choices = [choice for choice in _list(choices) if isinstance(choice, dict)]
    if not choices:
        fault = f"the answer is not a completion, or has no choices: {payload}"
        raise Retryable(fault, used=unusable(payload))
    if all(type(choice.get("index")) is int for choice in choices):
        choices.sort(key=lambda choice: choice["index"])
    model = _text(payload.get("model"))
    completions = [Completion(**_fields_of(choice), model=model) for choice in choices]
    counts = counts_of(payload.get("usage"))
    if not counts["output_tokens"] and any(c.text or c.reasoning or c.tool_calls for c in completions):
        counts["uncounted"] = (*counts.get("uncounted", ()), "output_tokens")  # an answer has tokens
    completions[0] = completions[0]._replace(**counts)
    return completions


def _usual(payload: Any) -> Completion | None:
    """Return the completion of a body with one choice of plain text and usual counts, else None. Most bodies
    are so; this gives the same result as the long way, in less time.
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
    """Return the usage of a response that has no usable answer."""
    usage = _mapping(payload).get("usage")
    return UNUSABLE_ANSWER._replace(**{"uncounted": (), **counts_of(usage, answers=answers)})


def embedding_of(payload: Any) -> Completion:
    """Return the embedding in a body. Raise Retryable if there is none, Rejected if it is malformed."""
    data = _list(_mapping(payload).get("data"))
    if not data or "embedding" not in _mapping(data[0]):
        fault = f"the answer is not an embedding: {payload}"
        raise Retryable(fault, used=unusable(payload, answers=False))
    values = data[0]["embedding"]
    if not isinstance(values, list) or not values or not all(map(_is_number, values)):
        fault = f"the embedding is not a list of finite numbers: {str(values)[:60]}"
        raise Rejected(fault, used=unusable(payload, answers=False))
    counts = counts_of(payload.get("usage"), answers=False)
    return Completion(embedding=values, model=_text(payload.get("model")), **counts)


def score_of(payload: Any, target: str) -> Completion:
    """Return the log-probabilities of the end of a prompt, which vLLM's server gives as `prompt_logprobs`.
    Raise Rejected.
    """
    try:
        prompt = payload.get("prompt_logprobs") or payload["choices"][0]["prompt_logprobs"]
        tokens = [
            [[entry["decoded_token"], entry["logprob"]] for entry in token.values()]
            for token in prompt
            if token
        ]
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        fault = f"the endpoint gave no prompt_logprobs, as only vLLM's server does: {error!r}"
        raise Rejected(fault, used=unusable(payload)) from error
    ending, missing = Logprobs(), len(target)
    for (text, value), *others in reversed(tokens):
        if missing <= 0:
            break
        ending.insert(0, [text, value, [other for other in others if _is_number(other[1])]])
        missing -= len(text)
    if missing > 0 or not all(_is_number(value) for _, value, _ in ending):
        fault = "the endpoint gave prompt_logprobs that are not numbers, or fewer than the text has tokens"
        raise Rejected(fault, used=unusable(payload))
    return Completion(logprobs=ending, model=_text(payload.get("model")), **counts_of(payload.get("usage")))


def _fields_of(choice: Any) -> dict[str, Any]:
    """Return the fields of a completion that a choice holds, of chat or of completions."""
    if not isinstance(choice, dict) or not (isinstance(choice.get("message"), dict) or "text" in choice):
        return {"status": "failed", "error": f"a choice of the answer has no message: {str(choice)[:60]}"}
    message = _mapping(choice.get("message"))
    content = message.get("content") if message else choice.get("text")
    text, thought, other = _content(content)
    finish = choice.get("finish_reason")
    values: dict[str, Any] = {
        "text": text,
        "reasoning": "\n".join(filter(None, (_thought_apart(message), thought))),
        "tool_calls": _tool_calls(message),
        "logprobs": _logprobs(choice.get("logprobs")),
        "finish": MISSING if finish is None else str(finish) or MISSING,
    }
    if refusal := _text(message.get("refusal")) or (text if other == "refusal" else ""):
        return values | {"text": refusal, "status": "refused"}
    if other:
        return values | {
            "status": "failed",
            "error": f"the answer's content is no text: it is, or holds, '{other}'",
        }
    return values


def _content(content: Any) -> tuple[str, str, str]:
    """Return the text of a content, the reasoning in it, and the type of a part that is neither."""
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
    """Return the reasoning beside the content."""
    apart = next(
        (apart for name in ("reasoning_content", "reasoning", "thinking") if (apart := message.get(name))),
        None,
    )
    return _content(apart)[0].strip()


def _tool_calls(message: Mapping[str, Any]) -> list[Any]:
    """Return the tool calls, or the function call of the older protocol."""
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
    """Return each token with its log-probability and alternatives, from the form of chat or of completions.
    Return nothing if a log-probability of a sampled token is not a finite number.
    """
    fields = _mapping(value)
    signals = Logprobs()
    if isinstance(fields.get("content"), list):
        for entry in map(_mapping, fields["content"]):
            others = [
                [other.get("token"), other.get("logprob")]
                for other in map(_mapping, _list(entry.get("top_logprobs")))
            ]
            signals.append([entry.get("token"), entry.get("logprob"), others])
    else:
        tokens, tops = _list(fields.get("tokens")), _list(fields.get("top_logprobs"))
        for i, (token, number) in enumerate(zip(tokens, _list(fields.get("token_logprobs")), strict=False)):
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


def add_schema(body: dict[str, Any], response_format: Mapping[str, Any]) -> None:
    """Put the JSON Schema of an answer into the prompt of a body."""
    schema = dumps(response_format.get("json_schema", {}).get("schema", {}), sort_keys=False).decode()
    words = f"\n\nAnswer with JSON alone, by this JSON Schema: {schema}"
    if "prompt" in body:
        body["prompt"] += words
        return
    *before, last = body["messages"]
    content = last["content"]
    more = content + words if isinstance(content, str) else [*content, {"type": "text", "text": words}]
    body["messages"] = [*before, {**last, "content": more}]


def is_strict(schema: Any) -> bool:
    """Return whether every object of a schema meets the demands of OpenAI's strict mode."""
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") != "object":
        return is_strict(schema.get("items"))
    properties = schema.get("properties") or {}
    closed = schema.get("additionalProperties") is False and set(schema.get("required") or ()) == set(
        properties
    )
    return closed and all(map(is_strict, properties.values()))
