"""What an answer used, in whatever words its endpoint says so, as the counts that are priced.

OpenAI, OpenRouter, Mistral, DeepSeek, Moonshot, Qwen, xAI, vLLM and llama.cpp count what was read from a cache and written
to it among the prompt's tokens; Anthropic and Bedrock count it beside them. Reasoning stands among the answer's tokens at
OpenAI and beside them at Gemini, Perplexity and xAI. `total_tokens` tells where the names do not; where nothing does, the
reading is taken that costs more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MOST = 10**9  # more tokens than any model reads or writes at once; a larger number counts nothing

_INPUT = ("prompttokens", "inputtokens", "prompttokencount", "promptevalcount", "tokensevaluated")
_OUTPUT = ("completiontokens", "outputtokens", "candidatestokencount", "evalcount", "tokenspredicted")
_TOTAL = ("totaltokens", "totaltokencount")
_READ = (
    "cachedtokens",
    "cachereadinputtokens",
    "cachereadtokens",
    "prompttokenscached",
    "cachedcontenttokencount",
    "prompttokenscachehit",
    "promptcachehittokens",
)
_WRITTEN = ("cachecreationinputtokens", "cachewriteinputtokens", "cachewritetokens", "cachecreationtokens")
_TIMED = (
    "ephemeral5minputtokens",
    "ephemeral1hinputtokens",
)  # the parts of what was written, by how long it is kept
_MISSED = ("promptcachemisstokens",)
_FURTHER = ("tooluseprompttokencount", "citationtokens")  # read beside the prompt
_REASONING = ("reasoningtokens", "thinkingtokens", "thoughtstokencount")
_BESIDE = (
    "cachereadinputtokens",
    "cachecreationinputtokens",
    "cachewriteinputtokens",
)  # beside `input_tokens`
_SIDES = {
    "input_tokens": {*_INPUT, *_READ, *_WRITTEN, *_TIMED, *_MISSED, *_FURTHER},
    "output_tokens": {*_OUTPUT, *_REASONING},
}
_KNOWN = {*_TOTAL, *_SIDES["input_tokens"], *_SIDES["output_tokens"]}


def counts_of(usage: Any, *, answers: bool = True) -> dict[str, Any]:
    """The counts of a Completion; `uncounted` names those that are not said, or not as a number of tokens. An embedding
    `answers` nothing: all that it used was read.
    """
    if answers and (usual := usual_counts(usage)):
        return dict(zip(("input_tokens", "output_tokens"), usual, strict=True))
    said, unreadable = dict[str, int](), set[str]()
    _gather(usage, said, unreadable)
    total = _first(said, _TOTAL)
    read, written = _most(said, _READ), max(_most(said, _WRITTEN), sum(said.get(name, 0) for name in _TIMED))
    reasoning, output = _most(said, _REASONING), _first(said, _OUTPUT) if answers else 0
    prompt = _first(said, _INPUT)
    if (missed := _first(said, _MISSED)) is not None:
        prompt = max(prompt or 0, missed + read)
    if prompt is None and total is not None:
        prompt = max(0, total - (output or 0)) if output is not None else None
    if prompt is not None:
        prompt += sum(said.get(name, 0) for name in _FURTHER)
        if "prompttokens" not in said and "inputtokens" in said and any(name in said for name in _BESIDE):
            prompt += read + written
        excess = (total or 0) - prompt - (output or 0)
        apart = (
            "thoughtstokencount" in said
            or _is_beside(usage)
            or reasoning > (output or 0)
            or excess >= reasoning
        )
        if output is not None and reasoning and apart:
            output, excess = output + reasoning, excess - reasoning
        if read + written > prompt or (0 < read + written <= excess and output is not None):
            prompt, excess = prompt + read + written, excess - read - written
        if excess > 0:
            prompt, output = (prompt, (output or 0) + excess) if answers else (prompt + excess, output)
    uncounted = [
        name for name, count in (("input_tokens", prompt), ("output_tokens", output)) if count is None
    ]
    uncounted += [name for name, names in _SIDES.items() if unreadable & names and name not in uncounted]
    if prompt == 0 and "input_tokens" not in uncounted:  # no request is of nothing
        uncounted.append("input_tokens")
    return {
        "input_tokens": prompt or 0,
        "cached_tokens": min(read, prompt or 0),
        "output_tokens": output or 0,
        "cache_write_tokens": min(written, max(0, (prompt or 0) - read)),
        "reasoning_tokens": min(reasoning, output or 0),
        "uncounted": tuple(uncounted),
    }


def usual_counts(usage: Any) -> tuple[int, int] | None:
    """The tokens of prompt and answer where a body says these and their sum, and nothing else, as most do."""
    if type(usage) is not dict or (len(usage) > 3 and sum(value is not None for value in usage.values()) > 3):
        return None
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(read) is not int or type(written) is not int or not (0 < read <= MOST and 0 <= written <= MOST):
        return None
    return (read, written) if usage.get("total_tokens") == read + written else None


def _gather(usage: Any, said: dict[str, int], unreadable: set[str], depth: int = 0) -> None:
    """Every count, at the few depths at which endpoints give them, under its plain name."""
    for name, value in usage.items() if isinstance(usage, dict) else ():
        if isinstance(value, dict):
            if depth < 3:
                _gather(value, said, unreadable, depth + 1)
        elif value is not None and (plain := _plain(name)):
            count = _count(value)
            if count is None:
                unreadable.add(plain)
            else:
                said[plain] = max(said.get(plain, 0), count)


@lru_cache(1024)
def _plain(name: str) -> str:
    """The name without underscores and capitals, or nothing where it counts nothing that is priced."""
    return plain if (plain := name.replace("_", "").lower()) in _KNOWN else ""


def _count(value: Any) -> int | None:
    """A number of tokens, also one that is written as a text; None where it is none."""
    if type(value) is int:
        return value if 0 <= value <= MOST else None
    try:
        number = float(value) if isinstance(value, (str, float)) else math.nan
    except ValueError:
        return None
    return math.ceil(number) if 0 <= number <= MOST else None


def _first(said: Mapping[str, int], names: tuple[str, ...]) -> int | None:
    return next((said[name] for name in names if name in said), None)


def _most(said: Mapping[str, int], names: tuple[str, ...]) -> int:
    return max((said[name] for name in names if name in said), default=0)


def _is_beside(usage: Any) -> bool:
    """Whether the reasoning is counted as an item of its own, and not in the details of the answer's tokens."""
    return isinstance(usage, dict) and ("reasoning_tokens" in usage or "thinking_tokens" in usage)
