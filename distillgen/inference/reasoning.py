"""Split a text into a model's reasoning and its answer.

Endpoints and chat templates leave reasoning in an answer in many forms: tags, square brackets, special tokens
of one model family, the channels of gpt-oss, and closing tags whose opening is in the prompt. All teachers
use this file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

SIGNS = "<[◁"
"""A text without any of these characters that does not start with "analysis" has no reasoning."""
_CERTAIN = ("think", "seed:think", "mm:think", "antthinking")
_WORDS = (
    "thinking",
    "thought",
    "thoughts",
    "reasoning",
    "analysis",
    "scratchpad",
    "reflection",
    "inner_monologue",
)
_MARKS: list[tuple[str, str, str]] = [
    *((name, rf"<{name}(?:\s[^<>]*)?>", rf"</{name}\s*>") for name in (*_CERTAIN, *_WORDS)),
    *((name, rf"\[{name}\]", rf"\[/{name}\]") for name in ("think", "thinking", "reasoning")),
    ("think", r"<\|think(?:ing)?\|>", r"<\|/think(?:ing)?\|>"),
    ("think", "◁think▷", "◁/think▷"),  # Kimi
    ("think", r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # OpenThoughts
    ("think", r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Command
    ("think", r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
    ("think", r"<unused94>(?:thought\n)?", r"<unused95>"),  # MedGemma
    ("think", r"<\|channel>\w*\n?", r"<channel\|>"),  # Gemma
]
"""Name, opening and closing of each mark. A prompt may ask for tags with the names of _WORDS."""

_MARK = re.compile(
    "|".join(f"(?P<o{i}>{opens})|(?P<c{i}>{closes})" for i, (_, opens, closes) in enumerate(_MARKS)),
    re.IGNORECASE,
)
_LIKELY = re.compile(
    r"[<\[◁](?=[|/]{0,2}(?:think|thought|reason|analysis|scratch|reflect|inner_|seed:|mm:|ant|unused9|channel"
    r"|begin_of|end_of|start_|end_))",
    re.IGNORECASE,
)
"""Possible places of a mark. Matching _MARK only there is a hundred times as fast as searching for it."""
_OPENED = re.compile(f"(?:{'|'.join(opens for _, opens, _ in _MARKS)})\\s*$", re.IGNORECASE)
_AROUND_ANSWER = re.compile(
    r"^\s*<\|(?:begin_of_solution|START_RESPONSE|START_TEXT)\|>"
    r"|<\|(?:end_of_solution|END_RESPONSE|END_TEXT)\|>\s*$"
)
_CHANNEL = re.compile(
    r"(?:<\|start\|>[^<]*)?<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"|<\|start\|>assistant(?=<\|message\|>)"
)
_END_OF_MESSAGE = re.compile(r"<\|(?:end|return|call|start|channel)\|>.*", re.DOTALL)
_BARE_CHANNELS = re.compile(r"\s*analysis(?=[^\s\w]|[A-Z\d])(.*?)assistantfinal(.*)", re.DOTALL)
_BARE_THOUGHT = re.compile(r"\s*analysis(?:We|The|User|I|Let|Need|They|This|So|Just|Okay|It|You|Given)\b")


class Split(NamedTuple):
    """The reasoning, the answer, and whether the reasoning has ended; if not, there is no answer."""

    reasoning: str
    answer: str
    complete: bool = True


def split_reasoning(
    text: str, *, opened: bool = False, is_named: Callable[[str], bool] = lambda mark: False
) -> Split:
    """Return the reasoning in a text and the answer around it. Without reasoning, the answer is the text
    unchanged.

    `opened` says that the prompt ended inside reasoning. A tag that the request names, such as `<reasoning>`,
    is part of the answer, unless it is one of the <think> family; `is_named` tells whether the request names
    a tag.
    """
    if not opened and not any(sign in text for sign in SIGNS) and not text.lstrip().startswith("analysis"):
        return Split("", text)
    if "<|channel|>" in text and not is_named("<|channel|>"):
        return _split_channels(text)
    if bare := _BARE_CHANNELS.match(text):
        return Split(bare[1].strip(), bare[2].strip())
    if _BARE_THOUGHT.match(text):
        return Split(text.strip().removeprefix("analysis"), "", complete=False)
    return _split_marks(text, opened, is_named)


def opens_thought(text: str) -> bool:
    """Return whether a prompt ends with an opening mark, so that the answer starts with reasoning."""
    return bool(_OPENED.search(text[-60:]))


def _split_marks(text: str, opened: bool, is_named: Callable[[str], bool]) -> Split:
    """Split at the marks. Text between an opening and the next closing mark is reasoning; so is all text
    before a closing mark without an opening.
    """
    thoughts, answers, quoted = list[str](), list[str](), set[str]()
    inside, at = opened, 0
    for mark in filter(None, (_MARK.match(text, likely.start()) for likely in _LIKELY.finditer(text))):
        kind = str(mark.lastgroup)
        name, opens = _MARKS[int(kind[1:])][0], kind[0] == "o"
        if inside:
            if not opens and not _is_quoted(text, mark):
                thoughts.append(text[at : mark.start()])
                inside, at = False, mark.end()
            elif opens and not text[at : mark.start()].strip():  # the model repeats the opening of the prompt
                at = mark.end()
        elif not _is_mark(text, mark, name, at, is_named) or (
            opens and not _opens(text, mark, kind, name, at, is_named)
        ):
            quoted.add(kind[1:])
        elif opens:
            answers.append(text[at : mark.start()])
            inside, at = True, mark.end()
        elif kind[1:] not in quoted:
            thoughts += [*answers, text[at : mark.start()]]
            answers, at = [], mark.end()
    (thoughts if inside else answers).append(text[at:])
    if not thoughts:
        return Split("", text)
    answer = _AROUND_ANSWER.sub("", "".join(answers)).strip()
    return Split("\n".join(filter(None, (thought.strip() for thought in thoughts))), answer, not inside)


def _is_quoted(text: str, mark: re.Match[str]) -> bool:
    around = text[max(0, mark.start() - 1) : mark.start()] + text[mark.end() : mark.end() + 1]
    return around in ("``", '""', "''")


def _is_mark(text: str, mark: re.Match[str], name: str, at: int, is_named: Callable[[str], bool]) -> bool:
    """Return whether the model uses a mark as such: not quoted, not in a block of code, not a tag that the
    request names.
    """
    in_code = text.count("```", at, mark.start()) % 2 == text.count("```", mark.end()) % 2 == 1
    return (
        not _is_quoted(text, mark)
        and not in_code
        and (name in _CERTAIN or not is_named(mark[0].strip("</>[] ")))
    )


def _opens(
    text: str, mark: re.Match[str], kind: str, name: str, at: int, is_named: Callable[[str], bool]
) -> bool:
    """Return whether an opening mark starts reasoning.

    It does at the start of a line, and, if it is of the <think> family, within a line between spaces, if it
    is closed and the request does not name it. A word of _WORDS that is not closed must be at the start of
    the answer.
    """
    before, is_certain = text[at : mark.start()], name in _CERTAIN
    if is_certain and not before.rpartition("\n")[2].strip():
        return True
    if not is_certain and mark[0][0] == "<" and not text[: mark.start()].strip():
        return True
    alone = is_certain and before[-1:].isspace() and not is_named(mark[0].strip("</>[] "))
    line_begins = not before.rpartition("\n")[2].strip()
    closes = re.compile(_MARKS[int(kind[1:])][2], re.IGNORECASE)
    return (alone or line_begins) and bool(closes.search(text, mark.end()))


def _split_channels(text: str) -> Split:
    """Split messages of gpt-oss: those of the final channel are the answer, the others are reasoning."""
    before, *messages = _CHANNEL.split(text)
    channels = [channel or "final" for channel in messages[::2]]
    bodies = [_END_OF_MESSAGE.sub("", body.removeprefix("<|message|>")).strip() for body in messages[1::2]]
    thoughts = [_END_OF_MESSAGE.sub("", before).strip()]
    thoughts += [body for channel, body in zip(channels, bodies, strict=True) if channel != "final"]
    answer = "\n".join(body for channel, body in zip(channels, bodies, strict=True) if channel == "final")
    return Split("\n".join(filter(None, thoughts)), answer, "final" in channels)
