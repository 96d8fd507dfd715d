"""Read the reason of an endpoint that does not answer from its status and body. Providers use different words
and statuses.

A refusal is about the prompt (the row fails), the account or the address (the run stops), a parameter (it is
left out), its value (the run stops), or the moment (the request is tried again).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

import orjson

from distillgen.inference.faults import Rejected, TeacherDown, Unreachable
from distillgen.record import loads

Kind = Literal["prompt", "money", "day", "account", "address", "moment", "other"]

LONGEST_WAIT_S = 600.0  # an endpoint that asks for a longer pause stops the run; running again continues it

_SAYING = frozenset(
    "error errors message msg code type status reason reasons detail details title param loc raw metadata"
    " innererror fault faultstring status_code status_msg base_resp error_msg error_code error_message"
    " description violations quotaId quotaMetric retryDelay".split()
)
"""Keys whose values are the endpoint's own words. Other values may repeat the prompt."""


def _any(*signs: str) -> re.Pattern[str]:
    return re.compile("|".join(signs))


_EMPTY = _any(
    r"insufficient[ _-]?(\w+ )?(balance|quota|credit|fund)",
    r"balance[^.\n]{0,40}(insufficient|too low|not enough|exhausted|empty|negative)",
    r"(no|not|any|out of|enough|used all|available|exhausted|buy|purchase|more|included)( \w+){0,2} "
    r"credits?\b",
    r"credits?([ _]limit| balance)?[^.\n]{0,30}(exceeded|exhausted|expired|too low|insufficient|used up"
    r"|depleted)",
    r"payment[ _-]?required|billing[ _](error|hard|limit|not[ _]active)|exceeded_current_quota|past invoices",
    r"(monthly|spending|spend|budget|key|usage)[ _](\w+ )?(limits?|cap)\b[^.\n]{0,30}(reached|exceeded"
    r"|exhausted|hit)",
    r"(reached|exceeded|hit)( \w+){0,4} (monthly|spending|spend|budget|usage)( \w+)? (limits?|cap|credits)",
    r"recharge|arrear|overdue|top up|free[ _]?tier[^.\n]{0,40}(exhausted|only)|freetieronly",
    r"out of call volume quota|quota[^.\n]{0,20}(used up|exhausted)|\u4f59\u989d|\u6b20\u8d39|\u5145\u503c",
)
_QUOTA = _any(r"exceeded your current quota|check your plan and billing")
_SOON = _any(r"per[ _-]?(min|sec|hour)|/ ?min|\b[rt]p[ms]\b|(again|retry) (in|after)|rate[ _-]?limit")
_DAY = _any(r"per[ _-]?(day|week|month)|\bdaily\b|\b[rt]pd\b|/ ?(day|month)\b")
_SUSPENDED = _any(
    r"(account|organi[sz]ation|user|team|project|workspace|access)\b[^.\n]{0,60}"
    r"(suspend|terminat|deactivat|disabl|banned|locked|good standing|not active|inactive)",
    "account_deactivated|access_terminated",
)
_PROMPT = _any(
    r"content[ _-]?(filter|policy|management|moderation|violat|safety)|content exists risk|data_?inspection",
    r"(input|prompt|request|text|content|message|query|question)s?( \w+){0,3} "
    r"(flagged|blocked|unsafe|inappropriate|harmful|sensitive)",
    r"violat\w+( \w+){0,4} (polic|guideline|terms)|usage (polic|guideline)|responsible_?ai|moderation",
    r"safety[ _](system|check|filter|setting|reason|guard)|blocked_reason|prohibited|high risk"
    r"|invalid_prompt",
    r"inappropriate|sensitive|jailbreak|guardrail|unsafe|harmful|\bprompt\b[^.\n]{0,40}(reject|refus)",
    r"\u4e0d\u5b89\u5168|\u654f\u611f|\u8fdd\u89c4",
)
_KEY = _any(
    r"(invalid|incorrect|wrong|missing|expired|revoked|no)( \w+){0,2} "
    r"(api[ _-]?(key|token)|(access|bearer|auth\w*)[ _]token|credential)",
    r"api[ _-]?key[^.\n]{0,30}(not valid|invalid|incorrect|expired|missing|revoked|required)",
    "api_key_invalid|invalid_api_key|user location|unsupported_country|login fail",
)
_RIGHTS = _any(
    r"api[ _-]?key|authenti|authori[sz]|permission|access|credential|\btoken\b|country|region|location",
    r"subscription|firewall|network|\bip\b|\bterms\b|verif|licen[cs]e|account|organi[sz]ation|not allowed",
)
_NOT_TAKEN = _any(
    r"unsupported|not (be )?support|n't support|unknown|unrecogni[sz]ed|unexpected|not (permitted|allowed)",
    r"extra_forbidden|extra (inputs|fields)|unavailable|not available|not (yet )?implemented|deprecated",
    r"no longer|only the default|incompatible|not compatible|not enabled|disabled",
    r"can ?not be (used|set|specified)|invalid (parameter|argument|field|key)",
)
_ONE = _any(r"(must be( equal to)?|at most|less than or equal to|only( n ?=)?) ?(1|one)\b")
_STREAM = _any(
    r"(only|must|requires?|enable)[^.\n]{0,40}stream|stream[^.\n]{0,30}(must|required|only|should be true)"
)
_NAMES = {
    "response_format": r"response[_ ]format|json[_ ]schema|structured[_ ]outputs?",
    "logprobs": r"(top_)?logprobs|log[ -]?prob\w*",
    "presencePenalty": r"\bpresence[_ ]?penalty\b|(?<!frequency )(?<!frequency_)\bpenalty\b",
    "frequencyPenalty": r"\bfrequency[_ ]?penalty\b|\bpenalty\b",
    "n": r"(?<![a-z0-9_.])['\"`]?n['\"`]?(?![a-z0-9_'-])|candidate_?count"
    r"|(multiple|number of|one) (choice|completion|candidate)",
}
_ALWAYS = frozenset({"model", "messages", "prompt", "input", "tools", "grammar", "stream", "suffix"})
"""Parameters that a request cannot do without."""
PROMPT_PARTS = _ALWAYS - {"model"} | {"system", "systemInstruction", "contents", "content", "toolConfig"}
"""Parameters that hold what differs from row to row."""
_OF_ROW = _any(
    r"context[ _-]?(length|window|size|limit)|\bprompts?\b|\bmessages\b|\binputs\b",
    r"\binput (length|tokens?|text)|reduce the (length|size)|too long",
)
_RANGE = _any(
    r"\bbetween\b|\brange\b|(less|greater|lower|higher|more) than|at (most|least) -?[\d.]|[<>]=? ?-?[\d.]",
    r"(above|below) (the )?(max|min)imum|too (large|small|high|low)",
)
COMMON = frozenset(
    "max_tokens max_completion_tokens temperature top_p top_k min_p stop seed n logprobs response_format"
    " presence_penalty frequency_penalty stream_options".split()
)
"""Parameters that a refusal may name, if the request is not known."""


class Explanation(NamedTuple):
    """The content of a body: its message for people, its words in small letters, and its status, or 0."""

    message: str
    words: str
    status: int


def explanation_of(content: bytes) -> Explanation:
    """Return the content of a body, which may be JSON, a web page or any text."""
    text = content.decode("utf-8", "replace").strip()
    if text.startswith("<"):
        title = page_title(text)
        return Explanation(f"a web page{f': {title}' if title else ''}", title.lower(), 0)
    try:
        body = loads(content)
    except ValueError:
        return Explanation(text, text.lower(), 0)
    body = body[0] if isinstance(body, list) and body else body
    leaves = list(_leaves(body))
    error = body.get("error") if isinstance(body, dict) else None
    sources = [source for source in (error, body) if isinstance(source, dict)]
    codes = [str(source.get(name)) for source in sources for name in ("code", "status", "status_code")]
    status = next((int(code) for code in codes if re.fullmatch("[45][0-9][0-9]", code)), 0)
    return Explanation(_message(body) or "; ".join(leaves), "\n".join(leaves).lower(), status)


_SENTENCES = "error message detail error_msg msg errors base_resp status_msg title description fault".split()


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        first = [name for name in ("message", "msg", "code", "type") if name in value]
        for name in [*first, *(name for name in value if name in _SAYING and name not in first)]:
            yield from _leaves(value[name])
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value not in (None, "", True, False):
        yield str(value)


def _message(body: Any) -> str:
    """Return the sentence for people in a body."""
    if isinstance(body, str):
        return body
    if isinstance(body, list):
        return "; ".join(filter(None, map(_message, body)))
    if not isinstance(body, Mapping):
        return ""
    if "loc" in body and isinstance(body.get("msg"), str):
        return f"{'.'.join(map(str, body['loc']))}: {body['msg']}"
    return next(filter(None, (_message(body[name]) for name in _SENTENCES if name in body)), "")


def page_title(text: str) -> str:
    """Return the title of a web page."""
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    return " ".join(title[1].split())[:100] if title else ""


def kind_of(status: int, explanation: Explanation, wait_s: float) -> Kind:
    """Return the kind of a refusal. `wait_s` is the pause that the endpoint asks for, or 0."""
    words = explanation.words
    status = explanation.status if status < 300 else status
    if status == 402 or _EMPTY.search(words):
        return "money"
    day = _DAY.search(words)
    if day and (status == 429 or "quota" in words or "limit" in words):
        return "moment" if wait_s and "resource_exhausted" not in words else "day"
    if _QUOTA.search(words) and not _SOON.search(words) and status not in (400, 404, 422):
        return "money"
    if _SUSPENDED.search(words):
        return "account"
    if _KEY.search(words) and status != 429 and status < 500:
        return "account"
    if status != 429 and (status < 500 or "content_filter" in words) and _PROMPT.search(words):
        return "prompt"
    if status == 401 or (status == 403 and _RIGHTS.search(words)) or status == 407:
        return "account"
    if status in (404, 405, 410) or 300 <= status < 400:
        return "address"
    return "moment" if status in (408, 409, 425, 429) or status >= 500 else "other"


def refused_parameter(status: int, explanation: Explanation, parameters: Iterable[str]) -> str:
    """Return the parameter that is not accepted, "stream" if the endpoint answers only as a stream, or ""."""
    words = explanation.words
    if status not in (200, 400, 404, 406, 415, 422, 500, 501):
        return ""
    names = list(parameters)
    if "stream" not in names and _STREAM.search(words):
        return "stream"
    if "n" in names and _ONE.search(words) and re.search(_NAMES["n"], words):
        return "n"
    if not _NOT_TAKEN.search(words):
        return ""
    places = {}
    for name in names:
        sign = _NAMES.get(name) or rf"(?<![a-z0-9_]){_spellings(name)}(?![a-z0-9_])"
        if name not in _ALWAYS and (match := re.search(sign, words)):
            places[name] = match.start()
    return min(places, key=lambda name: places[name], default="")


def refused_value(
    status: int, explanation: Explanation, parameters: Iterable[str], not_taken: str = ""
) -> str:
    """Return the parameter whose value is not accepted, or "".

    A complaint that names a parameter concerns every row, unless it speaks of the prompt. `not_taken` is the
    parameter that seems not to be accepted with any value.
    """
    words = explanation.words
    if (explanation.status if status == 200 else status) not in (400, 422) or _OF_ROW.search(words):
        return ""
    places = {}
    for name in set(parameters) - PROMPT_PARTS:
        if match := re.search(_mention_of(name), words, re.MULTILINE):
            places[name] = match.start()
    name = min(places, key=lambda name: places[name], default="")
    if not_taken and (not_taken != name or name == "n" or not _RANGE.search(words)):
        return ""
    return name


def _mention_of(name: str) -> str:
    """Return a pattern of a text that names a parameter. Short names are words of sentences, too: they must
    stand in quotes, before a colon, or alone.
    """
    spelling = "max(imum)?[_ ]?tokens" if name in ("max_tokens", "maxTokens") else _spellings(name)
    if len(name) > 8 or not (name.isalpha() and name.islower()):
        return rf"(?<![a-z0-9_]){spelling}(?![a-z0-9_])"
    quoted = rf"['\"`\[.]{spelling}['\"`\].]"
    return rf"^{spelling}$|{quoted}|(?<![a-z0-9_]){spelling}(\.[a-z_.]+)?['\"`\]]? ?:"


def _spellings(name: str) -> str:
    """Return a pattern of a parameter's name in small letters, as topK, top_k or top k."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "[_ ]?", re.escape(name)).lower()


_WAIT = re.compile(
    r"(?:retry|again|replenished|wait|available|reset)\w* (?:in|after|for) ((?:[\d.:]+ ?[a-z]*,? ?)+)"
)


def wait_of(headers: Mapping[str, str], explanation: Explanation, *, limited: bool) -> float:
    """Return the pause that an endpoint asks for, in seconds, 0 if it asks for none.

    It stands in Retry-After, in the body, or, if a limit was exceeded (`limited`), in the headers about
    limits.
    """
    if milliseconds := headers.get("retry-after-ms"):
        with suppress(ValueError):
            return max(0.0, float(milliseconds) / 1000)
    if (value := headers.get("retry-after")) and (wait_s := _moment_s(value)) is not None:
        return wait_s
    if match := _WAIT.search(explanation.words):
        if wait_s := _duration_s(match[1]):
            return wait_s
    if match := re.search(r"^(\d+(?:\.\d+)?)s$", explanation.words, re.MULTILINE):  # Google's retryDelay
        return float(match[1])
    return (
        max((_reset_s(headers, name) for name in headers if "reset" in name.lower()), default=0.0)
        if limited
        else 0.0
    )


def _reset_s(headers: Mapping[str, str], name: str) -> float:
    """Return the seconds until a limit is reset, 0 if this limit was not exceeded."""
    remaining = headers.get(name.lower().replace("reset", "remaining"))
    if remaining is not None and remaining.strip() not in ("0", "0.0"):
        return 0.0
    return _moment_s(headers[name]) or 0.0


def _moment_s(text: str) -> float | None:
    """Return the seconds from now that a header gives as a number, a duration, a date or a time stamp; else
    None.
    """
    text = text.strip()
    with suppress(ValueError):
        value = float(text)
        if value > 1e9:  # a time stamp, in milliseconds or seconds
            value = value / (1000 if value > 1e11 else 1) - time.time()
        return max(0.0, value)
    with suppress(ValueError):
        return max(0.0, datetime.fromisoformat(text).timestamp() - time.time())
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return _duration_s(text.lower())


def _duration_s(text: str) -> float | None:
    """Return the seconds of "1d2h3m4.5s", "250ms", "18:26:11" or "20 seconds"; None for other texts."""
    if clock := re.match(r"(\d+):(\d\d):(\d\d)", text):
        return int(clock[1]) * 3600.0 + int(clock[2]) * 60 + int(clock[3])
    units = {"ms": 0.001, "mil": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
    total, matched = 0.0, False
    for number, unit in re.findall(r"(\d+(?:\.\d+)?) ?(ms|mil|s|m|h|d)", text):
        total, matched = total + float(number) * units[unit], True
    return total if matched else None


def unstreamed(content: bytes) -> dict[str, Any] | None:
    """Return the answer in the events of a stream; None if there is no stream, or it breaks off."""
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    is_complete = False
    for line in content.splitlines():
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            is_complete = True
            continue
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(event, dict):
            return None
        if event.get("error"):
            return event
        answer |= {name: value for name, value in event.items() if name != "choices" and value is not None}
        for piece in event.get("choices") or ():
            last = _add_piece(choices.setdefault(piece.get("index") or 0, {}), piece)
            is_complete = last or is_complete
    if not is_complete or not choices:
        return None
    return {
        **answer,
        "object": "chat.completion",
        "choices": [choices[index] | {"index": index} for index in sorted(choices)],
    }


def _add_piece(choice: dict[str, Any], piece: Mapping[str, Any]) -> bool:
    """Add a piece to its choice; return whether it is the last one."""
    if "text" in piece:
        choice["text"] = choice.get("text", "") + (piece["text"] or "")
    if (delta := piece.get("delta") or piece.get("message")) is not None:
        message = choice.setdefault("message", {"role": "assistant", "content": ""})
        for name, value in delta.items():
            if name == "tool_calls":
                _add_calls(message.setdefault("tool_calls", []), value or ())
            elif name == "role" or value is None:
                continue
            else:
                message[name] = (
                    message[name] + value
                    if isinstance(message.get(name), str) and isinstance(value, str)
                    else value
                )
    for name, values in (piece.get("logprobs") or {}).items():
        logprobs = choice.setdefault("logprobs", {})
        logprobs[name] = (logprobs.get(name) or []) + values if isinstance(values, list) else values
    if reason := piece.get("finish_reason"):
        choice["finish_reason"] = reason
    return bool(reason)


def _add_calls(calls: list[dict[str, Any]], pieces: Iterable[Mapping[str, Any]]) -> None:
    """Add pieces of tool calls: the name is in the first piece, the arguments are in all."""
    for piece in pieces:
        index = piece.get("index") or 0
        while len(calls) <= index:
            calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
        call, function = calls[index], piece.get("function") or {}
        call |= {"id": piece["id"]} if piece.get("id") else {}
        for name in ("name", "arguments"):
            call["function"][name] += function.get(name) or ""


class NothingThere(TeacherDown):
    """HTTP 404."""


class WebPage(Unreachable):
    """A web page came with status 200, and no answer of a model."""

    tries = 2


class NotTaken(Rejected):
    """The endpoint does not accept the parameter `name`; "stream" means that it answers only as a stream."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


class Misfit(Rejected):
    """The endpoint does not accept the value of the parameter `name`."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


class Moved(Exception):
    """The endpoint redirects the request to another of its paths."""
