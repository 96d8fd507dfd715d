"""Where a model's thought ends and its answer begins, in a text that holds both.

Endpoints and chat templates leave thought in an answer in many forms: tags, square brackets, special tokens
of one model family, gpt-oss's channels, and closing tags whose opening stood in the prompt. All teachers read
them here, in one way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

SIGNS = "<[◁"
"""A text that holds none of them, and does not begin with "analysis", holds no thought."""
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
"""Each mark's name, how it opens and how it closes. Those of _WORDS are also words that a prompt's own form
may use.
"""

_MARK = re.compile(
    "|".join(f"(?P<o{i}>{opens})|(?P<c{i}>{closes})" for i, (_, opens, closes) in enumerate(_MARKS)),
    re.IGNORECASE,
)
_LIKELY = re.compile(
    r"[<\[◁](?=[|/]{0,2}(?:think|thought|reason|analysis|scratch|reflect|inner_|seed:|mm:|ant|unused9|channel"
    r"|begin_of|end_of|start_|end_))",
    re.IGNORECASE,
)
"""Where a mark can stand: a hundred times as fast as to look for every mark at every character."""
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
    """A thought, the answer after it, and whether the thought has ended; one that has not is no answer."""

    reasoning: str
    answer: str
    whole: bool = True


def split_reasoning(
    text: str, *, opened: bool = False, named: Callable[[str], bool] = lambda mark: False
) -> Split:
    """The thought in `text` and the answer around it, which is `text` as it is where there is no thought.

    `opened` says that the prompt ended within a thought. A tag that the request itself has `named`, such as
    `<reasoning>`, is the form that it asks for and no thought, unless it is one of <think>'s family.
    """
    if not opened and not any(sign in text for sign in SIGNS) and not text.lstrip().startswith("analysis"):
        return Split("", text)
    if "<|channel|>" in text and not named("<|channel|>"):
        return _split_channels(text)
    if bare := _BARE_CHANNELS.match(text):
        return Split(bare[1].strip(), bare[2].strip())
    if _BARE_THOUGHT.match(text):
        return Split(text.strip().removeprefix("analysis"), "", whole=False)
    return _split_marks(text, opened, named)


def opens_thought(text: str) -> bool:
    """Whether a prompt ends with the opening of a thought, so that what comes next is one."""
    return bool(_OPENED.search(text[-60:]))


def _split_marks(text: str, opened: bool, named: Callable[[str], bool]) -> Split:
    """Walk over the marks: what stands between an opening and the next closing one is thought, and so is all
    that stands before a closing one that nothing opened.
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
            elif opens and not text[at : mark.start()].strip():  # the model opens what the prompt has opened
                at = mark.end()
        elif not _is_mark(text, mark, name, at, named) or (
            opens and not _opens(text, mark, kind, name, at, named)
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


def _is_mark(text: str, mark: re.Match[str], name: str, at: int, named: Callable[[str], bool]) -> bool:
    """Whether a mark is one of the model's, and not spoken of: quoted, in a block of code, or a tag of the
    form asked for.
    """
    in_code = text.count("```", at, mark.start()) % 2 == text.count("```", mark.end()) % 2 == 1
    return (
        not _is_quoted(text, mark)
        and not in_code
        and (name in _CERTAIN or not named(mark[0].strip("</>[] ")))
    )


def _opens(
    text: str, mark: re.Match[str], kind: str, name: str, at: int, named: Callable[[str], bool]
) -> bool:
    """Whether an opening mark opens a thought: where it begins a line, or within a line if it is <think>,
    stands alone, is closed again and the request does not speak of it. A word in tags that is not closed must
    be the first of the answer.
    """
    before, certain = text[at : mark.start()], name in _CERTAIN
    if certain and not before.rpartition("\n")[2].strip():
        return True
    if not certain and mark[0][0] == "<" and not text[: mark.start()].strip():
        return True
    alone = certain and before[-1:].isspace() and not named(mark[0].strip("</>[] "))
    line_begins = not before.rpartition("\n")[2].strip()
    closes = re.compile(_MARKS[int(kind[1:])][2], re.IGNORECASE)
    return (alone or line_begins) and bool(closes.search(text, mark.end()))


def _split_channels(text: str) -> Split:
    """gpt-oss's messages, of which only the final channel's are the answer."""
    before, *messages = _CHANNEL.split(text)
    channels = [channel or "final" for channel in messages[::2]]
    bodies = [_END_OF_MESSAGE.sub("", body.removeprefix("<|message|>")).strip() for body in messages[1::2]]
    thoughts = [_END_OF_MESSAGE.sub("", before).strip()]
    thoughts += [body for channel, body in zip(channels, bodies, strict=True) if channel != "final"]
    answer = "\n".join(body for channel, body in zip(channels, bodies, strict=True) if channel == "final")
    return Split("\n".join(filter(None, thoughts)), answer, "final" in channels)
