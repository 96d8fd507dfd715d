"""Bodies of OpenAI's Responses API: requests become its parameters, and a response the body of a chat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distillgen.inference.faults import Rejected
from distillgen.inference.request import Request
from distillgen.teachers._openai_wire import is_strict
from distillgen.teachers._settling import MISSING
from distillgen.teachers._turns import mappings, text_of

_FINISHES = {"max_output_tokens": "length"}


def parameters_of(request: Request) -> dict[str, Any]:
    """Return the parameters of a response in the background. Raise Rejected for content that is no text and
    no picture.
    """
    sampling = dict(request.sampling)
    body: dict[str, Any] = {"model": request.model, "input": list(_items(request.messages))}
    body |= sampling.pop("extra", {})
    limits = [body.pop("max_completion_tokens", 0), body.pop("max_tokens", 0), sampling.pop("max_tokens", 0)]
    if most := max(limits):
        body["max_output_tokens"] = most
    if effort := body.pop("reasoning_effort", None):
        body["reasoning"] = {**body.get("reasoning", {}), "effort": effort}
    if verbosity := body.pop("verbosity", None):
        body["text"] = {**body.get("text", {}), "verbosity": verbosity}
    if (top := sampling.pop("logprobs", None)) is not None:
        include = [*body.get("include", ()), "message.output_text.logprobs"]
        body |= {"top_logprobs": top, "include": include}
    if request.schema is not None:
        strict = is_strict(request.schema)
        form = {"type": "json_schema", "name": "answer", "schema": request.schema, "strict": strict}
        body["text"] = {**body.get("text", {}), "format": form}
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    return body | sampling | {"background": True, "store": True}


def _items(messages: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the items of the input. A tool's call and its result are items of their own."""
    for message in messages:
        role, content = message.get("role"), message.get("content")
        if role == "tool":
            call_id, output = str(message.get("tool_call_id", "")), _content(content, "input_text")
            yield {"type": "function_call_output", "call_id": call_id, "output": output}
            continue
        if content:
            kind = "output_text" if role == "assistant" else "input_text"
            yield {"role": role, "content": _content(content, kind)}
        for call in message.get("tool_calls") or ():
            function = call.get("function") or {}
            yield {
                "type": "function_call",
                "call_id": str(call.get("id", "")),
                "name": str(function.get("name", "")),
                "arguments": function.get("arguments") or "{}",
            }


def _content(content: Any, text_type: str) -> Any:
    """Return a text, or the parts of a turn."""
    if not isinstance(content, list):
        return content or ""
    parts = list[dict[str, Any]]()
    for part in content:
        if part.get("type") == "text":
            parts.append({"type": text_type, "text": part["text"]})
        elif part.get("type") == "image_url":
            picture = part["image_url"] if isinstance(part["image_url"], dict) else {"url": part["image_url"]}
            detail = picture.get("detail", "auto")
            parts.append({"type": "input_image", "image_url": picture["url"], "detail": detail})
        else:
            raise Rejected(f"the Responses API takes texts and pictures, and no '{part.get('type')}'")
    return parts


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool. Unlike chat, the API would hold its arguments to strict mode by itself."""
    function = tool.get("function") or tool
    return {
        "type": "function",
        "name": function["name"],
        "description": function.get("description", ""),
        "parameters": function.get("parameters") or {"type": "object", "properties": {}},
        "strict": bool(function.get("strict")),
    }


def chat_of(response: Mapping[str, Any]) -> dict[str, Any]:
    """Return a response that has ended as the body of a chat, with one choice; none if it has no output."""
    chat = {"model": response.get("model"), "usage": response.get("usage")}
    if not isinstance(response.get("output"), list):
        return chat
    items = mappings(response["output"])
    parts = [
        part for item in items if item.get("type") == "message" for part in mappings(item.get("content"))
    ]
    texts = [part for part in parts if part.get("type") == "output_text"]
    thoughts = [
        text_of(part.get("text")).strip()
        for item in items
        if item.get("type") == "reasoning"
        for name in ("summary", "content")
        for part in mappings(item.get(name))
    ]
    calls = [
        {
            "id": text_of(item.get("call_id")),
            "type": "function",
            "function": {"name": item.get("name"), "arguments": item.get("arguments")},
        }
        for item in items
        if item.get("type") == "function_call"
    ]
    message = {
        "role": "assistant",
        "content": "".join(text_of(part.get("text")) for part in texts),
        "refusal": "".join(text_of(part.get("refusal")) for part in parts if part.get("type") == "refusal"),
        "reasoning_content": "\n".join(filter(None, thoughts)),
        "tool_calls": calls,
    }
    logprobs = [token for part in texts for token in mappings(part.get("logprobs"))]
    choice = {
        "message": message,
        "finish_reason": _finish(response, bool(calls)),
        "logprobs": {"content": logprobs},
    }
    return {**chat, "choices": [choice]}


def _finish(response: Mapping[str, Any], calls: bool) -> str:
    """Return the finish reason that chat gives for such an end."""
    if response.get("status") == "completed":
        return "tool_calls" if calls else "stop"
    details = response.get("incomplete_details")
    reason = text_of(details.get("reason")) if isinstance(details, dict) else ""
    return _FINISHES.get(reason, reason) or text_of(response.get("status")) or MISSING
