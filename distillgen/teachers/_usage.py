"""Read the token counts of an answer from the usage that its endpoint reports.

OpenAI, OpenRouter, Mistral, DeepSeek, Moonshot, Qwen, xAI, vLLM and llama.cpp include tokens read from a
cache and written to it in the prompt's tokens; Anthropic and Bedrock count them separately. OpenAI includes
reasoning in the answer's tokens; Gemini, Perplexity and xAI count it separately. If the names do not show it,
`total_tokens` does; if that is missing, the more expensive reading is used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

MOST = 10**9  # tokens; a larger number cannot be a count

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
_CACHE_WRITE = (
    "cachecreationinputtokens",
    "cachewriteinputtokens",
    "cachewritetokens",
    "cachecreationtokens",
)
_TIMED = ("ephemeral5minputtokens", "ephemeral1hinputtokens")  # parts of the tokens written to a cache
_MISSED = ("promptcachemisstokens",)
_FURTHER = ("tooluseprompttokencount", "citationtokens")  # input tokens that the prompt's do not include
_REASONING = ("reasoningtokens", "thinkingtokens", "thoughtstokencount")
_SEPARATE = (
    "cachereadinputtokens",
    "cachecreationinputtokens",
    "cachewriteinputtokens",
)  # not in `input_tokens`
_SIDES = {
    "input_tokens": {*_INPUT, *_READ, *_CACHE_WRITE, *_TIMED, *_MISSED, *_FURTHER},
    "output_tokens": {*_OUTPUT, *_REASONING},
}
_COUNT_NAMES = {*_TOTAL, *_SIDES["input_tokens"], *_SIDES["output_tokens"]}


def counts_of(usage: Any, *, answers: bool = True) -> dict[str, Any]:
    """Return the counts of a Completion; `uncounted` names those that are missing or no number of tokens. An
    embedding has no answer (`answers` is False): all its tokens are input.
    """
    if answers and (usual := usual_counts(usage)):
        return dict(zip(("input_tokens", "output_tokens"), usual, strict=True))
    counts, unreadable = dict[str, int](), set[str]()
    _gather(usage, counts, unreadable)
    total = _first(counts, _TOTAL)
    cached = _most(counts, _READ)
    cache_write = max(_most(counts, _CACHE_WRITE), sum(counts.get(name, 0) for name in _TIMED))
    reasoning, output = _most(counts, _REASONING), _first(counts, _OUTPUT) if answers else 0
    prompt = _first(counts, _INPUT)
    if (missed := _first(counts, _MISSED)) is not None:
        prompt = max(prompt or 0, missed + cached)
    if prompt is None and total is not None:
        prompt = max(0, total - (output or 0)) if output is not None else None
    if prompt is not None:
        prompt += sum(counts.get(name, 0) for name in _FURTHER)
        if (
            "prompttokens" not in counts
            and "inputtokens" in counts
            and any(name in counts for name in _SEPARATE)
        ):
            prompt += cached + cache_write
        excess = (total or 0) - prompt - (output or 0)
        apart = (
            "thoughtstokencount" in counts
            or _counts_reasoning_apart(usage)
            or reasoning > (output or 0)
            or excess >= reasoning
        )
        if output is not None and reasoning and apart:
            output, excess = output + reasoning, excess - reasoning
        if cached + cache_write > prompt or (0 < cached + cache_write <= excess and output is not None):
            prompt, excess = prompt + cached + cache_write, excess - cached - cache_write
        if excess > 0:
            prompt, output = (prompt, (output or 0) + excess) if answers else (prompt + excess, output)
    uncounted = [
        name for name, count in (("input_tokens", prompt), ("output_tokens", output)) if count is None
    ]
    uncounted += [name for name, names in _SIDES.items() if unreadable & names and name not in uncounted]
    if prompt == 0 and "input_tokens" not in uncounted:  # no request is empty
        uncounted.append("input_tokens")
    return {
        "input_tokens": prompt or 0,
        "cached_tokens": min(cached, prompt or 0),
        "output_tokens": output or 0,
        "cache_write_tokens": min(cache_write, max(0, (prompt or 0) - cached)),
        "reasoning_tokens": min(reasoning, output or 0),
        "uncounted": tuple(uncounted),
    }


def usual_counts(usage: Any) -> tuple[int, int] | None:
    """Return the tokens of prompt and answer if the usage has only these and their sum, as most have; else
    None.
    """
    if type(usage) is not dict or (len(usage) > 3 and sum(value is not None for value in usage.values()) > 3):
        return None
    prompt, answer = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(answer) is not int or not (0 < prompt <= MOST and 0 <= answer <= MOST):
        return None
    return (prompt, answer) if usage.get("total_tokens") == prompt + answer else None


def _gather(usage: Any, counts: dict[str, int], unreadable: set[str], depth: int = 0) -> None:
    """Put every count into `counts` under its plain name; endpoints nest them at most three levels deep."""
    for name, value in usage.items() if isinstance(usage, dict) else ():
        if isinstance(value, dict):
            if depth < 3:
                _gather(value, counts, unreadable, depth + 1)
        elif value is not None and (plain := _plain(name)):
            count = _count(value)
            if count is None:
                unreadable.add(plain)
            else:
                counts[plain] = max(counts.get(plain, 0), count)


@lru_cache(1024)
def _plain(name: str) -> str:
    """Return the name without underscores and capitals, or "" if it is not the name of a count."""
    return plain if (plain := name.replace("_", "").lower()) in _COUNT_NAMES else ""


def _count(value: Any) -> int | None:
    """Return a number of tokens, which may be written as text; None if the value is not one."""
    if type(value) is int:
        return value if 0 <= value <= MOST else None
    try:
        number = float(value) if isinstance(value, (str, float)) else math.nan
    except ValueError:
        return None
    return math.ceil(number) if 0 <= number <= MOST else None


def _first(counts: Mapping[str, int], names: tuple[str, ...]) -> int | None:
    return next((counts[name] for name in names if name in counts), None)


def _most(counts: Mapping[str, int], names: tuple[str, ...]) -> int:
    return max((counts[name] for name in names if name in counts), default=0)


def _counts_reasoning_apart(usage: Any) -> bool:
    """Return whether reasoning has a count of its own, outside the details of the answer's tokens."""
    return isinstance(usage, dict) and ("reasoning_tokens" in usage or "thinking_tokens" in usage)
