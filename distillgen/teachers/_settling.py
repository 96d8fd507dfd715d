"""Settle an answer before it is stored: how it ended, where its reasoning ends, and whether its signals are
there.

An answer that is not complete is stored with its text and never counts as complete.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from distillgen.inference.reasoning import SIGNS, opens_thought, split_reasoning
from distillgen.inference.request import Completion, Request

MISSING = "missing"
"""The finish reason of an answer that came without one."""

_KINDS = {
    "ok": (
        "stop stopped end_turn stop_sequence stop_token eos eos_token end_of_text endoftext "
        "end_of_sequence word complete completed finish finished done normal"
    ),
    "called": "tool_calls tool_call tool_use function_call function_calls",
    "length": (
        "length max_tokens max_token max_length max_new_tokens max_output_tokens max_output "
        "token_limit limit model_length context_length context_window_exceeded "
        "model_context_window_exceeded context_length_exceeded error_limit max_prompt_length "
        "incomplete"
    ),
    "refused": (
        "content_filter content_filtered content_filter_error safety image_safety recitation "
        "image_recitation blocklist prohibited_content image_prohibited_content spii sensitive "
        "refusal refused blocked moderation guardrail_intervened guardrails error_toxic flagged "
        "model_armor jailbreak "
        "language"
    ),
    "failed": (
        "error abort aborted cancelled canceled user_cancel network_error "
        "insufficient_system_resource timeout time_limit repetition repetition_truncation pause_turn "
        "malformed_function_call unexpected_tool_call too_many_tool_calls malformed_model_output "
        "malformed_tool_use malformed_response missing_thought_signature "
        "model_error server_error engine_overloaded not_finished load unload null "
        "other image_other no_image finish_reason_unspecified unspecified unknown"
    ),
}
_KIND = {word: kind for kind, words in _KINDS.items() for word in words.split()}
"""Finish reasons, in lower case, of OpenAI, Anthropic, Gemini, Mistral, Cohere, DeepSeek, Zhipu, Qwen,
Bedrock, watsonx, Ollama, TGI, vLLM, SGLang and llama.cpp. An answer with another finish reason is not
complete, unless the model's entry in the pipeline allows it.
"""


@lru_cache(256)
def kind_of(finish_reason: str) -> str:
    """Return ok, called (it calls a tool), length, refused or failed; "" for an unknown finish reason."""
    return _KIND.get(re.sub(r"[\s-]+", "_", finish_reason.strip().lower()).removeprefix("finish_reason_"), "")


def settled(
    request: Request, completion: Completion, allowed: Collection[str] = (), *, opened: bool = False
) -> Completion:
    """Return the completion as it is stored. `allowed` holds further finish reasons of complete answers;
    `opened` says that the chat template ends inside reasoning.
    """
    c = completion
    if (
        c.finish == "stop"
        and c.status == "ok"
        and not (opened or c.reasoning or c.tool_calls)
        and request.messages
    ):
        plain = not any(sign in c.text for sign in SIGNS) and not c.text.lstrip().startswith("analysis")
        if plain and request.messages[-1].get("role") != "assistant" and "logprobs" not in request.sampling:
            return c._replace(finish="")  # a short way for most answers
    opened = opened or opens_thought(_last_text(request))
    reasoning, text, complete = split_reasoning(
        c.text, opened=opened, is_named=lambda mark: _names(request, mark)
    )
    if text is not c.text or c.reasoning:
        parts = dict.fromkeys(part for part in (c.reasoning.strip(), reasoning) if part)
        c = c._replace(text=text.strip(), reasoning="\n".join(parts))
    if c.status != "ok":
        return c._replace(finish="")
    kind = "ok" if c.finish in allowed else kind_of(c.finish)
    if kind in ("length", "refused"):
        plain = c.finish.lower() in ("length", "content_filter")
        return c._replace(status=kind, finish="" if plain else c.finish)
    if kind == "failed":
        return c._replace(status="failed", error=f"the endpoint ended the answer with '{c.finish}'")
    if c.tool_calls and not request.tools:
        return _failed(c, f"the answer calls a tool, {_tool(c.tool_calls)}, and was offered none")
    if kind == "called" and not c.tool_calls:
        return _failed(c, f"the answer ended with '{c.finish}' and calls no tool")
    if not complete:
        return _failed(c, "the answer is a thought that does not end")
    if not kind:
        return c._replace(status="failed", error=_unknown(c.finish))
    return _with_signals(request, c._replace(finish=""))


def _failed(completion: Completion, why: str) -> Completion:
    """Return a failed completion without a finish reason, so that allowing that later does not make it ok."""
    return completion._replace(status="failed", error=why, finish="")


def _unknown(finish: str) -> str:
    word = f"with '{finish}'" if finish != MISSING else "without a finish_reason"
    remedy = f"if it is whole, add to the model's entry: finish_reasons: [{finish}]"
    return f"the answer ended {word}, which is not known to end a whole answer; {remedy}"


def _with_signals(request: Request, completion: Completion) -> Completion:
    """Return the completion, failed if the log-probabilities that the request asks for are missing or
    incomplete.
    """
    top = request.sampling.get("logprobs")
    if top is None or completion.tool_calls or not completion.text:
        return completion
    if not completion.logprobs:
        return _failed(completion, "log-probabilities were asked for, and none that are numbers came")
    if top and not any(len(token[2]) for token in completion.logprobs):
        return _failed(completion, f"{top} alternatives of each token were asked for, and none came")
    tokens = "".join(str(token[0]) for token in completion.logprobs)
    if _visible(tokens) < _visible(completion.text):
        count = len(completion.logprobs)
        return _failed(
            completion, f"log-probabilities came of {count} tokens only, which are not the whole answer"
        )
    return completion


def _visible(text: str) -> int:
    """Return the number of ASCII characters but spaces: tokens of every tokenizer hold them unchanged."""
    return sum("!" <= character <= "~" for character in text)


def _names(request: Request, mark: str) -> bool:
    """Return whether the request names a tag, so that the tag belongs to the answer that it asks for."""
    name = re.split(r"\s", mark)[0].encode().lower()
    text = request.json.lower()
    return any(opening + name in text for opening in (b"<", b"[")) or mark.startswith("<|") and name in text


def _last_text(request: Request) -> str:
    """Return the text right before the answer: the prompt, or a last message that the answer continues."""
    if request.prompt is not None:
        return request.prompt
    last: Mapping[str, Any] = request.messages[-1] if request.messages else {}
    return last["content"] if last.get("role") == "assistant" and isinstance(last.get("content"), str) else ""


def _tool(calls: Sequence[Any]) -> str:
    function = calls[0].get("function") if isinstance(calls[0], Mapping) else None
    return repr(
        function["name"] if isinstance(function, Mapping) and "name" in function else "one without a name"
    )


def chat_text(content: Any) -> Any:
    """Return the text of a message. Raise ValueError if it has parts that are not text."""
    parts = content if isinstance(content, list) else []
    if other := [part.get("type") for part in parts if part.get("type") != "text"]:
        raise ValueError(
            f"provider vllm takes text, not '{other[0]}'; `vllm serve` and provider openai take it"
        )
    return "\n".join(part["text"] for part in parts) if parts else content
